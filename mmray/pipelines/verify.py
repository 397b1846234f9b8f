"""Check that a store keeps its promises, and repair what can be repaired."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.errors import ConfigError, MmrayError
from mmray.pipelines.status import View, provenance_of, view
from mmray.tables import lease, ledger
from mmray.tables.lease import Lease
from mmray.tables.store import DamagedError, Store, open_store, read_parquet

OWNER = ["sample_id", "segment", "run_id"]
SHOWN = 20  # differences of one kind
ASIDE = "damaged"  # where --clean moves files that cannot be read, under their path in the store
CLEAN = "`mmray verify --clean` moves it to damaged/"
Problem = dict[str, str]
# Folders whose files --clean moves aside where they cannot be read, and what makes their content again.
MENDS = {
    "ledger": "the next extract does just its rows again",
    "flags": "the flags in it (silent, black, frozen) are lost",
    "probes": "the next extract probes its media again",
    "provenance": "the next extract or import writes it again",
    "runs": "the account of that run is lost, no results",
    "segments.parquet": "the next extract probes its media again",
    "manifest.parquet": "the next extract writes it from the manifest of its configuration",
}


def verify(uri: str, clean: bool = False) -> dict[str, Any]:
    """Check every promise; with ``clean`` first repair what can be, and remove what dead runs left.

    Returns ``ok`` and ``broken``: promise, path, detail. Promises: ``account`` (every sample accounted for), ``rows``
    (each ledger row has just its rows), ``orphans`` (no rows that the ledger does not count), ``features`` (one row
    per finished sample), ``readable``, ``provenance``, ``schema``, ``lease``. ``running``: the run at work, whose work
    in progress is not checked, or None. ``removed`` and ``repaired``: what ``clean`` did.
    """
    result: dict[str, Any] = {"running": None, "removed": [], "repaired": []}
    try:
        store = open_store(uri)
    except ConfigError:
        raise
    except DamagedError as error:
        mend = "put a copy back, or delete it: the next extract writes it again, for a store of this version"
        return result | {
            "ok": False,
            "broken": [_problem("schema", "store.json", f"is damaged, {error.words}; {mend}")],
        }
    except MmrayError as error:
        return result | {"ok": False, "broken": [_problem("schema", "store.json", str(error))]}
    if clean:
        with lease.hold(store, provenance.new_run_id()) as held:
            result["repaired"] = list(_repair(store, held))
            result["removed"] = _remove(store, held)
    before = lease.token(store)
    running, broken = _running(store)
    broken += _problems(store, running is None)
    if broken and (running is not None or lease.token(store) != before):  # what a run was about to replace
        running, again = _running(store)
        again += _problems(store, running is None)
        broken = [problem for problem in again if problem in broken]
    return result | {"ok": not broken, "broken": broken, "running": running}


def _problem(promise: str, path: str, detail: str) -> Problem:
    return {"promise": promise, "path": path, "detail": detail}


def _running(store: Store) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return the run at work, and what is wrong with the lease file."""
    try:
        return lease.holder(store), []
    except MmrayError as error:
        return None, [_problem("lease", lease.FILE, str(error))]


def _problems(store: Store, quiet: bool) -> list[Problem]:
    """Check a store; where a run is at work (not ``quiet``) only what it has committed."""
    damage = [
        _problem("readable", _path(store, error.uri), f"is damaged, {error.words}; {CLEAN}: {mend}")
        for error, mend in _damaged(store)
    ]
    if any(not problem["path"].startswith(("flags", "runs")) for problem in damage):
        return damage  # nothing else can be told from what is left
    try:
        seen = view(store)
    except ConfigError as error:  # no manifest, no provenance
        if quiet and not ledger.parts(store):
            raise
        return [*damage, _problem("account", "manifest.parquet", str(error))] if quiet else damage
    found = [*damage, *_account(seen), *_provenance(seen), *(problem for problem, _, _ in _parts(seen))]
    if quiet:
        return [*found, *_orphans(seen), *_features(seen)]
    return [problem for problem in found if problem["promise"] != "orphans"]


