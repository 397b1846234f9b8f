"""Objects in pictures, by RT-DETR, RT-DETR v2 or D-FINE: transformers that need no suppression of doubles.

Source: Zhao et al. 2023, RT-DETR; Peng et al. 2024, D-FINE. Weights: PekingU/rtdetr_r50vd (COCO, Apache-2.0) unless
another folder is named, such as the smaller ustc-community/dfine-small-coco.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.detections import detected
from mmray.extractors.pictures import Coloured, Defaults, Preparation, fitted
from mmray.models import hub
from mmray.specs import Frame, FrameSpec, Rows

TYPES = ("rt_detr", "rt_detr_v2", "d_fine")
FRAMES = FrameSpec(fps=1, side_px=640, fit="squash", interpolation="bilinear")
DEFAULTS = Defaults(
    "RTDetr",
    {"height": 640, "width": 640},
    normalises=False,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


class RtDetr(Extractor):
    """One row per object, best first; ``window`` is that of its frame, boxes are pixels of the upright source.

    Pictures become squares as the folder's own processor says (640 px, proportions not kept, 0 to 1 without further
    normalising). A picture of 1 x 1 px fills the square with its colour; a video of one frame has the rows of that
    frame.

    Skipped: no_video, no_image. Failed: what decoding says. A picture without objects has no row, and is ok.
    """

    name: ClassVar[str] = "rtdetr"
    kind: ClassVar[Kind] = Kind.DETECTIONS
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "count")
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 0.6

    frames: Coloured = FRAMES
    model: str = "PekingU/rtdetr_r50vd"
    score_threshold: float = Field(0.5, ge=0, le=1)
    precision: Precision = "float32"
    batch_size: int = Field(8, ge=1, le=4096)  # 1.6 GB at 640 px; 16 would take a GB more

    def resolved(self, path: str) -> Self:
        """Return a copy whose pictures are prepared as the folder says; ConfigError where another way was asked for."""
        self.labels(path)
        wanted = Preparation.read(path, DEFAULTS).spec
        return self.model_copy(update={"frames": fitted(self.frames, FRAMES, wanted, self.name, path)})

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return the names of the classes, from the folder's configuration."""
        if path is None:
            return ()
        names = hub.config(path, *TYPES).get("id2label")
        if not isinstance(names, dict) or {str(number) for number in range(len(names))} != set(names) or not names:
            raise ConfigError(f"{path}/config.json: id2label must name the classes 0, 1, 2 ...")
        return tuple(str(names[str(number)]) for number in range(len(names)))

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder, offline."""
        import torch

        assert path is not None
        names, preparation = self.labels(path), Preparation.read(path, DEFAULTS)
        model = hub.load("AutoModelForObjectDetection", path, self.precision, device)
        prepared = preparation.on(model.device)

        @torch.inference_mode()
        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one Rows each, empty where there is nothing."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                pixels = prepared(np.stack([frame.image for frame in batch])).to(model.dtype)
                found = model(pixel_values=pixels)
                # As many of all (query, class) pairs as there are queries, the best first; a query may come twice.
                logits, boxes = found.logits.float(), found.pred_boxes.float()
                scores, places = logits.sigmoid().flatten(1).topk(logits.shape[1])
                centres, sizes = boxes[..., :2], boxes[..., 2:]
                corners = torch.cat([centres - sizes / 2, centres + sizes / 2], -1) * preparation.crop_px
                arrays = (values.cpu().numpy() for values in (corners, scores, places))
                for frame, square, score, place in zip(batch, *arrays, strict=True):
                    sure = score > self.score_threshold
                    query, number = np.divmod(place[sure], len(names))
                    yield detected(self.frames, frame, names, square[query], score[sure], number)

        return extract
