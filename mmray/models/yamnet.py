"""YAMNet in torch, from Google's own yamnet.h5.

Source: Plakal & Ellis, tensorflow/models research/audioset/yamnet (Apache-2.0), rebuilt from its published numbers:
MobileNet v1 without width multiplier, batch normalisation without scale (epsilon 1e-4), TensorFlow's SAME padding.
Parity with TensorFlow 2.21: see tests/models/test_yamnet.py.
"""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.models.mel import MelSettings
from mmray.models.torch_setup import whole_float32

MEL = MelSettings()
PATCH_FRAMES, PATCH_HOP_FRAMES = 96, 48
CLASSES, EMBEDDING = 521, 1024
EPSILON = 1e-4
# (stride, channels) of the separable layers 2 to 14; layer 1 is a plain 3 x 3 convolution.
LAYERS = (
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512),
    (2, 1024), (1, 1024),
)  # fmt: skip

Arrays = dict[str, npt.NDArray[np.float32]]


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of the file, as Keras writes them, the head called ``logits``."""
    found: dict[str, tuple[int, ...]] = {}

    def add(layer: str, kernel: str, shape: tuple[int, ...], channels: int) -> None:
        found[f"{layer}/{kernel}"] = shape
        found.update({f"{layer}/bn/{name}": (channels,) for name in ("beta", "moving_mean", "moving_variance")})

    add("layer1/conv", "kernel", (3, 3, 1, 32), 32)
    width = 32
    for number, (_, channels) in enumerate(LAYERS, start=2):
        add(f"layer{number}/depthwise_conv", "depthwise_kernel", (3, 3, width, 1), width)
        add(f"layer{number}/pointwise_conv", "kernel", (1, 1, width, channels), channels)
        width = channels
    return found | {"logits/kernel": (EMBEDDING, CLASSES), "logits/bias": (CLASSES,)}


def read_h5(path: Path) -> Arrays:
    """Read the arrays of a Keras weights file by the names of ``shapes``; ConfigError where it is not YAMNet's.

    The file nests each array below its layer's name (``layer1/conv/bn/layer1/conv/bn/beta:0``); the head is ``logits``
    in Google's file and ``dense`` in others.
    """
    found: Arrays = {}

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            parts = name.removesuffix(":0").split("/")
            for start in range(len(parts)):  # the shortest ending that is a known name: the rest repeats the layer
                found.setdefault("/".join(parts[start:]).replace("dense/", "logits/"), np.asarray(node, np.float32))

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is not a readable HDF5 file ({error}); YAMNet loads yamnet.h5") from error
    wrong = [name for name, shape in shapes().items() if name not in found or found[name].shape != shape]
    if wrong:
        raise ConfigError(
            f"{path}: is not YAMNet: {len(wrong)} of its arrays are missing or misshapen, {wrong[0]} first"
        )
    return {name: found[name] for name in shapes()}


class YamNet(nn.Module):
    """Log-mel patches (n, 96, 64) to scores (n, 521), sigmoid and multi-label, and embeddings (n, 1024)."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        whole_float32()
        self.convolutions = nn.ModuleList([_convolution(arrays, "layer1/conv", "kernel", 2)])
        for number, (stride, _) in enumerate(LAYERS, start=2):
            depthwise = _convolution(arrays, f"layer{number}/depthwise_conv", "depthwise_kernel", stride)
            self.convolutions += [depthwise, _convolution(arrays, f"layer{number}/pointwise_conv", "kernel", 1)]
        self.head = nn.Linear(EMBEDDING, CLASSES)
        _fill(self.head, arrays["logits/kernel"].T, arrays["logits/bias"])
        self.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, embeddings)."""
        x = patches[:, None].contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            if convolution.stride == (2, 2):  # SAME in TensorFlow: an even side is padded at its far end only
                x = F.pad(x, (0, 1, 0, 1))
            x = convolution(x).relu_()
        embeddings = x.mean((2, 3))
        return torch.sigmoid(self.head(embeddings)), embeddings


def _convolution(arrays: Arrays, layer: str, kernel: str, stride: int) -> nn.Conv2d:
    """Build a convolution with its batch normalisation folded in (in float64)."""
    beta, mean, variance = (
        arrays[f"{layer}/bn/{name}"].astype(np.float64) for name in ("beta", "moving_mean", "moving_variance")
    )
    weight = arrays[f"{layer}/{kernel}"].astype(np.float64)
    weight = weight.transpose(2, 3, 0, 1) if kernel == "depthwise_kernel" else weight.transpose(3, 2, 0, 1)
    scale = 1.0 / np.sqrt(variance + EPSILON)
    groups = len(beta) if kernel == "depthwise_kernel" else 1
    padding = 1 if weight.shape[-1] == 3 and stride == 1 else 0
    convolution = nn.Conv2d(weight.shape[1] * groups, len(beta), weight.shape[-1], stride, padding, groups=groups)
    _fill(convolution, weight * scale[:, None, None, None], beta - mean * scale)
    return convolution


def _fill(layer: nn.Conv2d | nn.Linear, weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating]) -> None:
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight, np.float32)), requires_grad=False)
    layer.bias = nn.Parameter(torch.from_numpy(np.ascontiguousarray(bias, np.float32)), requires_grad=False)
