"""YOLOv7 and YOLOv7-tiny in torch, from the authors' own files.

Source: Wang, Bochkovskiy & Liao 2022, YOLOv7. Written anew from the published architecture and the names and shapes of
the release; none of the authors' code (GPL-3.0) is in here. What training needs and prediction does not is folded into
plain convolutions when it is loaded: batch normalisation (epsilon 1e-3), re-parameterised branches (RepConv), implicit
knowledge (the IDetect head). Parity with the original: see tests/models/test_yolov7.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmray.models import boxes
from mmray.models.torch_setup import whole_float32
from mmray.models.yolov7_file import ANCHORS, ARCHITECTURES, Arrays, Checkpoint, Layer

EPSILON = 1e-3
STRIDES = boxes.STRIDES
POOLS = (5, 9, 13)  # of SPPCSPC

Doubles = npt.NDArray[np.float64]
Grid = tuple[Tensor, Tensor]


class YoloV7(nn.Module):
    """Pictures (n, 3, h, w), RGB 0 to 1, sides multiples of 32, to rows (n, 3 x cells, 5 + classes) in pixels.

    A row is (x, y, width, height of the box's centre, objectness, one score per class); see ``boxes``.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        whole_float32()
        self.layers = ARCHITECTURES[checkpoint.architecture]
        arrays = checkpoint.arrays()
        activation = nn.SiLU(inplace=True) if checkpoint.architecture == "yolov7" else nn.LeakyReLU(0.1, inplace=True)
        build = _Builder(arrays, activation)
        self.parts = nn.ModuleList([build(f"model.{number}", layer) for number, layer in enumerate(self.layers)])
        # No buffer: it stays exact whatever precision the weights get.
        self._anchors_px = _anchors_px(arrays, checkpoint.architecture, len(self.layers) - 1)
        self._grids: dict[tuple[torch.device, tuple[torch.Size, ...]], list[Grid]] = {}
        # A layer's output is let go behind its last reader: that is most of the memory.
        self.readers = {source: number for number, layer in enumerate(self.layers) for source in layer.sources}
        # A quarter faster on a CPU than channels first.
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the decoded rows, float32."""
        maps = self.raw(pictures)
        key = pictures.device, tuple(raw.shape[2:] for raw in maps)
        if key not in self._grids:
            self._grids[key] = grids(maps, self._anchors_px)
        return decoded(maps, self._grids[key])

    def raw(self, pictures: Tensor) -> list[Tensor]:
        """Return the three maps (n, 3 x (5 + classes), h, w) of the head."""
        outputs: dict[int, Any] = {-1: pictures.contiguous(memory_format=torch.channels_last)}
        for number, (layer, part) in enumerate(zip(self.layers, self.parts, strict=True)):
            outputs[number] = part(*(outputs[source] for source in layer.sources))
            for source in layer.sources:
                if self.readers[source] == number:
                    del outputs[source]
        maps: list[Tensor] = outputs[len(self.layers) - 1]
        return maps


class _Concat(nn.Module):
    def forward(self, *found: Tensor) -> Tensor:
        """Join maps along their channels."""
        return torch.cat(found, 1)


class _Head(nn.ModuleList):
    def forward(self, *found: Tensor) -> list[Tensor]:
        """Return one raw map per level."""
        return [convolution(x) for convolution, x in zip(self, found, strict=True)]


class _Sppcspc(nn.ModuleList):
    """Maxima over three sizes of windows, beside a plain 1 x 1 convolution; the parts are cv1 to cv7."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of cv7."""
        cv1, cv2, cv3, cv4, cv5, cv6, cv7 = self
        deep = cv4(cv3(cv1(x)))
        pooled = [F.max_pool2d(deep, size, 1, size // 2) for size in POOLS]
        joined: Tensor = cv7(torch.cat([cv6(cv5(torch.cat([deep, *pooled], 1))), cv2(x)], 1))
        return joined


class _Builder:
    """Makes the module of a layer from a file's arrays."""

    def __init__(self, arrays: Arrays, activation: nn.Module) -> None:
        self._arrays, self._activation = arrays, activation

    def __call__(self, name: str, layer: Layer) -> nn.Module:
        if layer.kind == "conv":
            return self._activated(f"{name}.conv", f"{name}.bn", layer.step)
        if layer.kind == "rep":
            return nn.Sequential(_convolution(*_rep(self._arrays, name)), self._activation)
        if layer.kind == "sppcspc":
            parts = (f"{name}.cv{number}" for number in range(1, 8))
            return _Sppcspc([self._activated(f"{part}.conv", f"{part}.bn") for part in parts])
        if layer.kind == "head":
            return _Head([_convolution(*_head(self._arrays, name, level)) for level in range(len(STRIDES))])
        if layer.kind == "max":
            return nn.MaxPool2d(layer.size, layer.step, layer.size // 2 if layer.step == 1 else 0)
        return nn.Upsample(scale_factor=layer.size) if layer.kind == "up" else _Concat()

    def _activated(self, name: str, norm: str, step: int = 1) -> nn.Module:
        return nn.Sequential(_convolution(*_folded(self._arrays, name, norm), step), self._activation)


def grids(maps: Sequence[Tensor], anchors_px: Tensor) -> list[Grid]:
    """Return for each raw map its cells (h, w, 2) as x, y, and of the anchors (3, 3, 2) its own, (3, 1, 1, 2)."""
    found = []
    for raw, anchors in zip(maps, anchors_px, strict=True):
        y, x = torch.meshgrid(*(torch.arange(side, device=raw.device) for side in raw.shape[2:]), indexing="ij")
        found.append((torch.stack([x, y], -1), anchors[:, None, None, :].to(raw.device)))
    return found


def decoded(maps: Sequence[Tensor], places: Sequence[Grid]) -> Tensor:
    """Decode raw maps (n, 3 x channels, h, w) with their ``grids`` to rows (n, 3 x cells, channels), float32."""
    rows = []
    for raw, (cells, anchors), stride in zip(maps, places, STRIDES, strict=True):
        batch, channels, height, width = raw.shape
        shape = (batch, ANCHORS, channels // ANCHORS, height, width)
        scores = raw.float().reshape(shape).permute(0, 1, 3, 4, 2).sigmoid()
        scores[..., :2] = (2 * scores[..., :2] - 0.5 + cells) * stride
        scores[..., 2:4] = (2 * scores[..., 2:4]) ** 2 * anchors
        rows.append(scores.reshape(batch, -1, channels // ANCHORS))
    return torch.cat(rows, 1)


def _anchors_px(arrays: Arrays, architecture: str, head: int) -> Tensor:
    """Return the anchors (3, 3, 2) that a file was trained with, the authors' where it has none."""
    found = arrays.get(f"model.{head}.anchor_grid")
    own = found is not None and found.size == ANCHORS * len(STRIDES) * 2
    return torch.tensor(np.array(found if own else boxes.ANCHORS_PX[architecture], np.float32).reshape(3, ANCHORS, 2))


def _folded(arrays: Arrays, name: str, norm: str) -> tuple[Doubles, Doubles]:
    """Return weight and bias of a convolution with what normalises it folded in."""
    weight = arrays[f"{name}.weight"].astype(np.float64)
    bias = arrays.get(f"{name}.bias", np.zeros(len(weight))).astype(np.float64)
    if f"{norm}.running_mean" in arrays:
        scale, shift = _norm(arrays, norm)
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift
    return weight, bias


def _norm(arrays: Arrays, name: str) -> tuple[Doubles, Doubles]:
    weight, bias, mean, variance = (
        arrays[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - mean * scale


def _rep(arrays: Arrays, name: str) -> tuple[Doubles, Doubles]:
    """Return the one 3 x 3 convolution that a RepConv's branches add up to."""
    if f"{name}.rbr_reparam.weight" in arrays:
        return _folded(arrays, f"{name}.rbr_reparam", "")
    weight, bias = _folded(arrays, f"{name}.rbr_dense.0", f"{name}.rbr_dense.1")
    point, shift = _folded(arrays, f"{name}.rbr_1x1.0", f"{name}.rbr_1x1.1")
    weight[:, :, 1:2, 1:2] += point
    bias += shift
    if f"{name}.rbr_identity.weight" in arrays:
        scale, shift = _norm(arrays, f"{name}.rbr_identity")
        weight[range(len(scale)), range(len(scale)), 1, 1] += scale
        bias += shift
    return weight, bias


def _head(arrays: Arrays, name: str, level: int) -> tuple[Doubles, Doubles]:
    """Return the last convolution of a level, with what it learnt beside it: im x conv(ia + x)."""
    weight, bias = _folded(arrays, f"{name}.m.{level}", "")
    if (added := arrays.get(f"{name}.ia.{level}.implicit")) is not None:
        bias = bias + weight[:, :, 0, 0] @ added.reshape(-1).astype(np.float64)
    if (factor := arrays.get(f"{name}.im.{level}.implicit")) is not None:
        weight, bias = weight * factor.reshape(-1, 1, 1, 1), bias * factor.reshape(-1)
    return weight, bias


def _convolution(weight: Doubles, bias: Doubles, step: int = 1) -> nn.Conv2d:
    out, width, size, _ = weight.shape
    with torch.device("meta"):  # no time for random numbers
        layer = nn.Conv2d(width, out, size, step, size // 2)
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight, np.float32)), requires_grad=False)
    layer.bias = nn.Parameter(torch.from_numpy(bias.astype(np.float32)), requires_grad=False)
    return layer
