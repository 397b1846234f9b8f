"""A tiny Auffusion: Stable Diffusion's folder, and a vocoder in it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.models import hifigan, mel_image
from mmray.models.tiny.diffusion import make_stable_diffusion
from mmray.models.tiny.parts import write_json

# As in the published config.json, but narrow.
VOCODER: dict[str, Any] = {
    "resblock": "1",
    "num_mels": mel_image.BANDS,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
}
QUIET = 0.2  # lengths of the first and the last weights, so that the sound is not all at its limits


def make_auffusion(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as auffusion/auffusion-full-no-adapter has it on the hub."""
    torch.manual_seed(int(random.randint(2**31)))  # not the networks of the tiny Stable Diffusion
    make_stable_diffusion(target, random)
    make_vocoder(target / "vocoder", random)


def make_vocoder(target: Path, random: np.random.RandomState) -> None:
    """Write ``config.json`` and ``vocoder.pt``, whose weights are kept as norm and direction."""
    write_json(target / "config.json", VOCODER)
    found = {}
    for name, place in hifigan.HifiGan(hifigan.HifiGanSettings.read(target / "config.json")).state_dict().items():
        if name.endswith("bias"):
            found[name] = _drawn(random, place.shape) * 0.05
        else:
            found[f"{name}_v"] = _drawn(random, place.shape)
            found[f"{name}_g"] = torch.full((place.shape[0], 1, 1), QUIET if name.startswith("conv_p") else 1.5)
    torch.save({"generator": found}, target / "vocoder.pt")


def _drawn(random: np.random.RandomState, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))
