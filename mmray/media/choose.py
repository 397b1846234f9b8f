"""Which frames a spec takes from a stream of shown frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
import numpy.typing as npt

from mmray.media.look import Look, representatives, thumbnail
from mmray.media.picture import Picture, Scaler
from mmray.media.seek import TOLERANCE_S
from mmray.specs import Frame, FrameSpec

# Streams of one medium need not begin or end together: this far the first or last frame stands in.
STAND_IN_S = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame on the screen in [start_s, end_s) of the sample; ``index`` counts from the start of the sample."""

    picture: Picture
    index: int
    start_s: float
    end_s: float
    first: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """A frame that a spec takes: ``window`` and its span; ``context`` lies ahead of the segment or behind it."""

    window: int
    start_s: float
    end_s: float
    context: bool = False


class Points:
    """Take what is shown at given times: the grid of ``fps``, or the middles of ``uniform`` parts."""

    def __init__(
        self, step_s: float, phase: float, first: int, stop: float, before: int = 0, end: float | None = None
    ) -> None:
        """Point k lies at (k + phase) * step_s. Context: ``before`` points ahead of ``first``, and ``stop`` to ``end``.

        ``stop`` and ``end`` may be infinite: the points end with the stream.
        """
        self._step_s, self._phase, self._first, self._stop = step_s, phase, first, stop
        self._next, self._end = max(0, first - before), stop if end is None else end
        self._uniform = phase > 0

    @property
    def done(self) -> bool:
        """Tell whether all points are taken."""
        return self._next >= self._end

    @property
    def served(self) -> bool:
        """Tell whether all points of the segment itself are taken: what is still read is context."""
        return self._next >= self._stop

    @property
    def need_s(self) -> float:
        """Return the time of the next point: nothing that is shown only before it is needed any more."""
        return self._time(self._next)

    def _time(self, index: int) -> float:
        return (index + self._phase) * self._step_s

    def _chosen(self, index: int) -> Chosen:
        context = not self._first <= index < self._stop
        return Chosen(index, index * self._step_s, (index + 1) * self._step_s, context)

    def take(self, shown: Shown) -> list[Chosen]:
        """Tell as what a frame is taken: once for each point that it is shown at."""
        taken = []
        while not self.done and (due_s := self._time(self._next) + TOLERANCE_S) < shown.end_s:
            late_s = shown.start_s - due_s  # from the very sum: no point falls between two frames
            if late_s <= 0 or (shown.first and late_s <= STAND_IN_S):
                taken.append(self._chosen(self._next))
            self._next += 1
        return taken

    def left(self, end_s: float) -> list[Chosen]:
        """Let the last frame stand in for uniform points that lie just behind the end."""
        taken = []
        while self._uniform and not self.done and self._time(self._next) <= end_s + STAND_IN_S:
            taken.append(self._chosen(self._next))
            self._next += 1
        return taken

    @property
    def short(self) -> bool:
        """Tell whether points that have a known number were not served."""
        return self._uniform and not self.done


class Every:
    """Take frames 0, n, 2n ... of the sample that start in the segment."""

    short = False

    def __init__(self, step: int, start_s: float, end_s: float) -> None:
        self._step, self._start_s, self._end_s = step, start_s, end_s
        self.done = False

    @property
    def served(self) -> bool:
        """Tell whether all frames of the segment are taken: there is no context."""
        return self.done

    @property
    def need_s(self) -> float:
        """Return the segment's start: every frame from there on counts."""
        return self._start_s

    def take(self, shown: Shown) -> list[Chosen]:
        """Take a frame whose number is due."""
        self.done = shown.start_s + TOLERANCE_S >= self._end_s
        if self.done or shown.start_s + TOLERANCE_S < self._start_s or shown.index % self._step:
            return []
        end_s = shown.end_s if shown.end_s < inf else shown.start_s  # a still lasts for no time
        return [Chosen(shown.index // self._step, shown.start_s, end_s)]

    def left(self, end_s: float) -> list[Chosen]:
        """Take nothing: there is no frame behind the end."""
        del end_s
        return []


def choice(
    spec: FrameSpec, start_s: float, end_s: float, limit_s: float, duration_s: float, still: bool
) -> Points | Every:
    """Return the rule of ``spec`` for the segment [start_s, end_s) of a sample that ends at ``limit_s``.

    Either end may be infinite: a medium's first segment has the frames before time 0 too. A still has time 0.
    """
    if spec.every is not None:
        return Every(spec.every, start_s, end_s)
    start_s = max(0.0, start_s)
    if spec.fps is not None:
        first, stop, limit = (_points_before(time_s, spec.fps) for time_s in (start_s, end_s, limit_s))
        if still:
            stop = limit = 1
        return Points(1 / spec.fps, 0, int(first), stop, spec.before, min(stop + spec.after, limit))
    count = spec.uniform or spec.candidates
    step_s = duration_s / count
    if not step_s:
        return Points(0, 0.5, 0, count if start_s <= 0 else 0)
    first, stop = ceil(start_s / step_s - 0.5 - 1e-6), count
    return Points(step_s, 0.5, first, stop if end_s == inf else min(stop, ceil(end_s / step_s - 0.5 - 1e-6)))


def _points_before(time_s: float, fps: float) -> float:
    """Return how many points of a grid lie before a time, but for rounding."""
    return inf if time_s == inf else ceil(time_s * fps - 1e-6)


class Taker:
    """One spec's frames: chosen, converted, and told apart from context; ``flags`` sees what was emitted."""

    def __init__(self, spec: FrameSpec, rule: Points | Every) -> None:
        self.spec, self.rule = spec, rule
        self.flags = Look()
        self.frames = 0
        self._scaler = Scaler(spec)
        self._gathered: list[tuple[Frame, npt.NDArray[np.float32]]] = []

    def take(self, shown: Shown) -> Iterator[Frame]:
        """Return the frames that the spec takes of what is shown."""
        yield from self._emit(shown, self.rule.take(shown))

    def finish(self, last: Shown | None) -> Iterator[Frame]:
        """Return what is left at the end of the stream or the segment."""
        if last is not None:
            yield from self._emit(last, self.rule.left(last.end_s))
        if self.spec.representative is not None and self._gathered:
            chosen = representatives([thumb for _, thumb in self._gathered], self.spec.representative)
            for window, index in enumerate(chosen):
                frame = self._gathered[index][0]
                self.frames += 1
                yield Frame(
                    frame.image, window, frame.start_s, frame.end_s, frame.frame_s, frame.width, frame.height
                )  # fmt: skip
            self._gathered.clear()

    def _emit(self, shown: Shown, taken: list[Chosen]) -> Iterator[Frame]:
        if not taken:
            return
        content, place = self._scaler.content(shown.picture)
        image = self._scaler.paint(content, place)
        if not all(chosen.context for chosen in taken):
            self.flags.see(content, shown.start_s)
        for chosen in taken:
            frame = Frame(image, chosen.window, chosen.start_s, chosen.end_s, shown.start_s, *shown.picture.size)
            if self.spec.representative is not None:
                self._gathered.append((frame, thumbnail(content)))
                continue
            self.frames += not chosen.context
            yield frame
