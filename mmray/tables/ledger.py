"""The ledger: for every (sample, segment, extractor) what became of it. Commit log and account in one.

Of several rows for one key the winner has the highest attempt, then the latest run_id.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import storage
from mmray.errors import MmrayError, Reason
from mmray.tables.store import Store, read_parquet

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("segment", pa.int32()),
        ("extractor", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempt", pa.int32()),
        ("rows", pa.int32()),
        ("frames", pa.int32()),
        ("media_s", pa.float64()),
        ("decode_s", pa.float64()),
        ("model_s", pa.float64()),
        ("input", pa.string()),
        ("weights", pa.string()),
        ("part", pa.string()),
        ("run_id", pa.string()),
        ("node", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)
KEY = ["sample_id", "segment", "extractor"]
STATUSES = ("ok", "partial", "failed", "skipped", "pending")


def parts(store: Store) -> list[str]:
    """List the files of the ledger, oldest first."""
    return [entry.uri for entry in storage.files(store.path("ledger"), ".parquet")]


def append(store: Store, rows: pa.Table, run_id: str, sequence: int) -> str:
    """Commit rows: one new file, in one step; returns its URI."""
    name = f"part-{run_id}-{sequence:06d}.parquet"
    store.write(rows.select(SCHEMA.names).cast(SCHEMA), "ledger", name)
    return store.path("ledger", name)


def read(store: Store) -> pl.DataFrame:
    """Return the winning row of every key."""
    for _ in range(3):
        with ThreadPoolExecutor(16) as pool, contextlib.suppress(FileNotFoundError):
            tables = list(pool.map(read_parquet, parts(store)))
            break
    else:  # a run at work merged files away three times while they were read
        raise MmrayError(f"{store.uri}: the ledger changes too fast to be read; try again")
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return winners(as_polars(table))


def as_polars(table: pa.Table) -> pl.DataFrame:
    """Convert without copying what need not be copied."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def winners(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep of several rows for one key the highest attempt, then the latest run, then the latest part."""
    return rows.sort("attempt", "run_id", "part", nulls_last=False).unique(KEY, keep="last", maintain_order=True)


def current(rows: pl.DataFrame) -> pl.DataFrame:
    """Drop the rows of a source that has changed since: a shorter file leaves segments nobody does again."""
    latest = rows.sort("run_id", "attempt").unique(["sample_id", "extractor"], keep="last")
    return rows.join(
        latest.select("sample_id", "extractor", "input"), on=["sample_id", "extractor", "input"], how="semi"
    )


def compact(store: Store, rows: pl.DataFrame, old: Sequence[str], run_id: str) -> None:
    """Replace the files ``old`` by one with the winning rows; a crash in between leaves doubles, never a gap."""
    new = store.path("ledger", f"part-{run_id}-compact.parquet")
    table = rows.sort(KEY).to_arrow().select(SCHEMA.names).cast(SCHEMA)
    store.write(table, "ledger", f"part-{run_id}-compact.parquet")
    storage.delete(uri for uri in old if uri != new)


def done(rows: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Return the final rows of the expected keys whose ``input`` is still the same.

    ``expected``: sample_id, segment, extractor, input.
    """
    return _matching(rows, expected).filter(pl.col("status") != "pending")


def _matching(rows: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    return expected.join(rows.select(*KEY, "input", "status", "reason", "rows", "part"), on=[*KEY, "input"])


def unavailable(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of segments that wait because their source could not be read."""
    return rows.filter((pl.col("status") == "pending") & (pl.col("reason") == str(Reason.UNAVAILABLE)))


def statuses(rows: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """Return one row per (sample, extractor): its status from those of its segments, and the reason to show.

    A sample that could not even be probed, because its source was unavailable, has no expected key and is pending.
    """
    planned = _by_sample(expected, _matching(rows, expected))
    pair = ["sample_id", "extractor"]
    unplanned = unavailable(rows).join(expected, on=pair, how="anti").unique(pair)
    return pl.concat([planned, unplanned.select(*pair, "status", "reason")]).sort("extractor", "sample_id")


def _by_sample(expected: pl.DataFrame, matching: pl.DataFrame) -> pl.DataFrame:
    joined = expected.join(matching.select(*KEY, "status", "reason"), on=KEY, how="left")
    status = pl.col("status").fill_null("pending")
    waits = pl.col("reason").filter(status == "pending").drop_nulls().first()
    return joined.group_by("sample_id", "extractor", maintain_order=True).agg(
        pl.when((status == "pending").any())
        .then(pl.lit("pending"))
        .when((status == "ok").all())
        .then(pl.lit("ok"))
        .when((status == "skipped").all())
        .then(pl.lit("skipped"))
        .when(~status.is_in(["ok", "partial"]).any() & (status == "failed").any())
        .then(pl.lit("failed"))
        .otherwise(pl.lit("partial"))
        .first()
        .alias("status"),
        pl.coalesce(waits, pl.col("reason").drop_nulls().first()).alias("reason"),
    )


def account(statuses: pl.DataFrame, extractors: Sequence[str], samples: int) -> dict[str, dict[str, Any]]:
    """Count the statuses and reasons of each extractor; samples that are not even planned are pending too."""
    accounts: dict[str, dict[str, Any]] = {}
    for extractor in extractors:
        own = statuses.filter(pl.col("extractor") == extractor)
        counts = dict(own["status"].value_counts().iter_rows())
        waits = (pl.col("status") == "pending") & (pl.col("reason") != str(Reason.UNAVAILABLE))
        named = own.filter(pl.col("reason").is_not_null() & ~waits)
        reasons = dict(named["reason"].value_counts().sort("reason").iter_rows())
        accounts[extractor] = {status: int(counts.get(status, 0)) for status in STATUSES} | {"reasons": reasons}
        accounts[extractor]["pending"] += samples - own.height
    return accounts


def adds_up(accounts: dict[str, dict[str, Any]], samples: int) -> bool:
    """Tell whether samples = ok + partial + failed + skipped + pending for every extractor, none of them negative."""
    counts = [[int(about[status]) for status in STATUSES] for about in accounts.values()]
    return all(sum(own) == samples and min(own) >= 0 for own in counts)


def error_rate(counts: dict[str, Any]) -> float:
    """Return failed / (ok + partial + failed), 0 where nothing was tried."""
    tried = sum(int(counts[status]) for status in ("ok", "partial", "failed"))
    return int(counts["failed"]) / tried if tried else 0.0
