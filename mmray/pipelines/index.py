"""An index over a feature table too long to compare with every vector each time: HNSW, by usearch.

Source: Malkov & Yashunin 2018, Efficient and robust approximate nearest neighbor search using HNSW graphs.
It is kept beside the table it was made from, under that table's generation: a new generation has a new index.
"""

import importlib.util
import logging
import uuid
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from mmray import storage
from mmray.pipelines import nearest
from mmray.pipelines.console import Progress
from mmray.pipelines.nearest import DIGITS, HITS, Found
from mmray.tables import features
from mmray.tables.features import Matrix
from mmray.tables.store import Store

log = logging.getLogger(__name__)

LEAST_ROWS = 1_000_000  # below, comparing with all vectors takes seconds; above, it is worth the minutes of indexing
WIDE = 4  # times k are looked up: the last of a graph's answers are its least certain
ADDED, SEARCHED = 64, 256  # how many candidates an insertion and a query look at; 128 for ADDED takes twice the time
LIBRARY = "usearch"


def wanted(store: Store, extractor: str, pooling: str) -> bool:
    """Tell whether a feature table is long enough for an index, and can have one (usearch installed, a local store)."""
    with storage.open_read(features.path(store, extractor, pooling)) as file:
        rows = pq.read_metadata(file).num_rows
    if rows < LEAST_ROWS or storage.is_remote(store.uri):
        return False
    if importlib.util.find_spec(LIBRARY) is None:
        log.info("comparing with all %d vectors; pip install 'mmray[search]' indexes so many", rows)
        return False
    return True


def search(store: Store, extractor: str, pooling: str, query: Matrix, k: int, leave_out: str | None) -> Found:
    """Return about what ``nearest.nearest`` finds over the whole table, in milliseconds; the first time it indexes.

    The scores are true cosines; a few of the nearest samples may be missed.
    """
    index, rows = _opened(store, extractor, pooling)
    found = index.search(nearest.directed(query), WIDE * (k + 1))
    scores = np.clip(1 - np.asarray(found.distances, np.float64), -1, 1).round(DIGITS)
    names = _names(store, extractor, pooling, np.asarray(found.keys, np.int64))
    hits = pl.DataFrame({"sample_id": names, "score": scores}).with_columns(
        start_s=pl.lit(None, pl.Float64), end_s=pl.lit(None, pl.Float64)
    )
    hits = hits.filter(pl.col("sample_id") != leave_out) if leave_out is not None else hits
    ordered = hits.select(list(HITS)).sort("score", "sample_id", descending=[True, False]).head(k)
    return Found(ordered, len(index) - (leave_out is not None), rows - len(index))


def _opened(store: Store, extractor: str, pooling: str) -> tuple[Any, int]:
    """Return the index of a feature table as it is now, mapped from its file, and the rows of the table."""
    from usearch.index import Index

    table = storage.local_path(features.path(store, extractor, pooling))
    # What begins with "_" readers of Parquet folders pass over.
    path = table.with_name(f"_index-{features.generation(store, extractor, pooling)}.usearch")
    metadata = pq.read_metadata(table)
    if not path.is_file():
        temporary = path.with_name(f"{storage.TEMPORARY}{uuid.uuid4().hex}")
        try:
            _made(store, extractor, pooling, metadata.num_rows).save(str(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        storage.delete(str(old) for old in table.parent.glob("_index-*.usearch") if old != path)
    index: Any = Index.restore(str(path), view=True)
    index.expansion_search = SEARCHED
    return index, metadata.num_rows


def _made(store: Store, extractor: str, pooling: str, rows: int) -> Any:
    """Index all vectors that have a direction, under their place in the table."""
    from usearch.index import Index

    index: Any = None
    place = 0
    log.info("indexing %d vectors of %s, once", rows, extractor)
    with Progress("index", rows) as progress:
        for _, matrix in nearest.pooled(store, extractor, pooling):
            if index is None:
                index = Index(ndim=matrix.shape[1], metric="cos", dtype="f32", expansion_add=ADDED)
            good = nearest.usable(matrix)
            index.add(np.flatnonzero(good).astype(np.uint64) + place, matrix[good])
            place += len(matrix)
            progress.advance(len(matrix))
    return index


def _names(store: Store, extractor: str, pooling: str, places: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
    """Return the samples that stand at places of a feature table."""
    with storage.open_read(features.path(store, extractor, pooling)) as file:
        names = pq.ParquetFile(file).read(columns=["sample_id"])["sample_id"]
    taken: list[str] = names.take(places).to_pylist()
    return taken