def _damaged(store: Store) -> Iterator[tuple[DamagedError, str]]:
    """Read every file that is not of an extractor; yield what cannot be read, and what makes it again."""
    readers: dict[str, Callable[[str], Any]] = {
        "ledger": ledger.read_file,
        "flags": read_parquet,
        "probes": read_parquet,
        "provenance": lambda uri: provenance_of(store, uri.rpartition("/")[2]),
        "runs": lambda uri: store.read_json("runs", uri.rpartition("/")[2]),
        "segments.parquet": read_parquet,
        "manifest.parquet": lambda uri: _columns(uri, ["sample_id"]),
    }
    for name, mend in MENDS.items():
        uris = [store.path(name)] if "." in name else [entry.uri for entry in storage.files(store.path(name))]
        for uri in ledger.parts(store) if name == "ledger" else uris:
            try:
                readers[name](uri)
            except FileNotFoundError:
                continue
            except DamagedError as error:
                yield error, mend


def _columns(uri: str, names: list[str]) -> pa.Table:
    """Read columns of a Parquet file; DamagedError where it lacks one."""
    table = read_parquet(uri, names)
    if lacking := [name for name in names if name not in table.column_names]:
        raise DamagedError(uri, f"it lacks {', '.join(lacking)}")
    return table


def _path(store: Store, uri: str) -> str:
    return uri[len(store.uri) :].lstrip("/")


def _repair(store: Store, held: Lease) -> Iterator[str]:
    """Move what cannot be read aside, put segments whose rows are gone back in the queue; say what was done."""
    for error, mend in list(_damaged(store)):
        yield f"{_move_aside(store, error.uri, held)}: {mend}"
    try:
        seen = view(store)
    except ConfigError:  # the manifest is gone: nothing is left to compare
        return
    for uri in [entry.uri for entry in storage.files(store.path("features"), ".parquet")]:
        try:
            _columns(uri, ["sample_id"])
        except DamagedError:
            yield f"{_move_aside(store, uri, held)}: the next extract makes it again"
    lost = [ledger.SCHEMA.empty_table()]
    for _, own, damaged in _parts(seen):
        if damaged is not None:
            yield _move_aside(store, damaged, held)
        lost.append(own.to_arrow().select(ledger.SCHEMA.names).cast(ledger.SCHEMA))
    rows = ledger.as_polars(pa.concat_tables(lost)).unique(ledger.KEY, maintain_order=True)
    if rows.height:
        ledger.append(store, _pending(rows).to_arrow(), held.run_id, 1, held)
        yield f"{rows.height} segment(s) without their rows are pending again: the next extract does them"


