"""The pixels themselves: what small networks (digits, lip reading) are trained on.

No model and no licence: an embedding is the picture.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from mmray.extractors.base import ExtractFn, Extractor, Kind
from mmray.specs import Frame, FrameSpec, Rows


class Pixels(Extractor):
    """One row per frame: its pixels from 0 to 1, row by row, the channels of a pixel side by side.

    Skipped: no_video, no_image. Failed: what decoding says.
    """

    name: ClassVar[str] = "pixels"
    kind: ClassVar[Kind] = Kind.EMBEDDING

    frames: FrameSpec = FrameSpec(fps=1, side_px=32, channels=1, fit="squash", interpolation="area")

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the number of values of a picture."""
        del path
        return {"embedding": self.frames.side_px**2 * self.frames.channels}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Return the function; there is nothing to load."""
        del device, path

        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 (side_px, side_px, channels); one row each."""
            for frame in frames:
                vector = frame.image.reshape(1, -1).astype(np.float32) / np.float32(255)
                yield Rows([frame.window], [frame.start_s], [frame.end_s], {"embedding": vector})

        return extract
