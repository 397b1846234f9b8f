"""Tiny checkpoints of what listens to speech."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmray.models.onnx_file import Node, Side, model
from mmray.models.tiny.parts import write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

LANGUAGES = ("<|en|>", "<|zh|>", "<|de|>")
TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", *LANGUAGES, *TASKS)
STAMPS = 1501  # <|0.00|> to <|30.00|>
LONGEST = 64  # tokens
SIZE = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}
PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def make_whisper(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as openai/whisper-small has it on the hub: letters for words, a decoder of 64 tokens."""
    del random
    ensure_torchaudio()
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = _words(target)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    size: dict[str, Any] = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in SIZE.items()}
    tokens: dict[str, Any] = {
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": start,
    }
    config = WhisperConfig(
        vocab_size=len(ids) + STAMPS, d_model=16, max_target_positions=LONGEST, **size, **tokens, num_mel_bins=80
    )
    net = WhisperForConditionalGeneration(config)
    _speak_up(net, len(ids))
    with quiet():
        net.save_pretrained(target)
    said = {*string.ascii_letters, "Ġ", "<|endoftext|>", "<|notimestamps|>"}
    generation = {
        **tokens,
        "begin_suppress_tokens": [ids["Ġ"], end],
        "suppress_tokens": [place for word, place in ids.items() if word not in said],
        "is_multilingual": True,
        "lang_to_id": {name: ids[name] for name in LANGUAGES},
        "task_to_id": {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,
        "max_length": LONGEST,
        "return_timestamps": False,
        "alignment_heads": [[1, 0]],
    }
    write_json(target / "generation_config.json", generation)
    write_json(target / "preprocessor_config.json", PREPROCESSOR)


def _words(target: Path) -> dict[str, int]:
    """Write the tokenizer: letters, special tokens, and behind them the timestamps; return all but those."""
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperTokenizer

    letters = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=letters, merges=[], model_max_length=LONGEST)
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    stamps = [f"<|{place * 0.02:.2f}|>" for place in range(STAMPS)]
    tokenizer.add_tokens([AddedToken(stamp, special=False, normalized=False) for stamp in stamps])
    tokenizer.save_pretrained(target)
    return letters | {word: len(letters) + place for place, word in enumerate(SPECIALS)}


def _speak_up(net: Any, first_stamp: int) -> None:
    """Scale fresh weights, which all but cancel each other, until what is heard decides what is said."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.dim() > 1 and name != "model.encoder.embed_positions.weight":  # fixed sinusoids
                weight *= 40.0 if "embed" in name else 25.0
        net.model.decoder.embed_tokens.weight[first_stamp:] *= 0.3  # or times, being many, outweigh all words


def make_gate(target: Path, random: np.random.RandomState) -> None:
    """Write a network with the inputs and outputs of Silero VAD 5, which takes whatever is loud for speech."""
    constants: dict[str, npt.NDArray[Any]] = {
        "quiet": np.array(0.001, np.float32),  # mean square: -30 dB of full scale
        "steep": np.array(5_000 + 100 * random.random_sample(), np.float32),
    }
    nodes = [
        Node("Mul", ["input", "input"], ["squares"]),
        Node("ReduceMean", ["squares"], ["power"], {"axes": [1], "keepdims": 1}),
        Node("Sub", ["power", "quiet"], ["excess"]),
        Node("Mul", ["excess", "steep"], ["logit"]),
        Node("Sigmoid", ["logit"], ["output"]),
        Node("Identity", ["state"], ["stateN"]),
    ]
    state: list[Side] = [2, "batch", 128]
    inputs: dict[str, list[Side]] = {"input": ["batch", "sequence"], "state": state, "sr": []}
    outputs: dict[str, list[Side]] = {"output": ["batch", 1], "stateN": state}
    (target / "silero_vad.onnx").write_bytes(model(nodes, constants, inputs, outputs, whole={"sr"}))
