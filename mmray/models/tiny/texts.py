"""Tiny checkpoints of the networks for text."""

from pathlib import Path
from typing import Any

import numpy as np

from mmray.models.tiny.parts import SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet


def make_sbert(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as sentence-transformers/all-MiniLM-L6-v2 has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = _wordpieces()
    BertTokenizer(vocab=vocabulary, model_max_length=48).save_pretrained(target)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **SIZE)
    with quiet():
        BertModel(config).save_pretrained(target)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    write_json(target / "modules.json", modules)
    write_json(target / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    pooling = {"word_embedding_dimension": SIZE["hidden_size"], "pooling_mode_mean_tokens": True}
    write_json(target / "1_Pooling" / "config.json", pooling)


def make_distilbert(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as distilbert/distilbert-base-uncased has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import DistilBertConfig, DistilBertForMaskedLM, DistilBertTokenizer

    vocabulary = _wordpieces()
    DistilBertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(target)
    size: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = DistilBertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.2, **size)
    with quiet():
        DistilBertForMaskedLM(config).save_pretrained(target)


def make_zero_shot(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as facebook/bart-large-mnli has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import BartForSequenceClassification

    classes = ["contradiction", "neutral", "entailment"]
    config = _bart(target, id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)})
    with quiet():
        BartForSequenceClassification(config).save_pretrained(target)


def make_summary(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as facebook/bart-large-cnn has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import BartForConditionalGeneration

    with quiet():
        model = BartForConditionalGeneration(_bart(target))
        model.generation_config.update(  # type: ignore[no-untyped-call]
            num_beams=4, max_length=24, min_length=8, no_repeat_ngram_size=3, length_penalty=2.0, early_stopping=True,
            forced_bos_token_id=0,
        )  # fmt: skip
        model.save_pretrained(target)


def _wordpieces() -> dict[str, int]:
    """Return a vocabulary of single characters, at the start of a word and inside."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{sign}" for sign in characters)]
    return {word: place for place, word in enumerate(words)}


def _bart(target: Path, **settings: Any) -> Any:
    """Write a tokenizer of single bytes and return the configuration of a BART that reads 128 of them."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import BartConfig, BartTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    BartTokenizer(vocab=vocabulary, merges=[], model_max_length=128).save_pretrained(target)
    halves: dict[str, Any] = {
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in {"layers": 1, "attention_heads": 4, "ffn_dim": 64}.items()
    }
    # init_std: with the usual 0.02 all words are about equally likely, and a search has nothing to hold on to.
    return BartConfig(
        vocab_size=len(words), d_model=32, max_position_embeddings=128, init_std=0.2, **halves, **settings
    )
