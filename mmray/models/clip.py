"""The two towers of CLIP, each a function to vectors of unit length: a picture lies near the words that describe it.

Source: Radford et al. 2021, through transformers. Parity with CLIPModel: see tests/extractors/test_clip.py.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmray.models import hub
from mmray.models.tokenizer import Tokenizer
from mmray.models.torch_setup import ensure_torchaudio
from mmray.models.vectors import Vectors, unit


class Towers:
    """A CLIPModel folder; ``dim``: of its vectors, ``scale``: what cosines are multiplied with before a softmax."""

    def __init__(self, path: str, precision: str, device: str) -> None:
        hub.config(path, "clip")
        self._path = path
        self._model: Any = hub.load("CLIPModel", path, precision, device)
        self.dim: int = self._model.config.projection_dim
        self.scale = float(self._model.logit_scale.detach().exp())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, whose ``limit`` texts must keep."""
        return Tokenizer(self._path, self._model.config.text_config, self._model.device)

    @cached_property
    def _prepare(self) -> Any:
        ensure_torchaudio()
        from transformers import CLIPImageProcessorPil

        return CLIPImageProcessorPil.from_pretrained(self._path, local_files_only=True)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Vectors:
        """Embed texts of at most ``tokenizer.limit`` tokens as one batch: (n, dim)."""
        return unit(_tensor(self._model.get_text_features(**self.tokenizer(texts))))

    @torch.inference_mode()
    def pixels(self, pixels: torch.Tensor) -> Vectors:
        """Embed prepared pictures (n, 3, side_px, side_px): (n, dim)."""
        pixels = pixels.to(self._model.device, self._model.dtype)
        return unit(_tensor(self._model.get_image_features(pixel_values=pixels)))

    def pictures(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        """Embed pictures, uint8 (height, width, 3) of any sizes, scaled by Pillow as the folder says: (n, dim)."""
        return self.pixels(self._prepare(list(pictures), return_tensors="pt")["pixel_values"])


def _tensor(features: Any) -> Any:
    """Return projected features themselves: transformers 5 wraps them, version 4 did not."""
    return getattr(features, "pooler_output", features)
