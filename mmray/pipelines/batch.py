"""Items of several segments through each extractor, in batches; rows back to the segments they belong to."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from mmray.errors import MmrayError, Reason, SampleError
from mmray.extractors.base import ExtractFn
from mmray.media.decode import Outcome
from mmray.models.torch_setup import gpu_is_lost
from mmray.pipelines.feed import Feed, Segment, last_words
from mmray.pipelines.job import Task
from mmray.specs import AnySpec, Gathered, Item, Rows, Wave
from mmray.tables import windows

log = logging.getLogger(__name__)


class GpuLostError(Exception):
    """This process can do nothing more on its GPU: it must end, and another go on."""


@dataclass(slots=True)
class Progress:
    """One segment under way for one extractor."""

    segment: Segment
    task: int
    waiting: int = 0  # items handed over and not yet answered
    decoded: Outcome | None = None  # once its last item is handed over
    tables: list[pa.Table] = field(default_factory=list)
    error: SampleError | None = None
    outcome: Outcome | None = None
    decode_s: float = 0.0
    model_s: float = 0.0
    flags: dict[str, bool | None] = field(default_factory=dict)
    rows: int = 0
    part: str | None = None

    @property
    def row_count(self) -> int:
        """Return the rows not yet written."""
        return sum(table.num_rows for table in self.tables)

    @property
    def size_bytes(self) -> int:
        """Return the size of the rows not yet written."""
        return sum(table.nbytes for table in self.tables)

    def settle(self) -> None:
        """Fix the outcome: what decoding said, unless the model said worse."""
        assert self.decoded is not None
        if len(self.tables) > 1:
            self.tables = [pa.concat_tables(self.tables).combine_chunks()]
        self.outcome = self.decoded
        if self.error is not None:
            if self.error.status == "pending":
                self.tables = []  # all of it is made again
            status = "partial" if self.tables else self.error.status
            frames, media_s = self.decoded.frames, self.decoded.media_s
            if self.error.reason is Reason.UNAVAILABLE:
                status = "pending"
            self.outcome = Outcome(status, self.error.reason, self.error.detail, frames, media_s)
        if self.outcome.status == "pending":
            self.tables = []  # a later run makes them again as a whole


class Batch:
    """The items under way, and what has come of them."""

    def __init__(
        self,
        extract: Sequence[ExtractFn],
        tasks: Sequence[Task],
        schemas: Sequence[pa.Schema],
        run_id: str,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self._extract, self._tasks, self._schemas, self._run_id = extract, tasks, schemas, run_id
        self._heartbeat = heartbeat  # called after each batch of a model
        self._queues: list[list[tuple[Progress, Item | Gathered]]] = [[] for _ in tasks]
        self._weights = [0 for _ in tasks]
        self.unfinished: list[Progress] = []
        self.finished: list[Progress] = []

    def take(self, feed: Feed) -> None:
        """Consume one decoded segment; whole batches run as they fill."""
        segment = feed.segment
        own = {place: Progress(segment, place) for place in segment.tasks}
        gathered: dict[int, dict[AnySpec, list[Item]]] = {place: {} for place in own}
        self.unfinished += own.values()
        failure: SampleError | None = None
        try:
            for spec, item in feed:
                for place, progress in own.items():
                    extractor = self._tasks[place].extractor
                    if spec in extractor.specs and extractor.gather:
                        gathered[place].setdefault(spec, []).append(item)
                    elif spec in extractor.specs:
                        self._add(progress, item)
        except SampleError as error:
            failure = error
        for place, progress in own.items():
            specs = self._tasks[place].extractor.specs
            progress.decode_s = feed.decode_s / len(own)
            progress.error = progress.error or failure
            progress.decoded = Outcome("failed", None, "", 0, 0.0) if failure else feed.outcome(specs)
            progress.flags = {} if failure else feed.flags
            if gathered[place]:
                streams = tuple(gathered[place].get(spec, []) for spec in specs)
                # Frames of a whole sample are chosen by its probed length, however it is cut.
                whole = self._tasks[place].whole_sample
                duration_s = segment.duration_s if whole else feed.duration_s
                self._add(progress, Gathered(streams, segment.start_s, segment.end_s, duration_s))
        self._sweep()

    def finish(self) -> None:
        """Run what is left."""
        for place in range(len(self._tasks)):
            self._flush(place)
        self._sweep()

    def _sweep(self) -> None:
        """Move the segments with nothing outstanding to the finished ones."""
        for progress in self.unfinished:
            if progress.decoded is not None and not progress.waiting:
                progress.settle()
                self.finished.append(progress)
        self.unfinished = [progress for progress in self.unfinished if progress.outcome is None]

    def _add(self, progress: Progress, item: Item | Gathered) -> None:
        self._queues[progress.task].append((progress, item))
        self._weights[progress.task] += weight(item)
        progress.waiting += 1
        if self._weights[progress.task] >= self._tasks[progress.task].extractor.batch_size:
            self._flush(progress.task)

    def _flush(self, place: int) -> None:
        waiting, total = self._queues[place], self._weights[place]
        self._queues[place], self._weights[place] = [], 0
        if not waiting:
            return
        started = time.perf_counter()
        results = list(answers(self._extract[place], [item for _, item in waiting]))
        self._heartbeat()
        seconds = (time.perf_counter() - started) / total
        for (progress, item), result in zip(waiting, results, strict=True):
            progress.waiting -= 1
            progress.model_s += seconds * weight(item)
            if isinstance(result, SampleError):
                progress.error = progress.error or result
            elif len(result):
                one = progress.segment
                progress.tables.append(
                    windows.table(result, one.sample_id, one.segment, self._run_id, self._schemas[place])
                )


def weight(item: Item | Gathered) -> int:
    """Return what an item counts in a batch: a run of windows by its windows, everything else as one."""
    return item.count if isinstance(item, Wave) else 1


def answers(extract: ExtractFn, items: Sequence[Item | Gathered]) -> Iterator[Rows | SampleError]:
    """Return what a model says of each item; an item that makes it raise costs itself, not its neighbours."""
    try:
        results = list(extract(items))
    except MmrayError:
        raise
    except Exception as error:
        if gpu_is_lost():
            raise GpuLostError(last_words(error)) from error
        if len(items) > 1:
            for item in items:
                yield from answers(extract, [item])
            return
        log.error("a model raised on one item", exc_info=error)
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        results = [SampleError(Reason.OUT_OF_MEMORY if memory else Reason.MODEL_ERROR, last_words(error))]
    if len(results) != len(items):
        raise MmrayError(f"{extract!r} gave {len(results)} answers for {len(items)} items: a bug of that extractor")
    yield from results
