"""The ledger says what became of every key, whoever wrote the row and how often."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mmray import storage
from mmray.pipelines import state
from mmray.tables import lease, ledger
from mmray.tables.store import open_store


def row(sample: str, segment: int = 0, status: str = "ok", **more: Any) -> dict[str, Any]:
    base = dict.fromkeys(ledger.SCHEMA.names)
    base |= {
        "sample_id": sample,
        "segment": segment,
        "extractor": "e-1",
        "status": status,
        "attempt": 1,
        "run_id": "r1",
    }
    return base | {"input": "i", "rows": 1, "at": datetime.now(UTC)} | more


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return ledger.as_polars(pa.Table.from_pylist(list(rows), ledger.SCHEMA))


def expected(*keys: tuple[str, int]) -> pl.DataFrame:
    data = [{"sample_id": s, "segment": n, "extractor": "e-1", "input": "i"} for s, n in keys]
    return pl.DataFrame(data, schema_overrides={"segment": pl.Int32})


def test_the_last_generation_wins_then_the_highest_attempt_then_the_latest_run() -> None:
    rows = frame(
        row("a", generation=2, attempt=1, run_id="r1", status="failed"),
        row("a", generation=1, attempt=3, run_id="r9"),
        row("b", generation=1, attempt=2, run_id="r1", status="failed"),
        row("b", generation=1, attempt=1, run_id="r9"),
        row("c", generation=0, attempt=1, run_id="r1", status="failed"),
        row("c", generation=0, attempt=1, run_id="r2"),
    )
    won = {r["sample_id"]: r["status"] for r in ledger.winners(rows).to_dicts()}
    assert won == {"a": "failed", "b": "failed", "c": "ok"}


def test_a_changed_shorter_file_counts_though_the_clock_was_set_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    for run_id, source, segments in (("20261231T10", "long", 3), ("20261231T09", "short", 2)):
        with lease.hold(store, run_id) as held:
            rows = [row("a", n, input=source, run_id=run_id) for n in range(segments)]
            ledger.append(store, pa.Table.from_pylist(rows, ledger.SCHEMA), run_id, 1, held)
    with lease.hold(store, "20261231T08") as held:
        rows = ledger.current(ledger.read(store))
        ledger.compact(store, rows, ledger.parts(store), "20261231T08", held)
    counted = ledger.read(store).sort("segment")
    assert counted["input"].to_list() == ["short", "short"]
    expected = counted.select(*ledger.KEY, "input")
    assert state.changed(expected, counted) == 0
    assert ledger.done(counted, expected).height == 2


def test_a_ledger_without_generations_is_read_and_loses_to_every_new_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    old = pa.Table.from_pylist([row("a", status="failed", attempt=5), row("b")], ledger.SCHEMA)
    store.write(old.drop_columns("generation"), "ledger", "part-20261231T235959123-1a2b-compact.parquet")
    assert ledger.read(store)["generation"].to_list() == [0, 0]
    with lease.hold(store, "new") as held:
        ledger.append(store, pa.Table.from_pylist([row("a")], ledger.SCHEMA), "new", 1, held)
    assert dict(ledger.read(store).select("sample_id", "status").iter_rows()) == {"a": "ok", "b": "ok"}


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        (["ok", "ok"], "ok"),
        (["skipped", "skipped"], "skipped"),
        (["failed", "failed"], "failed"),
        (["failed", "skipped"], "failed"),
        (["ok", "failed"], "partial"),
        (["ok", "skipped"], "partial"),
        (["partial", "ok"], "partial"),
        (["ok", None], "pending"),
        (["failed", None], "pending"),
    ],
)
def test_a_sample_is_what_its_segments_are(statuses: list[str | None], whole: str) -> None:
    rows = frame(*(row("a", n, status) for n, status in enumerate(statuses) if status))
    keys = expected(*(("a", n) for n in range(len(statuses))))
    result = ledger.statuses(rows, keys)
    assert result["status"].to_list() == [whole]


def test_another_input_or_a_row_put_back_is_not_done() -> None:
    rows = frame(row("a", input="other"), row("b", status="pending"), row("c"))
    keys = expected(("a", 0), ("b", 0), ("c", 0))
    assert ledger.done(rows, keys)["sample_id"].to_list() == ["c"]


def test_the_account_counts_every_sample_and_reason() -> None:
    rows = frame(row("a"), row("b", status="failed", reason="empty"), row("c", status="skipped", reason="no_audio"))
    keys = expected(("a", 0), ("b", 0), ("c", 0), ("d", 0))
    counts = ledger.account(ledger.statuses(rows, keys), ["e-1"], samples=6)["e-1"]
    assert {name: counts[name] for name in ledger.STATUSES} == {
        "ok": 1, "partial": 0, "failed": 1, "skipped": 1, "pending": 3,
    }  # fmt: skip
    assert counts["reasons"] == {"empty": 1, "no_audio": 1}
    assert ledger.error_rate(counts) == 0.5


def test_compaction_changes_nothing_that_is_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    with lease.hold(store, "r1") as held:
        ledger.append(store, pa.Table.from_pylist([row("a", status="failed"), row("b")], ledger.SCHEMA), "r1", 1, held)
        ledger.append(store, pa.Table.from_pylist([row("a", attempt=2)], ledger.SCHEMA), "r1", 2, held)
        before = ledger.read(store)
        ledger.compact(store, before, ledger.parts(store), "r1", held)
    assert len(ledger.parts(store)) == 1
    assert ledger.read(store).sort("sample_id").equals(before.sort("sample_id"))
    assert storage.temporary_files(str(tmp_path)) == []
