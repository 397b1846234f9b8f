"""What the detectors share: rows of objects out of boxes in the square that a network saw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.geometry import placed
from mmray.specs import Frame, FrameSpec, Rows

Floats = npt.NDArray[np.floating[Any]]


def detected(
    spec: FrameSpec,
    frame: Frame,
    names: Sequence[str],
    found: Floats,
    scores: Floats,
    classes: npt.NDArray[np.integer[Any]],
) -> Rows:
    """Return one row per object of a frame, in the order given.

    ``found``: boxes (n, 4) x1, y1, x2, y2 in pixels of the square of ``spec``; in the rows they are pixels of the
    upright source, float32, and end at its edges.
    """
    count = len(found)
    corners = placed(spec, frame.width, frame.height).boxes_to_source(found.astype(np.float32))
    columns: dict[str, Any] = {
        "frame_s": [frame.frame_s] * count,
        "class_id": classes.astype(np.int32),
        "class_name": [names[index] for index in classes],
        "score": scores.astype(np.float32),
        **{name: corners[:, place] for place, name in enumerate(("x1", "y1", "x2", "y2"))},
    }
    return Rows([frame.window] * count, [frame.start_s] * count, [frame.end_s] * count, columns)
