"""Where decoded sound lies: counted in samples from the start of the medium, not read off each timestamp."""

from fractions import Fraction
from typing import Any

from mmray.media.duration import container_s
from mmray.media.sound_index import State
from mmray.media.source import DISCONTINUOUS, Source, stream_start
from mmray.media.timeline import RESTART_S, Timeline

# Gaps and overlaps up to here are jitter of the timestamps; beyond, they are believed.
JITTER_S = 0.1


class Position:
    """The count of one sound stream; ``next``: the sample that follows, None before the first frame.

    ``sought``: the first frame need not be the stream's first, its timestamp tells where it lies.
    """

    def __init__(self, source: Source, stream: Any, sought: bool) -> None:
        # Time from the medium's start: samples are counted from there, a sample's offset is taken off as samples.
        self._time = Timeline(source, stream, 0.0, source.format in DISCONTINUOUS)
        first = stream_start(stream)
        first_s = float(first - source.zero) if first is not None else 0.0
        self._early_s = first_s if abs(first_s) <= JITTER_S else 0.0
        self._longest_gap_s = (container_s(source) or 0.0) + RESTART_S
        self._sought = sought
        self.rate_hz = 0
        self.next: int | None = None

    def at(self, timestamp: int) -> float:
        """Return the time of a packet's timestamp in the medium."""
        return self._time.at(timestamp)

    @property
    def state(self) -> State | None:
        """Return the count, None before the first frame."""
        return None if self.next is None else State(self.next, self.rate_hz, *self._time.state)

    def restore(self, state: State) -> None:
        """Go on from a count that a decoder made that started at the first packet."""
        self.next, self.rate_hz = state.next, state.rate_hz
        self._time.restore(state.shift_s, state.time_s)

    def fit(self, frame: Any) -> tuple[int, int]:
        """Return how many samples of silence belong in front of a frame, and how many of its samples to leave out."""
        rate_hz = frame.sample_rate
        if self.next is not None and rate_hz != self.rate_hz:
            self.next = round(self.next * Fraction(rate_hz, self.rate_hz))
        self.rate_hz = rate_hz
        at = round((self._time.of_frame(frame, frame.samples / rate_hz) - self._early_s) * rate_hz)
        if self.next is None:
            self.next = at if self._sought else 0
        ahead, jitter = at - self.next, round(JITTER_S * rate_hz)
        if jitter < ahead <= self._longest_gap_s * rate_hz:
            return ahead, 0
        return 0, -ahead if ahead < -jitter else 0
