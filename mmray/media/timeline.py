"""Timestamps of one stream to seconds of the sample."""

from fractions import Fraction
from typing import Any

from mmray.media.source import Source

# Jumps this far, in formats whose timestamps may start anew, are a new start and not a gap or an overlap.
RESTART_S = 10.0
RESTART_BACK_S = 0.2


class Timeline:
    """Sample time of one stream's frames: presentation timestamps less time zero and the sample's offset."""

    def __init__(self, source: Source, stream: Any, offset_s: float, restarts: bool) -> None:
        self._base = Fraction(stream.time_base or 1)
        self._zero_s = float(source.zero + Fraction(offset_s))
        self._restarts = restarts
        self._shift_s = 0.0
        self._next_s: float | None = None

    def at(self, timestamp: int, base: Fraction | None = None) -> float:
        """Return the time of a timestamp, which counts in the stream's time base unless another is given."""
        base = base or self._base
        # Whole numbers first: floats here are a tenth of the cost of fractions, which shows at 2,000 frames a second.
        return timestamp * base.numerator / base.denominator - self._zero_s + self._shift_s

    def of_frame(self, frame: Any, usual_s: float) -> float:
        """Return the time of the next decoded frame; without a timestamp it follows the one before."""
        timestamp = frame.pts if frame.pts is not None else frame.dts
        base = frame.time_base or self._base
        if timestamp is None:
            time_s = self._next_s if self._next_s is not None else self.at(0)
        else:
            time_s = self.at(timestamp, base)
            ahead_s = 0.0 if self._next_s is None else time_s - self._next_s
            if self._restarts and self._next_s is not None and not -RESTART_BACK_S <= ahead_s <= RESTART_S:
                self._shift_s += self._next_s - time_s
                time_s = self._next_s
        duration_s = frame.duration * base.numerator / base.denominator if frame.duration else usual_s
        self._next_s = time_s + duration_s
        return time_s

    @property
    def state(self) -> tuple[float, float | None]:
        """Return what the frames so far have led to: the shift by restarts, and the time that follows."""
        return self._shift_s, self._next_s

    def restore(self, shift_s: float, next_s: float | None) -> None:
        """Go on from a state of another timeline of this stream."""
        self._shift_s, self._next_s = shift_s, next_s

    def jumped(self) -> None:
        """Forget what came before: the next frame follows a seek."""
        self._next_s = None
