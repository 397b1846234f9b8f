"""What is known before work: the sources as they are, how they are cut, what is done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa

from mmray.config import ExtractConfig
from mmray.pipelines import plan
from mmray.pipelines.console import Progress
from mmray.pipelines.job import Task
from mmray.tables import ledger
from mmray.tables.lease import Lease
from mmray.tables.store import Store


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
        """Return the expected keys that are not done."""
        return self.expected.join(ledger.done(self.rows, self.expected), on=ledger.KEY, how="anti")

    @property
    def statuses(self) -> pl.DataFrame:
        """Return the status of every (sample, extractor)."""
        return ledger.by_sample(self.expected, ledger.done(self.rows, self.expected))

    @property
    def changed(self) -> int:
        """Return how many samples have results of a source that is no longer the same."""
        return changed(self.expected, self.rows)


def look(store: Store, samples: pa.Table, tasks: Sequence[Task]) -> tuple[pa.Table, State]:
    """Look at the sources as they are now; returns the manifest brought up to date, and the store's state."""
    samples, media = plan.sources(samples, tasks)
    return samples, State(list(tasks), samples.num_rows, media, plan.read_segments(store), ledger.read(store))


def probed(ray: Any, store: Store, config: ExtractConfig, state: State, chosen: pl.DataFrame, held: Lease) -> State:
    """Probe and cut the chosen media that are new or changed; write the segment table."""
    new = plan.unplanned(chosen, state.segments)
    if new.is_empty():
        return state
    with Progress("probe", new.height) as progress:
        probes = plan.probe_all(ray, new["uri"].to_list(), config.timeout_s, progress.advance)
    segments = plan.merged(state.segments, plan.cut(new, probes, config.segment_s))
    held.check()
    store.write(segments.to_arrow(), "segments.parquet")
    return replace(state, segments=segments)


def changed(expected: pl.DataFrame, rows: pl.DataFrame) -> int:
    """Count the samples whose source is not the one that the newest results came from."""
    current = expected.select("sample_id", "extractor", "input").unique()
    newest = ledger.newest(rows, ["sample_id", "extractor"])
    both = current.join(
        newest.select("sample_id", "extractor", pl.col("input").alias("then")), on=["sample_id", "extractor"]
    )
    return both.filter(pl.col("input") != pl.col("then"))["sample_id"].n_unique()
