"""Objects in pictures, by YOLOv7 or YOLOv7-tiny, from the authors' own files.

Source: Wang, Bochkovskiy & Liao 2022. Weights: yolov7.pt and yolov7-tiny.pt of their release (COCO, GPL-3.0); the
network is mmray's own, see ``mmray.models.yolov7``. For weights under a freer licence take ``rtdetr`` or ``yolo_onnx``.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.detections import detected
from mmray.extractors.pictures import Coloured
from mmray.models import boxes, labels, yolov7_file
from mmray.specs import Frame, FrameSpec, Rows

STRIDE_PX = 32  # of the coarsest map


class YoloV7(Extractor):
    """One row per object, best first; ``window`` is that of its frame, boxes are pixels of the upright source.

    ``weights``: a release ``.pt`` (nothing in it is run), a saved state dictionary ``.pt``, or safetensors with the
    same names; whether it is yolov7 or yolov7-tiny is told from its tensors. ``classes`` names the classes of a file
    that does not and was not trained on COCO's 80.

    Pictures are scaled as the original does (OpenCV's INTER_LINEAR, to the bit) but always padded to the whole square,
    so that any pictures fit one batch; the original's detect.py pads to the next multiple of 32 px only (384 x 640 for
    16:9). The network sees that grey too: rows can differ from detect.py's, but not on square pictures.

    A picture of 1 x 1 px fills the square with its colour; a video of one frame has the rows of that frame.

    Skipped: no_video, no_image. Failed: what decoding says. A picture without objects has no row, and is ok.
    """

    name: ClassVar[str] = "yolov7"
    kind: ClassVar[Kind] = Kind.DETECTIONS
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "count")
    checkpoint = "weights"
    formats: ClassVar[frozenset[str]] = frozenset({".pt"})
    cpu_items_per_s: ClassVar[float] = 1.2  # yolov7 at 640 px; yolov7-tiny does 7

    frames: Coloured = FrameSpec(fps=1, side_px=640, fit="letterbox", interpolation="linear")
    weights: str = "yolov7"
    score_threshold: float = Field(0.25, ge=0, le=1)
    iou_threshold: float = Field(0.45, ge=0, le=1)
    max_detections: int = Field(300, ge=1, le=30_000)
    classes: tuple[str, ...] | None = None
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.frames.side_px % STRIDE_PX or self.frames.height_px is not None:
            raise ValueError(f"yolov7 needs a square with a side_px that is a multiple of {STRIDE_PX}")
        return self

    def resolved(self, path: str) -> Self:
        """Return it as it is; ConfigError where the file is no YOLOv7, or its classes have no names."""
        self._names(yolov7_file.look(path))
        return self

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return the names of the classes: those given, the file's own, or COCO's."""
        return self.classes or labels.COCO if path is None else self._names(yolov7_file.look(path))

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a file; ConfigError, naming file and tensor, where it is damaged or another network's."""
        import torch

        from mmray.models.yolov7 import YoloV7 as Network

        assert path is not None
        checkpoint = yolov7_file.look(path)
        names, dtype = self._names(checkpoint), getattr(torch, self.precision)
        network = Network(checkpoint).to(device, dtype)

        @torch.inference_mode()
        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one Rows each, empty where there is nothing."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                pixels = torch.from_numpy(np.stack([frame.image for frame in batch])).to(device).permute(0, 3, 1, 2)
                rows = network((pixels.float() / 255).to(dtype))
                likely = rows[..., 4] > self.score_threshold
                ends = likely.sum(1).cumsum(0).tolist()[:-1]
                for frame, own in zip(batch, np.split(rows[likely].cpu().numpy(), ends), strict=True):
                    own = boxes.of_one_class(own)
                    found = boxes.suppressed(own, self.score_threshold, self.iou_threshold, self.max_detections)
                    yield detected(self.frames, frame, names, *found)

        return extract

    def _names(self, checkpoint: yolov7_file.Checkpoint) -> tuple[str, ...]:
        names = self.classes or checkpoint.names or labels.COCO
        if len(names) != checkpoint.classes:
            counts = f"scores {checkpoint.classes} classes, and there are {len(names)} names"
            raise ConfigError(f"{checkpoint.path}: {counts}: give classes")
        return names
