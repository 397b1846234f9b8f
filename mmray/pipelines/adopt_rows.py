"""Vectors that another tool made, as windows, ledger rows and a feature table of a partition."""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mmray import provenance, storage
from mmray.errors import ConfigError, Reason
from mmray.tables import features, windows
from mmray.tables.foreign import Matrix, Vectors
from mmray.tables.store import Store, write_parquet

IMPORTED = "import"  # what stands in an identity in place of an extractor's name
POOLING = "mean"  # every sample has one row: any other would hold the same
KNOWN = pl.Schema({"sample_id": pl.String, "input": pl.String, "status": pl.String, "attempt": pl.Int32})


@dataclass(frozen=True, slots=True)
class Target:
    """Where the vectors go: a partition of a store, in one run."""

    store: Store
    name: str
    dim: int
    run_id: str

    @property
    def identity(self) -> dict[str, Any]:
        """Return what its id is made of: the name it is given, and what a row is."""
        return {"name": IMPORTED, "as": self.name, "version": 1, "fields": {"dim": self.dim}, "weights": "imported"}

    @property
    def id(self) -> str:
        """Return the id of the partition."""
        return f"{self.name}-{provenance.fingerprint(self.identity)}"


def written(target: Target, found: Sequence[Vectors], known: pl.DataFrame) -> pl.DataFrame:
    """Write the windows of what is new, chunk by chunk; returns the ledger rows that are to make them count.

    ``known``: the partition's rows of the ledger (columns KNOWN). Nothing stays written where a ConfigError is raised.
    """
    parts: list[str] = []
    rows: list[pl.DataFrame] = []
    try:
        for vectors in found:
            done = 0
            for matrix in vectors.chunks():
                part = f"windows/extractor={target.id}/part-{target.run_id}-{len(parts) + 1:05d}.parquet"
                new = _new(target, vectors, done, matrix, known)
                good = new.filter(pl.col("status") == "ok")
                if good.height:
                    write_parquet(_windows(target, good, matrix), target.store.path(part))
                    parts.append(part)
                rows.append(_ledger(target, new, part))
                done += len(matrix)
            if done != vectors.columns.num_rows:
                raise ConfigError(f"{vectors.uri}: names {vectors.columns.num_rows} samples and holds {done} vectors")
        all_rows = pl.concat(rows)
        if known.is_empty() and not (all_rows["status"] == "ok").any():
            raise ConfigError(f"{found[0].uri}: not one vector is whole: {all_rows['detail'][0]}")
    except BaseException:
        storage.delete(target.store.path(part) for part in parts)
        raise
    return all_rows


def _new(target: Target, vectors: Vectors, first: int, matrix: Matrix, known: pl.DataFrame) -> pl.DataFrame:
    """Return the samples of a chunk that the store does not have so (sample_id, place, input, status, detail, attempt).

    ConfigError where it has one with other numbers.
    """
    broken = (~np.isfinite(matrix)).sum(axis=1)
    detail = [f"{count} of {target.dim} numbers are NaN, infinite or missing" if count else None for count in broken]
    chunk = pl.DataFrame(
        {
            "sample_id": vectors.columns["sample_id"].slice(first, len(matrix)).to_pylist(),
            "place": range(len(matrix)),
            "input": [hashlib.sha256(row).hexdigest()[:16] for row in matrix],
            "status": np.where(broken > 0, "failed", "ok"),
            "detail": pl.Series(detail, dtype=pl.String),
        }
    ).join(known, on="sample_id", how="left", suffix="_then", maintain_order="left")
    same = pl.col("input") == pl.col("input_then")
    other = chunk.filter(~same, pl.col("status_then") == "ok")
    if other.height:
        raise ConfigError(
            f"{vectors.uri}: {other.height} sample(s), such as {other['sample_id'][0]!r}, are in {target.id} with "
            "other numbers; a partition holds the vectors of one tool: import these under another name (--as)"
        )
    there = same & pl.col("status_then").is_in(["ok", "failed"])
    return chunk.filter(~there.fill_null(False)).with_columns(attempt=pl.col("attempt").fill_null(0) + 1)


def _windows(target: Target, good: pl.DataFrame, matrix: Matrix) -> pa.Table:
    """Return one window a sample; like a text it has no times."""
    schema = windows.schema("embedding", {"embedding": target.dim})
    vectors = np.ascontiguousarray(matrix[good["place"].to_numpy()])
    nothing = pa.nulls(good.height, pa.float64())
    columns = {
        "sample_id": pa.array(good["sample_id"].to_list()),
        "segment": pa.array(np.zeros(good.height, np.int32)),
        "window": pa.array(np.zeros(good.height, np.int32)),
        "start_s": nothing,
        "end_s": nothing,
        "run_id": pa.array([target.run_id] * good.height),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), target.dim),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _ledger(target: Target, new: pl.DataFrame, part: str) -> pl.DataFrame:
    ok = pl.col("status") == "ok"
    zero = pl.lit(0.0)
    return new.select(
        "sample_id",
        pl.lit(0, pl.Int32).alias("segment"),
        pl.lit(target.id).alias("extractor"),
        "status",
        pl.when(ok).then(None).otherwise(pl.lit(str(Reason.CORRUPT))).alias("reason"),
        "detail",
        pl.col("attempt").cast(pl.Int32),
        ok.cast(pl.Int32).alias("rows"),
        pl.lit(0, pl.Int32).alias("frames"),
        zero.alias("media_s"),
        zero.alias("decode_s"),
        zero.alias("model_s"),
        "input",
        pl.lit("imported").alias("weights"),
        pl.when(ok).then(pl.lit(part)).otherwise(None).alias("part"),
        pl.lit(target.run_id).alias("run_id"),
        pl.lit(socket.gethostname()).alias("node"),
        pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")).alias("at"),
    )


def pool(target: Target, rows: pl.DataFrame) -> None:
    """Write the feature table from the windows, some samples at a time, unless it is of these rows already."""
    own = rows.filter((pl.col("extractor") == target.id) & (pl.col("status") == "ok")).sort("sample_id")
    made_from = provenance.fingerprint([list(row) for row in own.select("sample_id", "input", "run_id").rows()], 16)
    if own.is_empty() or features.generation(target.store, target.id, POOLING) == made_from:
        return
    empty = features.table([], np.empty((0, target.dim), np.float32), made_from)
    with (
        storage.create(features.path(target.store, target.id, POOLING)) as file,
        pq.ParquetWriter(file, empty.schema, compression="zstd") as writer,
    ):
        for group in windows.by_size(own, 12 * target.dim + 100):
            table = windows.counted(target.store, group, ["embedding"])
            vectors = windows.vectors(table["embedding"])
            writer.write_table(features.table(table["sample_id"].to_pylist(), vectors, made_from))
