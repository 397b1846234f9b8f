"""Write down what a store is asked to do: its manifest, and the provenance of its extractors."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.errors import ConfigError
from mmray.pipelines.job import Task
from mmray.tables import ledger
from mmray.tables.store import Store

MEDIUM = frozenset({"uri", "start_s", "end_s", "size_bytes", "source_tag"})  # columns that belong together


def request(store: Store, samples: pa.Table, tasks: Sequence[Task]) -> None:
    """Merge the samples into STORE/manifest.parquet; write the provenance of extractors that are new to the store.

    A sample that is there already gets its new values; columns that only the store has keep theirs.
    """
    new = ledger.as_polars(samples)
    old = store.read("manifest.parquet")
    whole = new
    if old is not None:
        gone = MEDIUM if "uri" in new.columns else frozenset()
        only_old = [name for name in old.column_names if name not in new.columns and name not in gone]
        new = _with_tags(new, ledger.as_polars(old))
        new = new.join(ledger.as_polars(old).select("sample_id", *only_old), on="sample_id", how="left")
        kept = ledger.as_polars(old).join(new, on="sample_id", how="anti")
        whole = pl.concat([kept, new], how="diagonal_relaxed") if kept.height else new
    table = whole.sort("sample_id").to_arrow()
    if old is None or not ledger.as_polars(old).equals(whole.sort("sample_id")):
        store.write(table, "manifest.parquet")
    for task in tasks:
        if not storage.exists(store.path("provenance", f"{task.id}.json")):
            store.write_json(_provenance(task), "provenance", f"{task.id}.json")


def _with_tags(new: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """Keep size and tag of sources that cannot be seen now: they are not known to have changed."""
    tags, medium = ["size_bytes", "source_tag"], ["sample_id", "uri"]
    if not {*medium, *tags} <= {*old.columns} & {*new.columns}:
        return new
    joined = new.join(old.select(*medium, *tags), on=medium, how="left", suffix="_before", maintain_order="left")
    kept = [pl.coalesce(name, f"{name}_before").alias(name) for name in tags]
    return joined.with_columns(kept).drop([f"{name}_before" for name in tags])


def grown(old: pa.Table | None, new: pa.Table, untouched: Collection[str], where: str) -> pa.Table:
    """Return a store's manifest with the samples of an import.

    A sample that is there already gets values only where it has none, and never in MEDIUM or the columns ``untouched``,
    so that what was made from them stays done; ConfigError, naming ``where`` they come from, for another value.
    """
    if old is None:
        return new.sort_by("sample_id")
    try:
        typed = [
            old.schema.field(name) if name in old.column_names else new.schema.field(name) for name in new.column_names
        ]
        there, more = ledger.as_polars(old), ledger.as_polars(new.cast(pa.schema(typed)))
    except pa.ArrowException as error:
        raise ConfigError(f"{where}: does not go together with the store's manifest: {error}") from None
    added = [name for name in more.columns if name != "sample_id" and name not in MEDIUM and name not in untouched]
    both = there.join(
        more.select("sample_id", *added), on="sample_id", how="left", suffix="_new", maintain_order="left"
    )
    for name in (name for name in added if name in there.columns):
        if (other := both.filter(pl.col(name) != pl.col(f"{name}_new"))).height:
            sample, was, now = other.select("sample_id", name, f"{name}_new").row(0)
            raise ConfigError(
                f"{where}: {name} of {other.height} sample(s) is another than in the store, such as "
                f"{sample!r}: {now!r}, there {was!r}"
            )
        both = both.with_columns(pl.coalesce(name, f"{name}_new").alias(name)).drop(f"{name}_new")
    fresh = more.join(there, on="sample_id", how="anti")
    return pl.concat([both, fresh], how="diagonal_relaxed").sort("sample_id").to_arrow()


def _provenance(task: Task) -> dict[str, Any]:
    extractor = task.extractor
    return {
        "id": task.id,
        "as": task.as_,
        "identity": dict(task.identity),
        "config": extractor.model_dump(mode="json"),
        "kind": str(extractor.kind),
        "labels": list(extractor.labels(task.path) or extractor.summary),
        "source": task.source,
        "origin": task.origin,
        "reads_text": task.reads_text,
        "whole_sample": extractor.whole_sample,
        "weights": task.fingerprint,
        "licence": task.licence,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
