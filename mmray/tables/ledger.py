"""The ledger: for every (sample, segment, extractor) what became of it. Commit log and account in one.

Of several rows for one key the last in ORDER wins. ``generation`` is the lease token of the run that committed a row:
it grows with every run and depends on no clock. Files are named after the token too. A compacted file seals all older
tokens: readers ignore other files with a lower token, so that what a suspended run commits late changes nothing.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import storage
from mmray.errors import MmrayError, Reason
from mmray.tables.lease import TOKEN, Lease
from mmray.tables.store import DamagedError, Store, named_damage, read_parquet

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
        ("generation", pa.int64()),
    ]
)
ORDER = ["generation", "attempt", "run_id", "part"]
KEY = ["sample_id", "segment", "extractor"]
COMPACTED = "-compact.parquet"  # ends the name of a file that seals older ones
STATUSES = ("ok", "partial", "failed", "skipped", "pending")


def parts(store: Store) -> list[str]:
    """List the files of the ledger that count, oldest first."""
    return _sorted_out(store)[0]


def sealed(store: Store) -> list[str]:
    """List the files that a compaction replaced and that are still there, or came late from a suspended run."""
    return _sorted_out(store)[1]


def _sorted_out(store: Store) -> tuple[list[str], list[str]]:
    uris = [entry.uri for entry in storage.files(store.path("ledger"), ".parquet")]
    compacted = [_token(uri) for uri in uris if uri.endswith(COMPACTED)]
    seal = max(compacted, default=0)
    return [uri for uri in uris if _token(uri) >= seal], [uri for uri in uris if _token(uri) < seal]


def _token(uri: str) -> int:
    match = TOKEN.match(uri.rpartition("/")[2])
    return int(match[1]) if match else 0  # of a store written before leases had tokens


def append(store: Store, rows: pa.Table, run_id: str, sequence: int, held: Lease) -> str:
    """Commit rows: one new file, in one step, if this run still holds the lease; returns its URI."""
    name = f"part-{held.token:08d}-{run_id}-{sequence:06d}.parquet"
    generation = pa.array([held.token] * rows.num_rows, pa.int64())
    rows = rows.select([name for name in SCHEMA.names if name != "generation"]).append_column("generation", generation)
    held.check()
    store.write(rows.cast(SCHEMA), "ledger", name)
    return store.path("ledger", name)


def read(store: Store) -> pl.DataFrame:
    """Return the winning row of every key."""
    for _ in range(5):
        uris = parts(store)
        with ThreadPoolExecutor(16) as pool, contextlib.suppress(FileNotFoundError):
            tables = list(pool.map(read_file, uris))
            if set(uris) <= set(parts(store)):  # no file was merged away while the folder was listed
                break
    else:  # a run at work merged files away each time they were read
        raise MmrayError(f"{store.uri}: the ledger changes too fast to be read; try again")
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return winners(as_polars(table))


def read_file(uri: str) -> pa.Table:
    """Read one file of the ledger; rows of a store without generations have generation 0."""
    table = read_parquet(uri)
    if "generation" not in table.column_names:
        table = table.append_column("generation", pa.array([0] * table.num_rows, pa.int64()))
    if lacking := [name for name in SCHEMA.names if name not in table.column_names]:
        raise DamagedError(uri, f"it lacks {', '.join(lacking)}")
    with named_damage(uri):
        return table.select(SCHEMA.names).cast(SCHEMA)


def as_polars(table: pa.Table) -> pl.DataFrame:
    """Convert without copying what need not be copied."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def newest(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Keep the last row in ORDER of every key."""
    return rows.sort(ORDER, nulls_last=False, maintain_order=True).unique(key, keep="last", maintain_order=True)


def winners(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep of several rows for one key the one that counts."""
    return newest(rows, KEY)


def current(rows: pl.DataFrame) -> pl.DataFrame:
    """Drop the rows of a source that has changed since: a shorter file leaves segments nobody does again."""
    latest = newest(rows, ["sample_id", "extractor"])
    return rows.join(
        latest.select("sample_id", "extractor", "input"), on=["sample_id", "extractor", "input"], how="semi"
    )


def compact(store: Store, rows: pl.DataFrame, old: Sequence[str], run_id: str, held: Lease) -> None:
    """Replace the files ``old`` by one with the winning rows, which seals all older tokens.

    A crash in between leaves files that readers ignore or that say the same, never a gap.
    """
    name = f"part-{held.token:08d}-{run_id}{COMPACTED}"
    table = rows.sort(KEY).to_arrow().select(SCHEMA.names).cast(SCHEMA)
    held.check()
    store.write(table, "ledger", name)
    held.check()
    gone = {*old, *sealed(store)} - {store.path("ledger", name)}
    storage.delete(sorted(gone))


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
