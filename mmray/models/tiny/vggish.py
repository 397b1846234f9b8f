"""A tiny VGGish, and a quantiser for it."""

from pathlib import Path

import numpy as np
import torch

from mmray.models import vggish

WIDTHS = [4, 4, 8, 8, 8, 8, 32, 32]


def make_vggish(target: Path, random: np.random.RandomState) -> None:
    """Write a file as torchvggish's vggish-10086976.pth is, with narrow layers."""
    tensors = {}
    for name, place in vggish.VggishNet(WIDTHS).state_dict().items():
        spread = 0.05 if name.endswith("bias") else np.sqrt(2 / np.prod(place.shape[1:]))  # keeps the variance
        tensors[name] = torch.from_numpy((random.standard_normal(place.shape) * spread).astype(np.float32))
    torch.save(tensors, target / "vggish.pth")


def make_vggish_pca(target: Path, random: np.random.RandomState) -> None:
    """Write a file as Google's vggish_pca_params.npz is: a rotation, and means."""
    side = vggish.EMBEDDING
    rotation, _ = np.linalg.qr(random.standard_normal((side, side)))
    np.savez(target / "vggish_pca_params.npz", pca_eigen_vectors=rotation, pca_means=random.standard_normal(side) * 0.1)
