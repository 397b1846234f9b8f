"""What a YOLOv7 file holds, told without torch: the architecture, the classes, every tensor's shape.

The same names stand in the authors' release (``.pt``, read by ``pickled``), in a saved state dictionary and in
safetensors: ``model.<layer>.conv.weight`` ... of the layers that ``ARCHITECTURES`` lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.models import safetensors_file
from mmray.models.pickled import Pickled

Kind = Literal["conv", "rep", "sppcspc", "max", "up", "concat", "head"]
ANCHORS = 3  # of each cell
NORM = ("weight", "bias", "running_mean", "running_var")
BOX = 5  # x, y, width, height, objectness: before the classes' scores


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of an architecture: its kind, the layers it reads, and for windows their size and step."""

    kind: Kind
    sources: tuple[int, ...]
    size: int = 1
    step: int = 1


@dataclass
class _Plan:
    """Layers in the order of their numbers; every method adds some and returns the number of the last."""

    layers: list[Layer] = field(default_factory=list)

    def add(self, kind: Kind, sources: Sequence[int], size: int = 1, step: int = 1) -> int:
        self.layers.append(Layer(kind, tuple(sources), size, step))
        return len(self.layers) - 1

    def conv(self, source: int, size: int = 1, step: int = 1) -> int:
        return self.add("conv", [source], size, step)

    def elan(self, source: int, depth: int, seen: Sequence[int]) -> int:
        """Chain ``depth`` 3 x 3 convolutions on the second of two 1 x 1; join the first and the ``seen`` links."""
        first = self.conv(source)
        links = [self.conv(source)]
        for _ in range(depth):
            links.append(self.conv(links[-1], 3))
        return self.conv(self.add("concat", [*(links[place] for place in seen), first]))

    def down(self, source: int, *joined: int) -> int:
        """Halve the sides twice over, by a maximum and by a step, and join both."""
        pooled = self.conv(self.add("max", [source], 2, 2))
        stepped = self.conv(self.conv(source), 3, 2)
        return self.add("concat", [stepped, pooled, *joined])

    def up(self, source: int, beside: int) -> int:
        """Double the sides, and join a finer layer."""
        doubled = self.add("up", [self.conv(source)], 2)
        return self.add("concat", [self.conv(beside), doubled])


def _yolov7() -> tuple[Layer, ...]:
    plan = _Plan()
    backbone, head = (4, [4, 2, 0]), (4, [4, 3, 2, 1, 0])
    stem = plan.conv(plan.conv(-1, 3), 3, 2)
    p2 = plan.elan(plan.conv(plan.conv(stem, 3), 3, 2), *backbone)
    p3 = plan.elan(plan.down(p2), *backbone)
    p4 = plan.elan(plan.down(p3), *backbone)
    p5 = plan.add("sppcspc", [plan.elan(plan.down(p4), *backbone)])
    middle = plan.elan(plan.up(p5, p4), *head)
    fine = plan.elan(plan.up(middle, p3), *head)
    medium = plan.elan(plan.down(fine, middle), *head)
    coarse = plan.elan(plan.down(medium, p5), *head)
    plan.add("head", [plan.add("rep", [source], 3) for source in (fine, medium, coarse)])
    return tuple(plan.layers)


def _yolov7_tiny() -> tuple[Layer, ...]:
    plan = _Plan()
    block = (2, [2, 1, 0])
    p2 = plan.elan(plan.conv(plan.conv(-1, 3, 2), 3, 2), *block)
    p3 = plan.elan(plan.add("max", [p2], 2, 2), *block)
    p4 = plan.elan(plan.add("max", [p3], 2, 2), *block)
    p5 = plan.elan(plan.add("max", [p4], 2, 2), *block)
    first, second = plan.conv(p5), plan.conv(p5)
    pools = [plan.add("max", [second], size) for size in (5, 9, 13)]
    joined = plan.conv(plan.add("concat", [*reversed(pools), second]))
    top = plan.conv(plan.add("concat", [joined, first]))
    middle = plan.elan(plan.up(top, p4), *block)
    fine = plan.elan(plan.up(middle, p3), *block)
    medium = plan.elan(plan.add("concat", [plan.conv(fine, 3, 2), middle]), *block)
    coarse = plan.elan(plan.add("concat", [plan.conv(medium, 3, 2), top]), *block)
    plan.add("head", [plan.conv(source, 3) for source in (fine, medium, coarse)])
    return tuple(plan.layers)


ARCHITECTURES = {"yolov7": _yolov7(), "yolov7_tiny": _yolov7_tiny()}

