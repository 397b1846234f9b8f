"""A tiny YOLOv7-tiny, pickled as the authors' release is: a tree of modules under the class names of their code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from mmray.models.boxes import ANCHORS_PX, STRIDES
from mmray.models.labels import COCO
from mmray.models.yolov7 import EPSILON
from mmray.models.yolov7_file import ANCHORS, ARCHITECTURES, BOX, Layer

NARROWER = 8  # than the real one: 32 channels become 4
# Of the head: few boxes are sure of anything, but what a picture shows moves all of them.
OBJECTNESS, CLASSES, GAIN = -4.0, -3.0, 11.0


def make_yolov7(target: Path, random: np.random.RandomState) -> None:
    """Write a release: a dictionary whose ``model`` is a pickled module in half precision."""
    del random  # torch draws
    layers = ARCHITECTURES["yolov7_tiny"]
    with _published_classes() as classes:
        model = classes["Model"]()
        widths = {-1: 3}
        parts = []
        narrow = iter(_widths())
        for number, layer in enumerate(layers):
            sources = [widths[source] for source in layer.sources]
            widths[number] = next(narrow) if layer.kind == "conv" else sum(sources)
            parts.append(_part(classes, layer, sources, widths[number]))
        model.model = nn.Sequential(*parts)
        vars(model)["names"] = list(COCO)
        torch.save({"model": model.half(), "optimizer": None, "epoch": -1}, target / "yolov7-tiny.pt")


def _widths() -> list[int]:
    """Return the outputs of every convolution, in the order of the layers."""

    def block(inner: int, out: int) -> list[int]:
        return [inner] * 4 + [out]

    real = [32, 64, *block(32, 64), *block(64, 128), *block(128, 256), *block(256, 512), 256, 256, 256, 256]
    real += [128, 128, *block(64, 128), 64, 64, *block(32, 64), 128, *block(64, 128), 256, *block(128, 256)]
    return [width // NARROWER for width in [*real, 128, 256, 512]]


def _part(classes: dict[str, type[nn.Module]], layer: Layer, sources: list[int], out: int) -> nn.Module:
    if layer.kind == "conv":
        part = classes["Conv"]()
        part.conv = nn.Conv2d(sources[0], out, layer.size, layer.step, layer.size // 2, bias=False)
        nn.init.kaiming_normal_(part.conv.weight)  # keeps the variance from layer to layer
        part.bn = nn.BatchNorm2d(out, eps=EPSILON)
        part.act = nn.LeakyReLU(0.1, inplace=True)
        return part
    if layer.kind == "head":
        return _head(classes["Detect"](), sources)
    if layer.kind == "max":
        return nn.MaxPool2d(layer.size, layer.step, layer.size // 2 if layer.step == 1 else 0)
    return nn.Upsample(scale_factor=layer.size) if layer.kind == "up" else classes["Concat"]()


def _head(part: nn.Module, sources: list[int]) -> nn.Module:
    part.m = nn.ModuleList([nn.Conv2d(width, ANCHORS * (BOX + len(COCO)), 1) for width in sources])
    for convolution in part.m:
        assert isinstance(convolution, nn.Conv2d)
        nn.init.normal_(convolution.weight, std=GAIN / convolution.in_channels**0.5)
        bias = torch.zeros(ANCHORS, BOX + len(COCO))
        bias[:, BOX - 1], bias[:, BOX:] = OBJECTNESS, CLASSES
        convolution.bias = nn.Parameter(bias.flatten())
    anchors_px = torch.tensor(ANCHORS_PX["yolov7_tiny"], dtype=torch.float32)
    part.register_buffer("anchors", anchors_px / torch.tensor(STRIDES).view(-1, 1, 1))
    part.register_buffer("anchor_grid", anchors_px.view(len(STRIDES), 1, ANCHORS, 1, 1, 2))
    return part


@contextmanager
def _published_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Lend empty classes under the names of the authors' code, as long as pickle needs to find them."""
    names = {"models.yolo": ("Model", "Detect"), "models.common": ("Conv", "Concat")}
    modules = {name: ModuleType(name) for name in ("models", *names)}
    classes = {}
    for module, inside in names.items():
        for name in inside:
            classes[name] = type(name, (nn.Module,), {"__module__": module})
            setattr(modules[module], name, classes[name])
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)
