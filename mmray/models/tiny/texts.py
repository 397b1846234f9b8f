"""Tiny checkpoints of the networks for text."""

from pathlib import Path

import numpy as np

from mmray.models.tiny.parts import TEXT_SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet


def make_sbert(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as sentence-transformers/all-MiniLM-L6-v2 has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{sign}" for sign in characters)]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)}, model_max_length=48)
    tokenizer.save_pretrained(target)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **TEXT_SIZE)
    with quiet():
        BertModel(config).save_pretrained(target)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    write_json(target / "modules.json", modules)
    write_json(target / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    pooling = {"word_embedding_dimension": TEXT_SIZE["hidden_size"], "pooling_mode_mean_tokens": True}
    write_json(target / "1_Pooling" / "config.json", pooling)