def _pending(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of the ledger as put back in the queue, without their part."""
    return rows.with_columns(
        pl.lit("pending").alias("status"),
        pl.col("attempt") + 1,
        pl.lit(0, pl.Int32).alias("rows"),
        pl.lit(None, pl.String).alias("part"),
        pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")).alias("at"),
    )


def _move_aside(store: Store, uri: str, held: Lease) -> str:
    path = _path(store, uri)
    held.check()
    storage.put(store.path(ASIDE, path), storage.read_bytes(uri))
    storage.delete([uri])
    return f"{path} was moved to {ASIDE}/"


def _remove(store: Store, held: Lease) -> list[str]:
    """Delete what dead runs left; parts stay while a ledger file that may name them lies in ``damaged/``."""
    gone = [*ledger.sealed(store), *storage.temporary_files(store.uri)]
    if not _is_incomplete(store):
        with contextlib.suppress(ConfigError):  # nothing was extracted yet
            gone = [*_orphan_parts(view(store)), *gone]
    held.check()
    storage.delete(gone)
    return gone


def _is_incomplete(store: Store) -> bool:
    return bool(storage.files(store.path(ASIDE, "ledger")))


def _account(seen: View) -> Iterator[Problem]:
    for extractor, counts in ledger.account(
        seen.statuses, [one["id"] for one in seen.extractors], seen.samples
    ).items():
        total = sum(counts[status] for status in ledger.STATUSES)
        if total != seen.samples:
            yield _problem("account", "ledger", f"{extractor}: {total} samples accounted for, {seen.samples} asked for")
    unknown = seen.rows.filter(~pl.col("status").is_in(ledger.STATUSES))
    for row in unknown.iter_rows(named=True):
        yield _problem("account", "ledger", f"{row['sample_id']}: unknown status {row['status']!r}")


def _provenance(seen: View) -> Iterator[Problem]:
    known = {one["id"] for one in seen.extractors}
    for extractor in seen.rows["extractor"].unique().to_list():
        if extractor not in known:
            detail = "the ledger names it, and it is not there (the next extract or import writes it again)"
            yield _problem("provenance", f"provenance/{extractor}.json", detail)


def _orphan_parts(seen: View) -> list[str]:
    named = set(seen.rows["part"].drop_nulls().to_list())
    uris = [entry.uri for entry in storage.files(seen.store.path("windows"), ".parquet")]
    return [uri for uri in uris if _path(seen.store, uri) not in named]


def _orphans(seen: View) -> Iterator[Problem]:
    """Find what dead runs left."""
    mend = "verify --clean removes it"
    if _is_incomplete(seen.store):
        mend = "it may belong to a ledger file in damaged/: the next extract does its rows again and removes it; or "
        mend += "delete damaged/ledger and verify --clean again"
    for uri in sorted(_orphan_parts(seen)):
        yield _problem("orphans", _path(seen.store, uri), f"no row of the ledger names it ({mend})")
    for uri in ledger.sealed(seen.store):
        detail = "its rows were compacted, or came late from a suspended run (verify --clean removes it)"
        yield _problem("orphans", _path(seen.store, uri), detail)
    for uri in storage.temporary_files(seen.store.uri):
        detail = "a temporary file of a dead run (verify --clean removes it)"
        yield _problem("orphans", _path(seen.store, uri), detail)


def _parts(seen: View) -> Iterator[tuple[Problem, pl.DataFrame, str | None]]:
    """Compare every part with what the ledger says of it.

    Yields what is wrong, the rows of the ledger that have not their rows, and the part where it cannot be read.
    """
    counted = seen.rows.filter(pl.col("part").is_not_null())
    mend = "verify --clean puts its segments back in the queue"
    for (name,), own in counted.partition_by("part", as_dict=True).items():
        part = str(name)
        uri = seen.store.path(part)
        try:
            head = ledger.as_polars(_columns(uri, OWNER))
        except FileNotFoundError:
            detail = f"is missing; the ledger counts {own['rows'].sum()} rows in it ({mend})"
            yield _problem("rows", part, detail), own, None
            continue
        except DamagedError as error:
            yield _problem("readable", part, f"cannot be read: {error.words} ({mend})"), own, uri
            continue
        both = head.group_by(OWNER).len("found").join(own.select(*OWNER, "rows"), on=OWNER, how="full", coalesce=True)
        different = both.filter(pl.col("found").fill_null(0) != pl.col("rows").fill_null(0)).sort(OWNER)
        for number, row in enumerate(different.iter_rows(named=True)):
            promise = "orphans" if row["rows"] is None else "rows"
            segment = f"{row['sample_id']}, segment {row['segment']}, run {row['run_id']}"
            detail = f"{segment}: {row['found'] or 0} rows, the ledger counts {row['rows'] or 0}"
            lost = own.join(different.slice(number, 1), on=OWNER, how="semi") if promise == "rows" else own.clear()
            yield _problem(promise, part, f"{detail} ({mend})" if promise == "rows" else detail), lost, None


def _features(seen: View) -> Iterator[Problem]:
    """Compare the samples of feature tables with the finished samples."""
    done, statuses = ledger.done(seen.rows, seen.expected), seen.statuses
    kinds = {one["id"]: one["kind"] for one in seen.extractors}
    there = set()
    for entry in storage.files(seen.store.path("features"), ".parquet"):
        path = _path(seen.store, entry.uri)
        there.add(path)
        extractor = path.split("extractor=")[1].partition("/")[0]
        own = statuses.filter(pl.col("extractor") == extractor)
        pooled = _pooled(done, extractor, kinds.get(extractor))
        try:
            ids = _columns(entry.uri, ["sample_id"])["sample_id"].to_pylist()
        except DamagedError as error:
            yield _problem("readable", path, f"cannot be read: {error.words} (the same extract again makes it)")
            continue
        for detail in _differences(ids, own, set(pooled["sample_id"].to_list())):
            yield _problem("features", path, detail)
    for one in seen.extractors:
        own = statuses.filter(pl.col("extractor") == one["id"])
        if "pending" in own["status"].to_list() or _pooled(done, one["id"], one["kind"]).is_empty():
            continue
        for pooling in one.get("config", {}).get("pooling", ()):
            path = f"features/extractor={one['id']}/pooling={pooling}/part-0.parquet"
            if path not in there:
                yield _problem("features", path, "is missing; the same extract again makes it")


def _pooled(done: pl.DataFrame, extractor: str, kind: str | None) -> pl.DataFrame:
    """Return the finished segments that feature tables are made of."""
    finished = done.filter((pl.col("extractor") == extractor) & pl.col("status").is_in(["ok", "partial"]))
    # Where nothing was detected there is a row all the same.
    return finished if kind == "detections" else finished.filter(pl.col("rows") > 0)


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
