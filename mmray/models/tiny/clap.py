"""Tiny CLAPs, of both kinds."""

from pathlib import Path
from typing import Any

import numpy as np

from mmray.models.tiny.parts import SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

FRONT_END: dict[str, Any] = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "fft_window_size": 1024,
    "hop_length": 480,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "max_length_s": 10,
    "padding": "repeatpad",
}


def make_clap(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as laion/clap-htsat-unfused has it on the hub."""
    del random
    _write(target, {}, "rand_trunc")


def make_clap_fused(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as laion/clap-htsat-fused has it on the hub."""
    del random
    _write(target, {"enable_fusion": True, "fusion_type": "aff_2d"}, "fusion")


def words() -> Any:
    """Return a tokenizer of single bytes, 64 of them."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=64)


def config(fusion: dict[str, Any]) -> Any:
    """Return the configuration of both towers."""
    from transformers import ClapConfig

    text = {**SIZE, "vocab_size": 261, "max_position_embeddings": 66}
    # 256 x 256 for 1024 frames of 64 bands, as the published networks have it: the library takes nothing smaller.
    sound = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [2, 2],
        "num_attention_heads": [2, 2],
        **fusion,
    }
    return ClapConfig(text_config=text, audio_config=sound, projection_dim=24)


def _write(target: Path, fusion: dict[str, Any], truncation: str) -> None:
    ensure_torchaudio()
    from transformers import ClapModel

    words().save_pretrained(target)
    model: Any = ClapModel(config(fusion))
    normalisation = model.audio_model.audio_encoder.batch_norm
    normalisation.running_mean.fill_(-40.0)  # dB
    normalisation.running_var.fill_(400.0)
    with quiet():
        model.save_pretrained(target)
    kind = {"feature_extractor_type": "ClapFeatureExtractor", "processor_class": "ClapProcessor"}
    write_json(target / "preprocessor_config.json", {**kind, **FRONT_END, "truncation": truncation})
