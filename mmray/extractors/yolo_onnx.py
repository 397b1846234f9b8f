"""Objects in pictures, by any YOLOX or YOLOv7 network in ONNX form.

Source: Ge et al. 2021, YOLOX; Wang et al. 2022, YOLOv7. Weights: yolox_nano of Megvii's release (COCO, Apache-2.0)
unless a file is given; YOLOv7's own weights are GPL-3.0, see ``yolov7``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling
from mmray.extractors.detections import detected
from mmray.extractors.pictures import Coloured
from mmray.models import boxes, labels, onnx_session
from mmray.specs import Frame, FrameSpec, Rows

Layout = Literal["auto", "yolox", "yolox_decoded", "yolov7", "yolov7_raw", "yolov7_tiny_raw"]
SIDE_PX = 640  # of a network that takes any size


class YoloOnnx(Extractor):
    """One row per object, best first; ``window`` is that of its frame, boxes are pixels of the upright source.

    ``layout`` says how the file's numbers are to be read. ``auto`` tells by the rows per cell: one, ``yolox`` (offsets
    in cells; say ``yolox_decoded`` for a file exported with its decoding); three, ``yolov7`` (exported with --grid).
    The three raw maps of an export without it need ``yolov7_raw`` or ``yolov7_tiny_raw``, whose anchors differ.
    ``classes`` names the classes of a network that was not trained on COCO's 80. Pictures are scaled as both originals
    do, by OpenCV's INTER_LINEAR, and padded to the whole square.

    Skipped: no_video, no_image. Failed: what decoding says. A picture without objects has no row, and is ok.
    """

    name: ClassVar[str] = "yolo_onnx"
    kind: ClassVar[Kind] = Kind.DETECTIONS
    version: ClassVar[int] = 2  # 2: scales as the originals do
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "count")
    checkpoint = "weights"

    frames: Coloured = FrameSpec(fps=1, side_px=SIDE_PX, fit="letterbox", interpolation="linear")
    weights: str = "yolox_nano"
    layout: Layout = "auto"
    score_threshold: float = Field(0.25, ge=0, le=1)
    iou_threshold: float = Field(0.45, ge=0, le=1)
    max_detections: int = Field(300, ge=1, le=30_000)
    classes: tuple[str, ...] | None = None

    def resolved(self, path: str) -> Self:
        """Return a copy with the size and layout of the file at ``path``, and the padding that layout was trained with.

        ConfigError where the file is no such detector, or has another number of classes than there are names.
        """
        session = onnx_session.session(path, "cpu")
        side_px = _side_px(session, path, self.frames.side_px)
        shapes = [output.shape for output in _run(session, np.zeros((1, 3, side_px, side_px), np.float32))]
        layout = _layout(shapes, side_px, path) if self.layout == "auto" else self.layout
        channels = shapes[0][-1] if len(shapes[0]) != 4 else shapes[0][1] // 3
        if channels != 5 + len(self.labels(path)):
            raise ConfigError(
                f"{path}: scores {channels - 5} classes, and there are {len(self.labels(path))} names: give classes"
            )
        anchor = "top_left" if layout.startswith("yolox") else "centre"
        frames = self.frames.model_copy(update={"side_px": side_px, "anchor": anchor})
        return self.model_copy(update={"layout": layout, "frames": frames})

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return the names of the classes."""
        del path
        return labels.COCO if self.classes is None else self.classes

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Open an ONNX file; on a GPU where onnxruntime has CUDA."""
        assert path is not None
        assert self.layout != "auto", "resolved() comes first"
        session = onnx_session.session(path, device)
        # A network exported for one picture takes one; others take any number.
        size = 1 if session.get_inputs()[0].shape[0] == 1 else self.batch_size
        names = self.labels(path)

        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one Rows each, empty where there is nothing."""
            for start in range(0, len(frames), size):
                batch = frames[start : start + size]
                decoded = self._decoded(_run(session, self._pixels(batch)))
                for frame, rows in zip(batch, decoded, strict=True):
                    yield self._rows(frame, rows, names)

        return extract

    def _pixels(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """Return (n, 3, side, side): BGR 0 to 255 for YOLOX, RGB 0 to 1 for YOLOv7."""
        pixels = np.stack([frame.image for frame in frames]).transpose(0, 3, 1, 2)
        if self.layout.startswith("yolox"):
            return np.ascontiguousarray(pixels[:, ::-1], np.float32)
        return np.ascontiguousarray(pixels, np.float32) / np.float32(255)

    def _decoded(self, outputs: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        side_px = self.frames.side_px
        if self.layout == "yolox":
            return boxes.decode_yolox(outputs[0], side_px, side_px)
        if self.layout in ("yolov7_raw", "yolov7_tiny_raw"):
            raw = boxes.decode_yolov7(outputs[:3], boxes.ANCHORS_PX[self.layout.removesuffix("_raw")])
            return boxes.of_one_class(raw)
        return boxes.of_one_class(outputs[0]) if self.layout == "yolov7" else outputs[0]

    def _rows(self, frame: Frame, rows: npt.NDArray[np.float32], names: Sequence[str]) -> Rows:
        found = boxes.suppressed(rows, self.score_threshold, self.iou_threshold, self.max_detections)
        return detected(self.frames, frame, names, *found)


def _run(session: Any, pixels: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    outputs: list[npt.NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: pixels})
    return outputs


def _side_px(session: Any, path: str, asked: int) -> int:
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
        raise ConfigError(
            f"{path}: takes {[(i.name, i.shape) for i in inputs]}; a detector takes pictures (n, 3, h, w)"
        )
    height, width = shape[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return asked
    if height != width:
        raise ConfigError(f"{path}: takes pictures of {width} x {height}; export it for a square")
    if asked not in (height, SIDE_PX):
        raise ConfigError(f"yolo_onnx: side_px is {asked}, and {path} takes pictures of {height}")
    return height


def _layout(shapes: list[tuple[int, ...]], side_px: int, path: str) -> Layout:
    cells = boxes.cells(side_px, side_px)
    if len(shapes[0]) == 3 and shapes[0][1] == cells:
        return "yolox"
    if len(shapes[0]) == 3 and shapes[0][1] == 3 * cells:
        return "yolov7"
    if len(shapes) >= 3:
        raise ConfigError(
            f"{path}: has raw maps {shapes}: set layout to yolov7_raw or yolov7_tiny_raw (anchors differ)"
        )
    raise ConfigError(
        f"{path}: its output {shapes} is neither YOLOX's nor YOLOv7's for pictures of {side_px} px: set layout"
    )
