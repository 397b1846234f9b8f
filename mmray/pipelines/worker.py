"""Work on segments: decode each once, feed every extractor of the run, write parts, return ledger rows."""

import socket
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mmray import storage
from mmray.errors import ConfigError, MmrayError
from mmray.extractors.base import ExtractFn
from mmray.media.decode import Outcome
from mmray.pipelines import attempts
from mmray.pipelines.attempts import LOADING, AttemptLog
from mmray.pipelines.batch import Batch, GpuLostError, Progress
from mmray.pipelines.feed import Feed, Segment, last_words
from mmray.pipelines.job import Task, checkpoints, together
from mmray.pipelines.worker_settings import WorkerSettings
from mmray.tables import ledger, windows
from mmray.tables.store import Store, write_parquet

PART_BYTES = 64 * 2**20
FLAGS = ("silent", "black", "frozen")
RESULT = pa.schema([*ledger.SCHEMA, *((name, pa.bool_()) for name in FLAGS), ("source", pa.string())])


def _no_node_is_lost(_: str) -> bool:
    return False


class Worker:
    """Runs segments through the extractors of one pool, on one device.

    ``node_id``: Ray's id of this node; ``lost``: tells whether a node, by its id, is no longer there.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        tasks: Sequence[Task],
        node_id: str = "",
        lost: Callable[[str], bool] = _no_node_is_lost,
    ) -> None:
        self._store, self._run_id, self._tasks = Store(settings.store), settings.run_id, tasks
        self._max_attempts, self._threads = settings.max_attempts, settings.decode_threads
        self._lost = lost
        # Half of the watchdog's time: a source that stays away is pending, and must not look like one that hangs.
        storage.set_retry_limit_s(settings.timeout_s / 2)
        self._attempts = AttemptLog(self._store, self._run_id, settings.timeout_s, node_id)
        self._node = socket.gethostname()
        self._parts = 0
        history = attempts.judge_loading(self._store, self._run_id, lost)
        if history.crashes >= self._max_attempts:
            raise MmrayError(
                f"loading the models killed its process {history.crashes} times; last words: {history.words}"
            )
        self._attempts.begin([LOADING])
        try:
            self._extract: list[ExtractFn] = [loaded(task, settings.device) for task in tasks]
            self._schemas = [schema(task) for task in tasks]
        finally:  # only what kills the process leaves its file
            self._attempts.finish()

    def run(self, segments: Sequence[Segment]) -> pa.Table:
        """Work on segments; returns their ledger rows and flags (schema RESULT), when their parts are written.

        An error that ends all work on the GPU ends this process: Ray starts another, which judges what this one named.
        """
        try:
            return self._run(segments)
        except GpuLostError as error:
            self._attempts.end_process(str(error))

    def _run(self, segments: Sequence[Segment]) -> pa.Table:
        keys = [segment.key for segment in segments]
        histories = attempts.judge(self._store, self._run_id, keys, self._lost)
        done: list[Progress] = []
        healthy: list[Segment] = []
        for segment in segments:
            history = histories[segment.key]
            attempts.check_interruptions(history, segment.sample_id)
            if history.crashes >= self._max_attempts:
                outcome = Outcome("failed", history.reason, history.detail, 0, 0.0)
                done += [Progress(segment, task, outcome=outcome) for task in segment.tasks]
            elif history.suspect:
                done += self._together([segment], 1)
            else:
                healthy.append(segment)
        done += self._together(healthy, self._threads)
        self._attempts.finish()
        return pa.Table.from_pylist([self._row(progress) for progress in done], RESULT)

    def _together(self, segments: Sequence[Segment], threads: int) -> list[Progress]:
        """Decode some segments ahead while the models work on the one in front; write their rows."""
        batch = Batch(self._extract, self._tasks, self._schemas, self._run_id, self._attempts.heartbeat)
        ahead: deque[Feed] = deque()
        coming = iter(segments)
        done: list[Progress] = []
        while True:
            while len(ahead) < threads and (segment := next(coming, None)) is not None:
                under_way = [progress.segment for progress in batch.unfinished] + [feed.segment for feed in ahead]
                self._attempts.begin(list({one.key for one in [*under_way, segment]}), len(segment.tasks))
                specs = dict.fromkeys(spec for place in segment.tasks for spec in self._tasks[place].extractor.specs)
                ahead.append(Feed(segment, list(specs)))
            if not ahead:
                break
            batch.take(ahead.popleft())
            if sum(progress.size_bytes for progress in batch.finished) >= PART_BYTES:
                done += self._written(batch)
        batch.finish()
        return done + self._written(batch)

    def _written(self, batch: Batch) -> list[Progress]:
        """Write the rows of the finished segments, one part an extractor; take them out of the batch."""
        finished, batch.finished = batch.finished, []
        for place, task in enumerate(self._tasks):
            own = [progress for progress in finished if progress.task == place and progress.tables]
            if not own:
                continue
            self._parts += 1
            part = f"windows/extractor={task.id}/part-{self._attempts.name}-{self._parts:05d}.parquet"
            rows = pa.concat_tables([table for progress in own for table in progress.tables])
            write_parquet(rows, self._store.path(part))
            for progress in own:
                progress.part, progress.rows, progress.tables = part, progress.row_count, []
        return finished

    def _row(self, progress: Progress) -> dict[str, Any]:
        one, task = progress.segment, self._tasks[progress.task]
        outcome = progress.outcome
        assert outcome is not None
        return {
            "sample_id": one.sample_id,
            "segment": one.segment,
            "extractor": task.id,
            "status": outcome.status,
            "reason": outcome.reason and str(outcome.reason),
            "detail": outcome.detail or None,
            "attempt": one.attempt,
            "rows": progress.rows,
            "frames": outcome.frames,
            "media_s": outcome.media_s,
            "decode_s": progress.decode_s,
            "model_s": progress.model_s,
            "input": one.input,
            "weights": task.fingerprint,
            "part": progress.part,
            "run_id": self._run_id,
            "node": self._node,
            "at": datetime.now(UTC),
            "source": one.source,
            **progress.flags,
        }


def loaded(task: Task, device: str) -> ExtractFn:
    """Load a task's model; ConfigError or MmrayError, naming extractor and checkpoint, where that fails."""
    path = checkpoint(task)
    try:
        return task.extractor.load(device, path)
    except MmrayError as error:
        raise type(error)(f"{task.as_}: {error}") from error
    except Exception as error:  # a damaged file makes each library raise an error of its own
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        kind = MmrayError if memory or path is None else ConfigError
        raise kind(f"{task.as_}: {path or 'the model'} cannot be loaded: {last_words(error)}") from error


def checkpoint(task: Task) -> str | None:
    """Return where a task's checkpoint is on this node; MmrayError where this node has another one."""
    if task.path is None:
        return None
    found = list(checkpoints(task.extractor).values())
    if together(found) != task.fingerprint:
        here = f"{socket.gethostname()}: {', '.join(str(one.path) for one in found)}"
        raise MmrayError(f"{here} holds other weights than the driver found ({task.id})")
    return str(found[0].path)


def schema(task: Task) -> pa.Schema:
    """Return the schema of a task's windows table."""
    extractor = task.extractor
    return windows.schema(str(extractor.kind), extractor.dims(task.path), tuple(extractor.summary), extractor.half)
