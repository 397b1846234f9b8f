"""Check that a store keeps its promises."""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.pipelines.status import View, view
from mmray.tables import lease, ledger
from mmray.tables.store import open_store, read_parquet

OWNER = ["sample_id", "segment", "run_id"]
SHOWN = 20  # differences of one kind


def verify(uri: str, clean: bool = False) -> dict[str, Any]:
    """Check every promise; with ``clean`` first remove the parts and temporary files that dead runs left.

    Returns ``ok`` and ``broken``: promise, path, detail. Promises: ``account`` (every sample accounted for), ``rows``
    (each ledger row has just its rows), ``orphans`` (no rows that the ledger does not count), ``features`` (one row
    per finished sample), ``readable``, ``provenance``.
    """
    store = open_store(uri)
    removed: list[str] = []
    if clean:
        with lease.hold(store, provenance.new_run_id()) as held:
            removed = _orphans(view(store)) + ledger.sealed(store) + storage.temporary_files(store.uri)
            held.check()
            storage.delete(removed)
    seen = view(store)
    broken = [*_account(seen), *_provenance(seen), *_parts(seen), *_features(seen)]
    return {"ok": not broken, "broken": broken, "removed": removed}


def _problem(promise: str, path: str, detail: str) -> dict[str, str]:
    return {"promise": promise, "path": path, "detail": detail}


def _account(seen: View) -> Iterator[dict[str, str]]:
    for extractor, counts in ledger.account(
        seen.statuses, [one["id"] for one in seen.extractors], seen.samples
    ).items():
        total = sum(counts[status] for status in ledger.STATUSES)
        if total != seen.samples:
            yield _problem("account", "ledger", f"{extractor}: {total} samples accounted for, {seen.samples} asked for")
    unknown = seen.rows.filter(~pl.col("status").is_in(ledger.STATUSES))
    for row in unknown.iter_rows(named=True):
        yield _problem("account", "ledger", f"{row['sample_id']}: unknown status {row['status']!r}")


def _provenance(seen: View) -> Iterator[dict[str, str]]:
    known = {one["id"] for one in seen.extractors}
    for extractor in seen.rows["extractor"].unique().to_list():
        if extractor not in known:
            yield _problem("provenance", f"provenance/{extractor}.json", "the ledger names it, and it is not there")


def _orphans(seen: View) -> list[str]:
    named = set(seen.rows["part"].drop_nulls().to_list())
    uris = [entry.uri for entry in storage.files(seen.store.path("windows"), ".parquet")]
    return [uri for uri in uris if _relative(seen, uri) not in named]


def _relative(seen: View, uri: str) -> str:
    return uri[len(seen.store.uri) :].lstrip("/")


def _parts(seen: View) -> Iterator[dict[str, str]]:
    """Compare every part with what the ledger says of it."""
    orphans = set(_orphans(seen))
    for uri in sorted(orphans):
        yield _problem("orphans", _relative(seen, uri), "no row of the ledger names it (verify --clean removes it)")
    for uri in ledger.sealed(seen.store):
        yield _problem("orphans", _relative(seen, uri), "its rows were compacted (verify --clean removes it)")
    for path in storage.temporary_files(seen.store.uri):
        yield _problem("orphans", _relative(seen, path), "a temporary file of a dead run (verify --clean removes it)")
    counted = seen.rows.filter(pl.col("part").is_not_null())
    for (part,), own in counted.partition_by("part", as_dict=True).items():
        try:
            head = ledger.as_polars(read_parquet(seen.store.path(part), OWNER))
        except FileNotFoundError:
            yield _problem("rows", part, f"is missing; the ledger counts {own['rows'].sum()} rows in it")
            continue
        except (pa.ArrowException, OSError) as error:
            yield _problem("readable", part, f"cannot be read: {error}")
            continue
        yield from _compared(part, head.group_by(OWNER).len("found"), own.select(*OWNER, "rows"))


def _compared(part: str, found: pl.DataFrame, counted: pl.DataFrame) -> Iterator[dict[str, str]]:
    both = found.join(counted, on=OWNER, how="full", coalesce=True)
    for row in (
        both.filter(pl.col("found").fill_null(0) != pl.col("rows").fill_null(0)).sort(OWNER).iter_rows(named=True)
    ):
        promise = "orphans" if row["rows"] is None else "rows"
        name = f"{row['sample_id']}, segment {row['segment']}, run {row['run_id']}"
        yield _problem(promise, part, f"{name}: {row['found'] or 0} rows, the ledger counts {row['rows'] or 0}")


def _features(seen: View) -> Iterator[dict[str, str]]:
    """Compare the samples of feature tables with the finished samples."""
    done, statuses = ledger.done(seen.rows, seen.expected), seen.statuses
    kinds = {one["id"]: one["kind"] for one in seen.extractors}
    for entry in storage.files(seen.store.path("features"), ".parquet"):
        path = _relative(seen, entry.uri)
        extractor = path.split("extractor=")[1].partition("/")[0]
        own = statuses.filter(pl.col("extractor") == extractor)
        pooled = done.filter(pl.col("extractor") == extractor)
        if kinds.get(extractor) != "detections":  # where nothing was detected there is a row all the same
            pooled = pooled.filter(pl.col("rows") > 0)
        try:
            ids = read_parquet(entry.uri, ["sample_id"])["sample_id"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            yield _problem("readable", path, f"cannot be read: {error}")
            continue
        for detail in _differences(ids, own, set(pooled["sample_id"].to_list())):
            yield _problem("features", path, detail)


def _differences(ids: list[str], own: pl.DataFrame, with_rows: set[str]) -> Iterator[str]:
    """Say how a feature table's samples differ from the finished ones; while some are pending it may lag behind."""
    if len(ids) != len(set(ids)):
        yield f"{len(ids) - len(set(ids))} samples stand in it more than once"
    by_status = {status: set(rows["sample_id"]) for (status,), rows in own.partition_by("status", as_dict=True).items()}
    finished = (by_status.get("ok", set()) | by_status.get("partial", set())) & with_rows
    if "pending" not in by_status:
        for sample_id in sorted(finished - set(ids))[:SHOWN]:
            yield f"{sample_id} is finished and has no row; the same run again makes it"
    for sample_id in sorted(set(ids) & (by_status.get("failed", set()) | by_status.get("skipped", set())))[:SHOWN]:
        yield f"{sample_id} has a row and is not finished"
