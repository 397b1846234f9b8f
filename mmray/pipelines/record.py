"""Write down what a store is asked to do: its manifest, and the provenance of its extractors."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.pipelines.job import Task
from mmray.tables import ledger
from mmray.tables.store import Store


def request(store: Store, samples: pa.Table, tasks: Sequence[Task]) -> None:
    """Merge the samples into STORE/manifest.parquet; write the provenance of extractors that are new to the store."""
    new = ledger.as_polars(samples)
    old = store.read("manifest.parquet")
    whole = new
    if old is not None:
        kept = ledger.as_polars(old).join(new, on="sample_id", how="anti")
        whole = pl.concat([kept, new], how="diagonal_relaxed") if kept.height else new
    table = whole.sort("sample_id").to_arrow()
    if old is None or not ledger.as_polars(old).equals(whole.sort("sample_id")):
        store.write(table, "manifest.parquet")
    for task in tasks:
        if not storage.exists(store.path("provenance", f"{task.id}.json")):
            store.write_json(_provenance(task), "provenance", f"{task.id}.json")


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