Arrays = dict[str, npt.NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A file that was found to be all of one of ``ARCHITECTURES``, tensor by tensor.

    ``names``: of the classes, as the release tells them; empty where it does not, or tells another number.
    """

    path: str
    architecture: str
    shapes: Shapes
    classes: int
    names: tuple[str, ...]

    def arrays(self) -> Arrays:
        """Read every tensor as float32."""
        if self.path.endswith(".safetensors"):
            from mmray.models import tensors  # imports torch

            return {name: tensor.float().numpy() for name, tensor in tensors.read(Path(self.path)).items()}
        return {name: array.astype(np.float32, copy=False) for name, array in Pickled(self.path).arrays().items()}


def look(path: str) -> Checkpoint:
    """Read what a file says of itself; ConfigError, naming file and tensor, where it is no YOLOv7 or not all of one."""
    shapes, about = _described(path)
    heads = {name: len(layers) - 1 for name, layers in ARCHITECTURES.items()}
    chosen = [name for name, number in heads.items() if f"model.{number}.m.0.weight" in shapes]
    if not chosen:
        wanted = " or ".join(f"model.{number}.m.0.weight ({name})" for name, number in heads.items())
        raise ConfigError(f"{path}: is neither yolov7 nor yolov7-tiny: it has no tensor {wanted}")
    checker = _Checker(path, shapes)
    outputs = checker.check(ARCHITECTURES[chosen[0]])
    classes = outputs // ANCHORS - BOX
    if classes < 1 or outputs % ANCHORS:
        raise ConfigError(f"{path}: model.{heads[chosen[0]]}.m.0.weight has {outputs} outputs, not 3 x (5 + classes)")
    return Checkpoint(path, chosen[0], shapes, classes, _names(about, classes))


def _described(path: str) -> tuple[Shapes, dict[Any, Any]]:
    if path.endswith(".safetensors"):
        header = safetensors_file.header(Path(path))
        return {name: tuple(about["shape"]) for name, about in header.items()}, {}
    found = Pickled(path)
    return found.shapes, found.about


def _names(about: dict[Any, Any], classes: int) -> tuple[str, ...]:
    """Return the names a release tells, a list or a dictionary by number."""
    names = about.get("names")
    if isinstance(names, dict):
        names = [names.get(number) for number in range(len(names))]
    told = isinstance(names, list) and len(names) == classes and all(isinstance(name, str) for name in names)
    return tuple(names) if told and names else ()


class _Checker:
    """Compares a file's shapes with an architecture, whose widths are those of its weights."""

    def __init__(self, path: str, shapes: Shapes) -> None:
        self._path, self._shapes = path, shapes
        self._used: set[str] = set()

    def check(self, layers: Sequence[Layer]) -> int:
        """Return the outputs of the head; ConfigError at the first tensor that is missing, misshapen or too many."""
        widths = {-1: 3}
        for number, layer in enumerate(layers):
            sources = [widths[source] for source in layer.sources]
            widths[number] = self._width(f"model.{number}", layer, sources)
        idle = ("anchors", "anchor_grid", "num_batches_tracked")
        strange = sorted(name for name in self._shapes if name not in self._used and not name.endswith(idle))
        if strange:
            raise ConfigError(
                f"{self._path}: has {len(strange)} tensor(s) that are not of its network: {strange[0]} first"
            )
        return widths[len(layers) - 1]

    def _width(self, name: str, layer: Layer, sources: list[int]) -> int:
        if layer.kind == "conv":
            return self._convolution(f"{name}.conv", f"{name}.bn", sources[0], layer.size)
        if layer.kind == "rep":
            return self._rep(name, sources[0])
        if layer.kind == "sppcspc":
            return self._sppcspc(name, sources[0])
        if layer.kind == "head":
            return self._head(name, sources)
        return sum(sources)

    def _convolution(self, name: str, norm: str, width: int, size: int, out: int | None = None) -> int:
        """Check weights (out, width, size, size) with a bias, a normalisation, or both; return out."""
        found = self._shapes.get(f"{name}.weight", ())
        out = out or (found[0] if found else 1)
        self._expect(f"{name}.weight", (out, width, size, size))
        biased = not norm or f"{name}.bias" in self._shapes
        if biased:
            self._expect(f"{name}.bias", (out,))
        if not biased or f"{norm}.running_mean" in self._shapes:
            self._norm(norm, out)
        return out

    def _norm(self, name: str, width: int) -> None:
        for part in NORM:
            self._expect(f"{name}.{part}", (width,))

    def _rep(self, name: str, width: int) -> int:
        if f"{name}.rbr_reparam.weight" in self._shapes:
            return self._convolution(f"{name}.rbr_reparam", "", width, 3)
        out = self._convolution(f"{name}.rbr_dense.0", f"{name}.rbr_dense.1", width, 3)
        self._convolution(f"{name}.rbr_1x1.0", f"{name}.rbr_1x1.1", width, 1, out)
        if f"{name}.rbr_identity.weight" in self._shapes:
            self._norm(f"{name}.rbr_identity", width)
        return out

    def _sppcspc(self, name: str, width: int) -> int:
        def part(number: int, width: int, size: int = 1) -> int:
            return self._convolution(f"{name}.cv{number}.conv", f"{name}.cv{number}.bn", width, size)

        pooled = part(6, part(5, 4 * part(4, part(3, part(1, width), 3))), 3)
        return part(7, pooled + part(2, width))

    def _head(self, name: str, widths: list[int]) -> int:
        out = 0
        for level, width in enumerate(widths):
            out = self._convolution(f"{name}.m.{level}", "", width, 1, out or None)
            for part, channels in (("ia", width), ("im", out)):  # of a network as it was trained
                if f"{name}.{part}.{level}.implicit" in self._shapes:
                    self._expect(f"{name}.{part}.{level}.implicit", (1, channels, 1, 1))
        return out

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        if self._shapes.get(name) != shape:
            found = f"has the shape {self._shapes[name]}" if name in self._shapes else "is missing"
            raise ConfigError(f"{self._path}: tensor {name} {found}, and should have {shape}")
        self._used.add(name)
