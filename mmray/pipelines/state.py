"""What is known before work: the sources as they are, how they are cut, what is done."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import storage
from mmray.config import ExtractConfig
from mmray.errors import Reason
from mmray.pipelines import plan
from mmray.pipelines.console import Progress
from mmray.pipelines.job import Task
from mmray.tables import ledger
from mmray.tables.lease import Lease
from mmray.tables.store import Store

PROBE_COMMIT_S = 3.0


@dataclass(frozen=True, slots=True)
class State:
    """A run's view of its store."""

    tasks: list[Task]
    samples: int
    media: pl.DataFrame
    segments: pl.DataFrame
    rows: pl.DataFrame

    @property
    def ids(self) -> list[str]:
        """Return the extractor ids of the run."""
        return [task.id for task in self.tasks]

    @property
    def expected(self) -> pl.DataFrame:
        """Return the keys that the ledger must have at the end."""
        return plan.expected(self.tasks, self.media, self.segments, self.rows)

    @property
    def pending(self) -> pl.DataFrame:
        """Return the expected keys that are not done and whose source is not absent."""
        keys = self.expected.filter(~pl.col("absent"))
        return keys.join(ledger.done(self.rows, keys), on=ledger.KEY, how="anti")

    @property
    def absent(self) -> int:
        """Return how many samples have a source that cannot be seen now."""
        return self.media.filter("absent")["sample_id"].n_unique()

    @property
    def statuses(self) -> pl.DataFrame:
        """Return the status of every (sample, extractor)."""
        return ledger.statuses(self.rows.join(self.media, on="sample_id", how="semi"), self.expected)

    @property
    def changed(self) -> int:
        """Return how many samples have results of a source that is no longer the same."""
        return changed(self.expected, self.rows)


def look(store: Store, samples: pa.Table, tasks: Sequence[Task]) -> tuple[pa.Table, State]:
    """Look at the sources as they are now; returns the manifest brought up to date, and the store's state."""
    segments = plan.read_segments(store)
    samples, media = plan.sources(samples, tasks, segments)
    return samples, State(list(tasks), samples.num_rows, media, segments, ledger.read(store))


def probed(ray: Any, store: Store, config: ExtractConfig, state: State, chosen: pl.DataFrame, held: Lease) -> State:
    """Probe and cut the chosen media that are new or changed; write the segment table.

    What is probed is written every few seconds, so that an interrupted run does not probe it again.
    """
    new = plan.unplanned(chosen, state.segments)
    if not new.is_empty():
        probe_log = ProbeLog(store, held, new, config.segment_s)
        with Progress("probe", new.height) as progress:
            for done in plan.probe_all(ray, new["uri"].to_list(), config.segment_s, config.timeout_s):
                probe_log.add(done)
                progress.advance(len(done))
        probe_log.write()
        _record_unavailable(store, held, state.tasks, probe_log.unavailable)
    parts = plan.probe_parts(store)
    if not parts:
        return state
    segments = plan.read_segments(store)
    held.check()
    store.write(segments.to_arrow(), "segments.parquet")
    storage.delete(parts)
    return replace(state, segments=segments)


class ProbeLog:
    """Collect probes and write their segments every few seconds, as files that the segment table takes up later."""

    def __init__(self, store: Store, held: Lease, media: pl.DataFrame, segment_s: float) -> None:
        self._store, self._held, self._media, self._segment_s = store, held, media, segment_s
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self.unavailable: list[dict[str, Any]] = []  # media that could not be read, with the detail
        self._file_count = 0
        self._written_at = time.monotonic()

    def add(self, probes: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Take probes, as pairs of the row in ``media`` and the probe."""
        for row, probe in probes:
            medium = self._media.row(row, named=True)
            if (detail := _unavailable(medium, probe)) is not None:
                self.unavailable.append(medium | {"detail": detail})
            else:
                self._waiting.append((row, probe))
        if time.monotonic() - self._written_at > PROBE_COMMIT_S:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        waiting, self._waiting, self._written_at = self._waiting, [], time.monotonic()
        if not waiting:
            return
        self._file_count += 1
        media = self._media[[row for row, _ in waiting]]
        segments = plan.cut(media, [probe for _, probe in waiting], self._segment_s)
        self._held.check()
        name = f"part-{self._held.token:08d}-{self._file_count:06d}.parquet"
        self._store.write(segments.to_arrow(), "probes", name)


def _unavailable(medium: dict[str, Any], probe: dict[str, Any]) -> str | None:
    """Return why a medium that the run saw could not be probed, None where it was."""
    reason, _, detail = (probe.get("problem") or "").partition(": ")
    gone = reason == str(Reason.MISSING_FILE) and medium["present"]
    return detail if gone or reason == str(Reason.UNAVAILABLE) else None


def _record_unavailable(store: Store, held: Lease, tasks: Sequence[Task], media: Sequence[dict[str, Any]]) -> None:
    """Write into the ledger that some media wait: they are not cut, and the next run probes them again."""
    rows = [
        dict.fromkeys(ledger.SCHEMA.names)
        | {
            "sample_id": medium["sample_id"], "segment": 0, "extractor": task.id, "status": "pending",
            "reason": str(Reason.UNAVAILABLE), "detail": medium["detail"], "attempt": 1, "input": medium["input"],
            "run_id": held.run_id, "node": socket.gethostname(), "at": datetime.now(UTC),
        }
        for medium in media
        for task in tasks
        if task.source == medium["source"] and not task.reads_text
    ]  # fmt: skip
    if rows:
        ledger.append(store, pa.Table.from_pylist(rows, ledger.SCHEMA), f"{held.run_id}-probe", 1, held)


def changed(expected: pl.DataFrame, rows: pl.DataFrame) -> int:
    """Count the samples whose source is not the one that the newest results came from."""
    current = expected.select("sample_id", "extractor", "input").unique()
    newest = ledger.newest(rows, ["sample_id", "extractor"])
    both = current.join(
        newest.select("sample_id", "extractor", pl.col("input").alias("then")), on=["sample_id", "extractor"]
    )
    return both.filter(pl.col("input") != pl.col("then"))["sample_id"].n_unique()
