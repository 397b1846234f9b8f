"""Where a picture stands in the square a model sees, and the way back.

Pixels are upright and square on both sides. Extractors use the same function as the decoder, so that a box found in
the square lands where it was seen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmray.specs import FrameSpec

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Placement:
    """The source's part ``box_*_px`` (source pixels) scaled to ``width_px`` x ``height_px`` at ``left_px``, ``top_px``.

    ``left_px`` and ``top_px`` are output pixels: positive where the picture is padded, negative where it is cut.
    """

    source_width_px: int
    source_height_px: int
    box_left_px: int
    box_top_px: int
    box_width_px: int
    box_height_px: int
    width_px: int
    height_px: int
    left_px: int
    top_px: int
    # Of a letterbox: scale and padding before they were rounded to pixels, by which detectors find the way back.
    ratio: float | None = None
    pad_x_px: float = 0.0
    pad_y_px: float = 0.0

    @property
    def scale_x(self) -> float:
        """Return output pixels per source pixel, across."""
        return self.width_px / self.box_width_px

    @property
    def scale_y(self) -> float:
        """Return output pixels per source pixel, down."""
        return self.height_px / self.box_height_px

    def to_source(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Map points of the output to the source, both in pixels; nothing is clipped.

        Of a letterbox by the unrounded scale and padding, as YOLOv7 and YOLOX do: up to a pixel from where it stands.
        """
        if self.ratio is not None:
            return (
                (x - self.pad_x_px) / self.ratio + self.box_left_px,
                (y - self.pad_y_px) / self.ratio + self.box_top_px,
            )
        return (
            (x - self.left_px) / self.scale_x + self.box_left_px,
            (y - self.top_px) / self.scale_y + self.box_top_px,
        )

    def boxes_to_source(self, boxes: Floats) -> Floats:
        """Map boxes (n, 4) x1, y1, x2, y2 of the output to the source, clipped to its picture."""
        x, y = self.to_source(boxes[:, 0::2], boxes[:, 1::2])
        mapped = np.empty_like(boxes)
        mapped[:, 0::2] = np.clip(x, 0, self.source_width_px)
        mapped[:, 1::2] = np.clip(y, 0, self.source_height_px)
        return mapped


def placed(spec: FrameSpec, width: int, height: int) -> Placement:
    """Place an upright picture of ``width`` x ``height`` pixels as ``spec`` wants it."""
    x1, y1, x2, y2 = spec.box or (0.0, 0.0, 1.0, 1.0)
    box_left, box_width = _span(x1, x2, width)
    box_top, box_height = _span(y1, y2, height)
    side = spec.side_px
    left = top = 0
    ratio, pad_x, pad_y = None, 0.0, 0.0
    if spec.fit == "squash":
        new_width, new_height = side, spec.height_px or side
    elif spec.fit == "letterbox":
        ratio = min(side / box_height, side / box_width)
        if spec.anchor == "centre":
            new_width, new_height = max(1, round(box_width * ratio)), max(1, round(box_height * ratio))
            # YOLOv5's and v7's rule for an odd remainder: the smaller half goes to the left and the top.
            left, top = round((side - new_width) / 2 - 0.1), round((side - new_height) / 2 - 0.1)
            pad_x, pad_y = (side - box_width * ratio) / 2, (side - box_height * ratio) / 2
        else:  # YOLOX's: lengths are cut to whole pixels, not rounded
            new_width, new_height = max(1, int(box_width * ratio)), max(1, int(box_height * ratio))
    else:
        # As image processors of transformers: the longer side and half of what is cut off are rounded down.
        shorter = min(box_width, box_height)
        new_width, new_height = side * box_width // shorter, side * box_height // shorter
        if spec.anchor == "centre":
            left, top = -((new_width - side) // 2), -((new_height - side) // 2)
    return Placement(
        width, height, box_left, box_top, box_width, box_height, new_width, new_height, left, top, ratio, pad_x, pad_y
    )


def _span(start: float, end: float, length: int) -> tuple[int, int]:
    """Return the first pixel and the number of pixels (at least one) of a fraction of ``length``."""
    first = min(round(start * length), length - 1)
    return first, max(1, round(end * length) - first)
