"""The ledger says what became of every key, whoever wrote the row and how often."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mmray import storage
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


def test_the_highest_attempt_wins_then_the_latest_run() -> None:
    rows = frame(
        row("a", attempt=2, run_id="r1", status="failed"),
        row("a", attempt=1, run_id="r9"),
        row("b", attempt=1, run_id="r1", status="failed"),
        row("b", attempt=1, run_id="r2"),
    )
    won = {r["sample_id"]: r["status"] for r in ledger.winners(rows).to_dicts()}
    assert won == {"a": "failed", "b": "ok"}


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
