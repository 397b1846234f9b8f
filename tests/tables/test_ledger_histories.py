"""Whatever runs do to a ledger, and wherever they are killed or suspended: the run with the last token counts."""

import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mmray import storage
from mmray.tables import ledger
from mmray.tables.store import Store, open_store
from tests.tables.test_ledger import row

SAMPLES, SEGMENTS, INPUTS = ("a", "b"), (0, 1, 2), ("x", "y")
NAMES = ["sample_id", "segment", "input", "status", "attempt", "run_id", "generation"]


@dataclass
class Run:
    """A run that believes to hold the lease: one that is suspended right after ``check`` cannot know better."""

    token: int
    run_id: str
    inputs: dict[str, str]  # what its sources were when it looked
    files: int = 0
    snapshot: tuple[pl.DataFrame, list[str]] | None = None

    def check(self) -> None:
        """Answer as a lease that was confirmed a moment ago."""


@dataclass
class History:
    """A store, its runs, and for every key what the holders committed while they were holders.

    ``late``: the highest token under which a run committed rows of a sample when it was the holder no more.
    """

    store: Store
    runs: list[Run] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)
    counted: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def start(self, clock: int, inputs: tuple[str, ...]) -> None:
        token = len(self.runs) + 1
        self.runs.append(Run(token, f"{clock:02d}-{token}", dict(zip(SAMPLES, inputs, strict=True))))

    def run(self, behind: int = 0) -> Run | None:
        """Return the holder, or one of the runs before it; None where there is none yet."""
        return self.runs[max(0, len(self.runs) - 1 - behind)] if self.runs else None

    def commit(self, behind: int, sample: str, segment: int, status: str, attempt: int) -> None:
        """Commit a row, as the holder or (``behind`` > 0) as an earlier run that wakes up."""
        run = self.run(behind)
        if run is None or run.snapshot is not None:
            return
        run.files += 1
        # Within a run attempts grow; those of a later run may be lower.
        about = {"input": run.inputs[sample], "status": status, "attempt": attempt + 10 * run.files}
        about |= {"run_id": run.run_id}
        table = pa.Table.from_pylist([row(sample, segment, **about)], ledger.SCHEMA)
        ledger.append(self.store, table, run.run_id, run.files, run)  # type: ignore[arg-type]
        if run is self.runs[-1]:
            self.counted[sample, segment] = about | {"generation": run.token}
        else:
            self.late[sample] = max(self.late.get(sample, 0), run.token)

    def begin_compaction(self) -> None:
        """Read what is to be compacted, as a run does before it is suspended: until it goes on it does nothing else."""
        run = self.run()
        if run is not None:
            run.snapshot = (ledger.current(ledger.read(self.store)), ledger.parts(self.store))

    def end_compaction(self, behind: int, deletions: int) -> None:
        """Write the compacted file and delete so many of the old ones before a kill; all where it lives on."""
        run = self.run(behind)
        if run is None or run.snapshot is None:
            return
        (rows, old), run.snapshot = run.snapshot, None
        self.compact(run, rows, old, deletions)

    def compact(self, run: Run, rows: pl.DataFrame, old: list[str], deletions: int) -> None:
        def killed(uris: Any) -> None:
            true_delete(sorted(uris)[:deletions])

        true_delete, storage.delete = storage.delete, killed
        try:
            ledger.compact(self.store, rows, old, run.run_id, run)  # type: ignore[arg-type]
        finally:
            storage.delete = true_delete

    def compact_at_once(self, deletions: int) -> None:
        """Compact as the holder, with nobody else at work: what is read stays the same."""
        run = self.run()
        if run is None or run.snapshot is not None:
            return
        before = ledger.current(ledger.read(self.store))
        self.compact(run, before, ledger.parts(self.store), deletions)
        after = ledger.current(ledger.read(self.store))
        assert_frame_equal(before.select(NAMES), after.select(NAMES), check_row_order=False)

    def check(self) -> None:
        rows = ledger.read(self.store)
        found = {(one["sample_id"], one["segment"]): one for one in rows.select(NAMES).to_dicts()}
        assert len(found) == rows.height
        kept = ledger.current(rows)
        for sample in SAMPLES:
            own = [one for (name, _), one in self.counted.items() if name == sample]
            last = max((one["generation"] for one in own), default=0)
            if last <= self.late.get(sample, 0):  # a late commit may count where no later run did anything
                continue
            (source,) = {one["input"] for one in own if one["generation"] == last}
            now = kept.filter(pl.col("sample_id") == sample)
            assert now["input"].unique().to_list() == [source], "winners and current disagree"
            for (name, segment), committed in self.counted.items():
                if name == sample and committed["input"] == source and committed["generation"] == last:
                    read = {key: found[name, segment][key] for key in committed}
                    assert read == committed, "the last holder's row is not the one that counts"


clocks, behind = st.integers(0, 99), st.integers(0, 3)
few = st.integers(0, 3)
operations = st.one_of(
    st.tuples(st.just("start"), clocks, st.tuples(*[st.sampled_from(INPUTS)] * len(SAMPLES))),
    st.tuples(
        st.just("commit"),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.sampled_from(SAMPLES),
        st.sampled_from(SEGMENTS),
        st.sampled_from(["ok", "failed", "pending"]),
        st.integers(1, 4),
    ),
    st.tuples(st.just("begin_compaction")),
    st.tuples(st.just("end_compaction"), behind, st.integers(0, 9)),
    st.tuples(st.just("compact_at_once"), st.integers(0, 9)),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(operations, min_size=3, max_size=25))
def test_the_last_token_counts_after_any_history(steps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        history = History(open_store(f"{folder}/store", create=True))
        for name, *given_values in steps:
            getattr(history, name)(*given_values)
            history.check()


def test_what_comes_after_a_later_compaction_is_ignored_listed_and_deleted_by_the_next(tmp_path: Any) -> None:
    history = History(open_store(str(tmp_path / "store"), create=True))
    history.start(50, ("x", "x"))
    history.commit(0, "a", 0, "ok", 1)
    history.start(40, ("x", "x"))
    history.compact_at_once(99)
    before = ledger.read(history.store)
    history.commit(1, "a", 0, "failed", 9)
    history.commit(1, "b", 0, "ok", 1)
    assert ledger.read(history.store).equals(before)
    assert [uri.rpartition("/")[2] for uri in ledger.sealed(history.store)] == [
        "part-00000001-50-1-000002.parquet",
        "part-00000001-50-1-000003.parquet",
    ]
    history.compact_at_once(99)
    assert ledger.sealed(history.store) == []
    assert len(ledger.parts(history.store)) == 1
