"""Adopt vectors that another tool made: they become a partition like any other, and its samples are done.

An imported partition has no source that mmray could look at again (``source`` is null in its provenance): what it was
given is what its ledger rows say, and every other sample of the store counts as skipped, ``no_source``.
"""

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.errors import ConfigError
from mmray.pipelines import adopt_rows, record
from mmray.pipelines.adopt_rows import KNOWN, Target
from mmray.tables import foreign, lease, ledger, manifest
from mmray.tables.foreign import Vectors
from mmray.tables.store import Store, open_store

log = logging.getLogger(__name__)


def run(uris: Sequence[str], store: str, name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Import files of vectors into a store under a name; returns what became of them (what ``--json`` prints).

    ``columns``: further columns of the manifest, with one value for all samples of the call. Samples that are there
    with the same numbers are left alone; ConfigError, and nothing is written, where one is there with other numbers,
    label or columns, or where the name means something else in this store. A vector with a number that is NaN,
    infinite or missing is a failed sample (``corrupt``).
    """
    started = time.perf_counter()
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError(f"--as {name}: a name is made of letters, digits, - and _")
    found = foreign.read(uris)
    samples = _samples(found, columns)
    opened = open_store(storage.absolute(store), create=True)
    target = Target(opened, name, found[0].dim, provenance.new_run_id())
    with lease.hold(opened, target.run_id) as held:
        if held.note:
            log.warning("%s", held.note)
        about = _provenance(target)
        old = opened.read("manifest.parquet")
        whole = record.grown(old, samples, _read_columns(opened), ", ".join(uris))
        rows = ledger.read(opened)
        known = rows.filter(pl.col("extractor") == target.id).select(list(KNOWN)).cast(KNOWN)
        new = adopt_rows.written(target, found, known)
        held.check()
        if old is None or not ledger.as_polars(whole).equals(ledger.as_polars(old)):
            opened.write(whole, "manifest.parquet")
        if new.height or not storage.exists(opened.path("provenance", f"{target.id}.json")):
            about["files"] += [_file(uri, target.run_id) for uri in uris]
            opened.write_json(about, "provenance", f"{target.id}.json")
        if new.height:
            ledger.append(opened, new.to_arrow(), target.run_id, 1, held)
            rows = ledger.read(opened)
        held.check()
        adopt_rows.pool(target, rows)
        result = _account(target, samples.num_rows, known, new, rows, started)
        if new.height:
            opened.write_json(result, "runs", f"{target.run_id}.json")
    return result


def _samples(found: Sequence[Vectors], columns: Mapping[str, Any]) -> pa.Table:
    """Return the rows of the manifest for all files."""
    where = ", ".join(one.uri for one in found)
    try:
        table = pa.concat_tables([one.columns for one in found], promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError(f"{where}: their columns do not go together: {error}") from None
    for column, value in columns.items():
        if not isinstance(value, str | int | float):
            raise ConfigError(f"--column {column}: give a text or a number")
        if column in table.column_names:
            raise ConfigError(f"--column {column}={value}: {where} has that column")
        table = table.append_column(column, pa.array([value] * table.num_rows))
    return manifest.checked(table, where)


def _read_columns(store: Store) -> set[str]:
    """Return the columns of the manifest that the store's extractors read: an import does not touch them."""
    files = storage.files(store.path("provenance"), ".json")
    known = [store.read_json("provenance", entry.uri.rpartition("/")[2]) or {} for entry in files]
    return {about["source"] for about in known if about["source"]}


def _provenance(target: Target) -> dict[str, Any]:
    """Return the provenance of the partition, as it is or new; ConfigError where its name is taken."""
    store = target.store
    for entry in storage.files(store.path("provenance"), ".json"):
        about = store.read_json("provenance", entry.uri.rpartition("/")[2]) or {}
        if about["id"] == target.id:
            return about
        if about["as"] == target.name:
            taken = f"--as {target.name}: {store.uri} has {about['id']} of that name"
            if about["source"]:
                raise ConfigError(f"{taken}, which `mmray extract` makes; import under another name")
            dim = about["config"]["dim"]
            raise ConfigError(f"{taken} with vectors of {dim} numbers; these have {target.dim}: give another name")
    return {
        "id": target.id,
        "as": target.name,
        "identity": target.identity,
        "config": {"dim": target.dim, "pooling": [adopt_rows.POOLING]},
        "kind": "embedding",
        "labels": [],
        "source": None,
        "origin": None,
        "reads_text": False,
        "whole_sample": False,
        "weights": "imported",
        "licence": None,
        "files": [],
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _file(uri: str, run_id: str) -> dict[str, Any]:
    with storage.open_read(uri) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return {"uri": storage.absolute(uri), "sha256": digest, "size_bytes": file.tell(), "run_id": run_id}


def _account(
    target: Target, given: int, known: pl.DataFrame, new: pl.DataFrame, rows: pl.DataFrame, started: float
) -> dict[str, Any]:
    own = rows.filter(pl.col("extractor") == target.id)
    counts = dict(own["status"].value_counts().iter_rows())
    return {
        "run_id": target.run_id,
        "extractor": target.id,
        "dim": target.dim,
        "given": given,
        "there_before": known.height,
        "unchanged": given - new.height,
        "added": new.filter(~pl.col("sample_id").is_in(known["sample_id"].to_list())).height,
        "failed": new.filter(pl.col("status") == "failed").height,
        "samples": own.height,
        "ok": counts.get("ok", 0),
        "seconds": round(time.perf_counter() - started, 3),
    }
