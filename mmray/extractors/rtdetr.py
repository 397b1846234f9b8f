"""Objects in pictures, by RT-DETR, RT-DETR v2 or D-FINE: transformers that need no suppression of doubles.

Source: Zhao et al. 2023, RT-DETR; Peng et al. 2024, D-FINE. Weights: PekingU/rtdetr_r50vd (COCO, Apache-2.0) unless
another folder is named, such as the smaller ustc-community/dfine-small-coco.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.detections import detected
from mmray.extractors.pictures import FILTERS, Preparation, fitted
from mmray.models import hub
from mmray.specs import Frame, FrameSpec, Rows

TYPES = ("rt_detr", "rt_detr_v2", "d_fine")
FRAMES = FrameSpec(fps=1, side_px=640, fit="squash", interpolation="bilinear")


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

    frames: FrameSpec = FRAMES
    model: str = "PekingU/rtdetr_r50vd"
    score_threshold: float = Field(0.5, ge=0, le=1)
    precision: Precision = "float32"
    batch_size: int = Field(8, ge=1, le=4096)  # 1.6 GB at 640 px; 16 would take a GB more

    @model_validator(mode="after")
    def _colour(self) -> Self:
        if self.frames.channels != 3:
            raise ValueError("rtdetr needs pictures in colour: channels: 3")
        return self

    def resolved(self, path: str) -> Self:
        """Return a copy whose pictures are prepared as the folder says; ConfigError where another way was asked for."""
        self.labels(path)
        return self.model_copy(update={"frames": fitted(self.frames, FRAMES, _prepared(path).spec, self.name, path)})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return nothing: detections have no vectors."""
        del path
        return {}

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

        from mmray.models.torch_setup import ensure_torchaudio

        assert path is not None
        names, preparation = self.labels(path), _prepared(path)
        ensure_torchaudio()
        from transformers import AutoModelForObjectDetection

        model = hub.load(AutoModelForObjectDetection, path, self.precision, device)

        @torch.inference_mode()
        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one Rows each, empty where there is nothing."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                pixels = preparation.values(np.stack([frame.image for frame in batch]), device).to(model.dtype)
                found = model(pixel_values=pixels)
                # As many of all (query, class) pairs as there are queries, the best first; a query may come twice.
                logits, boxes = found.logits.float(), found.pred_boxes.float()
                scores, places = logits.sigmoid().flatten(1).topk(logits.shape[1])
                centres, sizes = boxes[..., :2], boxes[..., 2:]
                corners = torch.cat([centres - sizes / 2, centres + sizes / 2], -1) * preparation.side_px
                for frame, *one in zip(batch, corners, scores, places, strict=True):
                    square, score, place = (values.cpu().numpy() for values in one)
                    sure = score > self.score_threshold
                    query, number = np.divmod(place[sure], len(names))
                    yield detected(self.frames, frame, names, square[query], score[sure], number)

        return extract


def _prepared(path: str) -> Preparation:
    """Read what the folder's processor does to a picture; ConfigError, naming the key, for what cannot be done."""
    found = hub.image_settings(path)
    size = found.get("size", {"height": 640, "width": 640})
    side_px = size.get("height") if isinstance(size, dict) else None
    if not isinstance(side_px, int) or size.get("width") != side_px or not found.get("do_resize", True):
        raise ConfigError(f"{path}: size of its image processor is {size!r}, and must be a square that it resizes to")
    if found.get("resample", 2) not in FILTERS or found.get("do_pad", False):
        raise ConfigError(f"{path}: its image processor pads, or resamples with {found.get('resample')!r}")
    normalises = found.get("do_normalize", False)
    mean, std = (found.get(key) if normalises else None for key in ("image_mean", "image_std"))
    return Preparation(
        side_px=side_px,
        fit="squash",
        interpolation=FILTERS[found.get("resample", 2)],
        crop_px=side_px,
        factor=float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 1.0,
        offset=0.0,
        mean=tuple(mean or (0.0,) * 3),
        std=tuple(std or (1.0,) * 3),
    )
