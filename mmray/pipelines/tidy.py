"""The end of a run: make plain globs of the tables exact, in an order that a crash at any point leaves right."""

import contextlib
import logging
from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmray import storage
from mmray.pipelines import plan
from mmray.tables import ledger
from mmray.tables.lease import Lease, LeaseLostError
from mmray.tables.store import Store, read_parquet, write_parquet

log = logging.getLogger(__name__)

UNFINISHED = "unfinished.json"  # stands in a store from the first work of a run to the end of its compaction

OWNER = ["sample_id", "segment", "run_id"]


def begin(store: Store, run_id: str) -> None:
    """Mark the store as one that needs a compaction: if this run is killed, the next one makes up for it."""
    store.write_json({"run_id": run_id}, UNFINISHED)


@contextlib.contextmanager
def marked_if_lost(store: Store, run_id: str) -> Iterator[None]:
    """Mark the store where this run loses the lease: its workers may have written after the new holder's compaction."""
    try:
        yield
    except LeaseLostError:
        if storage.exists(store.path("store.json")):  # a store that was deleted is not made anew
            begin(store, run_id)
        raise


def is_needed(store: Store) -> bool:
    """Tell whether a run was killed before the end of its compaction."""
    return storage.exists(store.path(UNFINISHED))


def end(store: Store, held: Lease) -> None:
    """Remove the mark: plain globs are exact."""
    held.check()
    storage.delete([store.path(UNFINISHED)])


def flags(store: Store, held: Lease, segments: pl.DataFrame) -> None:
    """Move the flags found while decoding into the segment table."""
    files = [entry.uri for entry in storage.files(store.path("flags"), ".parquet")]
    if not files:
        return
    on = ["sample_id", "source", "segment", "input"]
    found = pl.concat([ledger.as_polars(read_parquet(uri)) for uri in files])
    found = found.group_by(on).agg(pl.col(name).drop_nulls().last() for name in plan.FLAGS)
    joined = segments.join(found, on=on, how="left", suffix="_new", maintain_order="left")
    new = [pl.coalesce(f"{name}_new", name).alias(name) for name in plan.FLAGS]
    held.check()
    store.write(joined.with_columns(new).select(list(plan.SEGMENTS)).to_arrow(), "segments.parquet")
    storage.delete(files)


def windows_and_ledger(store: Store, run_id: str, rows: pl.DataFrame, held: Lease) -> pl.DataFrame:
    """Drop superseded rows and orphan parts, and put the ledger into one file.

    New parts first, then the ledger that names them, then the old parts go: whoever reads in between sees the
    ledger's rows whole. Returns the ledger's rows with the parts as they are now.
    """
    old = ledger.parts(store)
    rows = ledger.current(rows)
    existing = [entry.uri for entry in storage.files(store.path("windows"), ".parquet")]
    named = rows.filter(pl.col("part").is_not_null())
    owners = {part[0]: frame for part, frame in named.partition_by("part", as_dict=True).items()}
    renamed: dict[str, str] = {}
    for uri in existing:
        part = uri[len(store.uri) :].lstrip("/")
        if part not in owners:
            continue
        keep = owners[part].select(*OWNER).with_columns(wanted=True)
        head = ledger.as_polars(read_parquet(uri, OWNER)).join(keep, on=OWNER, how="left", maintain_order="left")
        mask = head["wanted"].fill_null(False)
        if not mask.all():
            new = f"{part.removesuffix('.parquet')}-{run_id[-4:]}.parquet"
            write_parquet(read_parquet(uri).filter(pc.equal(mask.to_arrow().cast(pa.bool_()), True)), store.path(new))
            renamed[part] = new
    rows = rows.with_columns(pl.col("part").replace(renamed))
    # Always: before parts are deleted, what a suspended run may still commit about them must be sealed off.
    ledger.compact(store, rows, old, run_id, held)
    kept = {store.path(renamed.get(part, part)) for part in owners}
    if orphans := [uri for uri in existing if uri not in kept]:
        log.info("removing %d part(s) that no row of the ledger names", len(orphans))
        held.check()
        storage.delete(orphans)
    storage.delete(storage.temporary_files(store.uri))
    return rows
