"""From a detector's raw numbers to boxes: the decodings of YOLOX and YOLOv7, and non-maximum suppression, in numpy.

Sources: Ge et al. 2021, YOLOX (Apache-2.0); Wang et al. 2022, YOLOv7, from its published formulas; none of their code.
Rows are (x, y, width, height of the box's centre in pixels, objectness, one score per class).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

STRIDES = (8, 16, 32)
NMS_LIMIT = 30_000  # as in the reference: more candidates than that are cut to the best
# Width and height in pixels of the three anchors at each stride; an exported file does not hold them.
ANCHORS_PX = {
    "yolov7": (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401))),
    "yolov7_tiny": (
        ((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)), ((116, 90), (156, 198), (373, 326)),
    ),
}  # fmt: skip

Floats = npt.NDArray[np.float32]


def cells(height_px: int, width_px: int) -> int:
    """Return how many cells the three grids of a picture have."""
    return sum((height_px // stride) * (width_px // stride) for stride in STRIDES)


def decode_yolox(rows: Floats, height_px: int, width_px: int) -> Floats:
    """Decode (n, cells, 5 + classes): centres are offsets from their cell, sizes logarithms, both in strides."""
    grids, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height_px // stride, : width_px // stride]
        grids.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    grid, stride_px = np.concatenate(grids), np.concatenate(strides).astype(np.float32)
    decoded = rows.copy()
    decoded[..., :2] = (rows[..., :2] + grid) * stride_px
    decoded[..., 2:4] = np.exp(rows[..., 2:4]) * stride_px
    return decoded


def decode_yolov7(maps: Sequence[Floats], anchors_px: Sequence[Sequence[Sequence[int]]]) -> Floats:
    """Decode the three raw maps, (n, 3 x channels, h, w) or (n, 3, h, w, channels), to (n, 3 x cells, channels)."""
    decoded = []
    for raw, anchors, stride in zip(maps, anchors_px, STRIDES, strict=True):
        if raw.ndim == 4:
            batch, channels, height, width = raw.shape
            raw = raw.reshape(batch, 3, channels // 3, height, width).transpose(0, 1, 3, 4, 2)
        batch, _, height, width, channels = raw.shape
        y, x = np.mgrid[:height, :width]
        scores = 1 / (1 + np.exp(-raw))
        scores[..., :2] = (2 * scores[..., :2] - 0.5 + np.stack([x, y], -1)) * stride
        scores[..., 2:4] = (2 * scores[..., 2:4]) ** 2 * np.array(anchors, np.float32)[:, None, None, :]
        decoded.append(scores.reshape(batch, -1, channels))
    return np.concatenate(decoded, 1).astype(np.float32)


def of_one_class(rows: Floats) -> Floats:
    """Return YOLOv7's rows with a class score of 1 where there is one class: its training leaves that score alone."""
    if rows.shape[-1] != 6:
        return rows
    rows = rows.copy()
    rows[..., 5] = 1
    return rows


def suppressed(rows: Floats, score: float, iou: float, most: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Choose the boxes of one picture from its rows (n, 5 + classes): those above ``score``, best first.

    A box goes when it overlaps a better one of its own class by more than ``iou``. Only the best class of a row counts.
    Returns boxes (k, 4) as x1, y1, x2, y2 in pixels, scores (k,), classes (k,), k <= ``most``.
    """
    rows = rows[rows[:, 4] > score]
    products = rows[:, 5:] * rows[:, 4:5]
    classes = products.argmax(1) if len(rows) else np.zeros(0, np.int64)
    scores = products[np.arange(len(rows)), classes]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > score][:NMS_LIMIT]
    centres, sizes = rows[order, :2], rows[order, 2:4]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)
    kept = _greedy(boxes, classes[order], iou, most)
    return boxes[kept], scores[order][kept], classes[order][kept]


def _greedy(boxes: Floats, classes: npt.NDArray[Any], iou: float, most: int) -> list[int]:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.arange(len(boxes))
    kept: list[int] = []
    while alive.size and len(kept) < most:
        best, rest = alive[0], alive[1:]
        kept.append(int(best))
        corner, far = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.clip(far - corner, 0, None).prod(1)
        overlap = shared / np.maximum(areas[best] + areas[rest] - shared, 1e-9)
        alive = rest[(overlap <= iou) | (classes[rest] != classes[best])]
    return kept
