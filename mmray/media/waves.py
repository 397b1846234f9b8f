"""Mono samples to windows."""

from collections.abc import Iterator
from math import ceil, inf

import numpy as np
import numpy.typing as npt

from mmray.specs import AudioSpec, Wave

# Windows travel in runs of about a minute, so that memory does not grow with the length of the sound.
RUN_S = 64.0
MAX_WINDOWS = 64


class Cutter:
    """Cut one stream of samples into the windows of one spec that start in [start_s, end_s).

    ``limit_s`` is the end of the sample; ``frames`` counts the windows that were emitted, ``total`` the samples from
    the start of the sample to where the stream was read.
    """

    def __init__(self, spec: AudioSpec, start_s: float, end_s: float, limit_s: float) -> None:
        self.spec = spec
        self.frames = 0
        self.total = 0
        self._next = ceil(round(start_s * spec.rate_hz) / spec.hop)
        self._stop = inf if end_s == inf else ceil(round(end_s * spec.rate_hz) / spec.hop)
        self._limit = inf if limit_s == inf else round(limit_s * spec.rate_hz)
        self._run = max(1, min(MAX_WINDOWS, int(RUN_S / spec.hop_s)))
        self._parts: list[npt.NDArray[np.float32]] = []
        self._finished = False
        self._at = 0  # where the kept samples start

    @property
    def done(self) -> bool:
        """Tell whether all windows of the segment are emitted."""
        return self._finished or self._next >= self._stop

    def begin(self, position: int) -> None:
        """Say where the first samples lie, from the start of the sample."""
        self._at = self.total = position

    def push(self, samples: npt.NDArray[np.float32]) -> Iterator[Wave]:
        """Feed the next samples, return runs of full windows."""
        samples = samples[: int(min(samples.size, max(0, self._limit - self.total)))]
        self.total += samples.size
        self._parts.append(samples)
        while not self.done:
            count = int(min(self._run, self._stop - self._next))
            if self.total < (self._next + count - 1) * self.spec.hop + self.spec.window:
                break
            yield self._wave(count)
        self._forget()
        if self.total >= self._limit:
            yield from self.finish()

    def finish(self) -> Iterator[Wave]:
        """Return the last windows, now that the total is known: the stream or the sample has ended."""
        while not self.done:
            count = 0
            while count < min(self._run, self._stop - self._next) and self.spec.has_window(
                self._next + count, self.total
            ):
                count += 1
            if count:
                yield self._wave(count)
            else:
                self._finished = True

    def _wave(self, count: int) -> Wave:
        spec, first = self.spec, self._next * self.spec.hop
        kept = np.concatenate(self._parts)
        length = min(self.total, first + (count - 1) * spec.hop + spec.window) - first
        samples = kept[first - self._at : first - self._at + length].copy()
        wave = Wave(samples, spec.rate_hz, self._next, count, self._next * spec.hop_s, (first + length) / spec.rate_hz)
        self._next += count
        self.frames += count
        self._parts = [kept]
        self._forget()
        return wave

    def _forget(self) -> None:
        """Drop the samples in front of the next window."""
        while self._parts and self._at < self._next * self.spec.hop:
            surplus = self._next * self.spec.hop - self._at
            self._at += min(surplus, self._parts[0].size)
            # A copy: a view would keep the whole run alive.
            self._parts[0] = self._parts[0][surplus:].copy()
            if not self._parts[0].size:
                self._parts.pop(0)
        if self.done:
            self._parts.clear()
