"""The vectors of one partition that are nearest to a query by cosine: exact, chunk by chunk, in bounded memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmray import storage
from mmray.tables import features, ledger, windows
from mmray.tables.features import Matrix
from mmray.tables.store import Store

CHUNK_ROWS = 32_768  # 128 MiB of vectors of 1,024 numbers
BUFFER_BYTES = 4 * 2**20  # read from a column at a time: a row group of 2**20 vectors never stands in memory whole
# Float32 products differ by 1e-7 with the place in a chunk; what is nearer than that is the same, and goes by its id.
DIGITS = 6
HITS = pl.Schema({"sample_id": pl.String, "score": pl.Float64, "start_s": pl.Float64, "end_s": pl.Float64})


class Vectors(NamedTuple):
    """Some rows: ``keys`` (sample_id, start_s, end_s; times null for whole samples), ``matrix`` float32 (rows, dim)."""

    keys: pl.DataFrame
    matrix: Matrix


class Found(NamedTuple):
    """``hits`` (columns HITS), best first; how many vectors were compared, and left out (NaN, infinite or zero)."""

    hits: pl.DataFrame
    compared: int
    left_out: int


def pooled(store: Store, extractor: str, pooling: str, wanted: pa.Array | None = None) -> Iterator[Vectors]:
    """Read a feature table lazily; ``wanted``: the ids of the only samples to read."""
    with storage.open_read(features.path(store, extractor, pooling)) as file:
        table = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        for batch in table.iter_batches(CHUNK_ROWS, columns=["sample_id", "embedding"]):
            chunk = pa.table(batch)
            if wanted is not None:
                chunk = chunk.filter(pc.is_in(chunk["sample_id"], wanted))
            if chunk.num_rows:
                yield _vectors(chunk.append_column("start_s", _nothing(chunk)).append_column("end_s", _nothing(chunk)))


def windowed(store: Store, extractor: str, wanted: pa.Array | None = None) -> Iterator[Vectors]:
    """Read the windows that the ledger counts, part by part (64 MB each)."""
    rows = ledger.current(ledger.read(store))
    rows = rows.filter((pl.col("extractor") == extractor) & pl.col("status").is_in(["ok", "partial"]))
    if wanted is not None:
        rows = rows.filter(pl.col("sample_id").is_in(wanted.to_pylist()))
    for part in rows["part"].drop_nulls().unique(maintain_order=True):
        table = windows.counted(store, rows.filter(pl.col("part") == part), ["embedding"])
        for start in range(0, table.num_rows, CHUNK_ROWS):
            yield _vectors(table.slice(start, CHUNK_ROWS))


def _nothing(table: pa.Table) -> pa.Array:
    return pa.nulls(table.num_rows, pa.float64())


def _vectors(table: pa.Table) -> Vectors:
    keys = ledger.as_polars(table.select(["sample_id", "start_s", "end_s"]))
    return Vectors(keys, windows.vectors(table["embedding"]))


def nearest(chunks: Iterable[Vectors], query: Matrix, k: int, leave_out: str | None = None) -> Found:
    """Return the ``k`` samples with the best cosine to ``query`` (dim,), each with its best row.

    ``leave_out``: a sample that does not count, the query itself.
    """
    unit = directed(query)
    best = pl.DataFrame(schema=HITS)
    compared = left_out = 0
    for keys, matrix in chunks:
        good = usable(matrix)
        left_out += len(good) - int(good.sum())
        if leave_out is not None:
            good &= (keys["sample_id"] != leave_out).to_numpy()
        compared += int(good.sum())
        scores = cosines(matrix, unit)
        if best.height == k:
            good &= scores >= best["score"][-1]
        rows = keys.with_columns(score=pl.Series(scores)).filter(pl.Series(good)).select(list(HITS))
        # A sample's best row so far may stand in an earlier chunk.
        ordered = pl.concat([best, rows]).sort(
            "score", "sample_id", "start_s", descending=[True, False, False], nulls_last=True
        )
        best = ordered.unique("sample_id", keep="first", maintain_order=True).head(k)
    return Found(best, compared, left_out)


def directed(vector: Matrix) -> Matrix:
    """Return a vector (dim,) brought to length 1."""
    unit: Matrix = (vector / np.linalg.norm(vector.astype(np.float64))).astype(np.float32)
    return unit


def usable(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Tell of every row whether it has a direction: neither NaN nor infinite nor zero."""
    good: npt.NDArray[np.bool_] = np.logical_and(np.isfinite(matrix).all(axis=1), matrix.any(axis=1))
    return good


def cosines(matrix: Matrix, unit: Matrix) -> npt.NDArray[np.float64]:
    """Return the cosine of every row with a unit vector, rounded to DIGITS."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(matrix, axis=1)
        far = np.isinf(lengths) | (lengths == 0)  # squares of what is above 1e19 or below 1e-23 are no float32
        lengths[far] = 1
        scores = (matrix @ unit / lengths).astype(np.float64)
        if far.any():
            rows = matrix[far].astype(np.float64)
            scores[far] = rows @ unit / np.linalg.norm(rows, axis=1)
    rounded: npt.NDArray[np.float64] = np.clip(scores, -1.0, 1.0).round(DIGITS)
    return rounded
