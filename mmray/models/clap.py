"""The two towers of CLAP, each a function to vectors of unit length: a sound lies near the words that describe it.

Source: Wu et al. 2023, Large-scale contrastive language-audio pretraining, through transformers. Parity with ClapModel
and ClapProcessor: see tests/extractors/test_clap.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from mmray.errors import ConfigError
from mmray.models import hub, safetensors_file
from mmray.models.tokenizer import Tokenizer
from mmray.models.torch_setup import ensure_torchaudio
from mmray.models.vectors import Vectors, unit

SCALE = "logit_scale_a"
# Tables that the class makes itself; conversions of checkpoints drop them.
TABLES = ("text_model.embeddings.position_ids", "text_model.embeddings.token_type_ids")


class SoundTower:
    """Clips of sound, of at most ``max_length_s`` of the folder (10 s), to vectors (n, dim).

    Shorter clips are repeated or padded as the folder's own settings say.
    """

    def __init__(self, path: str, precision: str, device: str) -> None:
        ensure_torchaudio()
        from transformers import ClapConfig, ClapFeatureExtractor

        self._spectrogram = ClapFeatureExtractor.from_pretrained(path, local_files_only=True)
        self._longest = self._spectrogram.nb_max_samples
        config = ClapConfig.from_pretrained(path, local_files_only=True).audio_config
        self._model: Any = hub.load("ClapAudioModelWithProjection", path, precision, device, config=config)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[npt.NDArray[np.float32]]) -> Vectors:
        """Clips: float32 in [-1, 1] at the folder's rate, at least one sample each."""
        assert all(0 < clip.size <= self._longest for clip in clips)  # beyond, the library cuts at random
        rate_hz = self._spectrogram.sampling_rate
        features = self._spectrogram(list(clips), sampling_rate=rate_hz, return_tensors="pt")["input_features"]
        # What a fused model gets for a clip on its own; of several clips the library would draw one at random.
        longer = torch.ones(len(clips), 1, dtype=torch.bool)
        inputs = features.to(self._model.device, self._model.dtype)
        return unit(self._model(input_features=inputs, is_longer=longer.to(inputs.device)).audio_embeds)

    def whole(self, sound: npt.NDArray[np.float32], rate_hz: int) -> Vectors:
        """Return the vector (dim,) of a sound (samples,) of any length and rate: the mean over its clips of 10 s."""
        from torchaudio.functional import resample

        own_hz = self._spectrogram.sampling_rate
        samples = resample(torch.from_numpy(sound), rate_hz, own_hz).numpy()
        clips = [samples[start : start + self._longest] for start in range(0, samples.size, self._longest)]
        vectors = np.concatenate([self([clip]) for clip in clips])
        mean: Vectors = unit(torch.from_numpy(vectors.mean(0, keepdims=True)))[0]
        return mean


class TextTower:
    """Texts of at most ``tokenizer.limit`` tokens to vectors (n, ``dim``)."""

    def __init__(self, path: str, precision: str, device: str) -> None:
        ensure_torchaudio()
        from transformers import ClapConfig

        config: Any = ClapConfig.from_pretrained(path, local_files_only=True).text_config
        self._model: Any = hub.load(
            "ClapTextModelWithProjection", path, precision, device, unread=TABLES, config=config
        )
        self.tokenizer = Tokenizer(path, config, self._model.device)
        self.dim: int = config.projection_dim

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Vectors:
        """Embed texts as one batch."""
        return unit(self._model(**self.tokenizer(texts)).text_embeds)


def scale(path: str) -> float:
    """Return what the cosines of sounds with texts are multiplied with before a softmax."""
    for file in sorted(Path(path).glob("*.safetensors")):
        if SCALE in safetensors_file.header(file):
            with safe_open(file, "pt") as tensors:
                return float(tensors.get_tensor(SCALE).exp())
    raise ConfigError(f"{path}: {SCALE} is missing, without which cosines cannot be weighed")
