"""Windows tables: the rows of an extractor as they come, in Parquet parts; and their columns by kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mmray.errors import MmrayError
from mmray.specs import Rows
from mmray.tables import ledger
from mmray.tables.store import Store, read_parquet

HEAD = [
    ("sample_id", pa.string()),
    ("segment", pa.int32()),
    ("window", pa.int32()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("run_id", pa.string()),
]
DETECTION = [
    ("frame_s", pa.float64()),
    ("class_id", pa.int32()),
    ("class_name", pa.string()),
    *((name, pa.float32()) for name in ("score", "x1", "y1", "x2", "y2")),
]
TEXT = [("text", pa.string()), ("language", pa.string()), ("avg_logprob", pa.float32())]
GENERATED = [
    *((name, pa.binary()) for name in ("picture_png", "spectrum_png", "sound_wav")),
    ("rate_hz", pa.int32()),
    ("seed", pa.int64()),
    ("text", pa.string()),
    *((name, pa.float32()) for name in ("clip", "clap", "flagged")),
]
AT_ONCE_BYTES = 256 * 2**20
BY_KIND = {"detections": DETECTION, "text": TEXT, "tokens": [("token", pa.int32())], "generated": GENERATED}


def schema(kind: str, dims: Mapping[str, int], columns: Sequence[str] = (), half: bool = False) -> pa.Schema:
    """Return the schema of a windows table.

    ``dims``: lengths of the vector columns (FixedSizeList<float32>, of float16 where ``half``); ``columns``: the names
    of a descriptors table.
    """
    number = pa.float16() if half else pa.float32()
    vectors = [(name, pa.list_(number, length)) for name, length in dims.items()]
    numbers = [(name, pa.float64() if name.endswith("_s") else pa.float32()) for name in columns]
    return pa.schema([*HEAD, *vectors, *numbers, *BY_KIND.get(kind, [])])


def table(rows: Rows, sample_id: str, segment: int, run_id: str, schema: pa.Schema) -> pa.Table:
    """Build the rows of one item under a schema."""
    count = len(rows)
    columns: dict[str, Any] = {
        "sample_id": [sample_id] * count,
        "segment": [segment] * count,
        "window": rows.window,
        "start_s": rows.start_s,
        "end_s": rows.end_s,
        "run_id": [run_id] * count,
    }
    columns |= rows.columns
    return pa.table([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    matrix = np.ascontiguousarray(values, dtype=kind.value_type.to_pandas_dtype())
    assert matrix.ndim == 2, f"vectors come as (rows, dim), not {matrix.shape}"
    assert matrix.shape[1] == kind.list_size, f"vectors have {matrix.shape[1]} numbers, not {kind.list_size}"
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=kind)


def by_size(owners: pl.DataFrame, row_bytes: int) -> Iterator[pl.DataFrame]:
    """Cut rows of the ledger, sample by sample, into groups of at most AT_ONCE_BYTES of windows of ``row_bytes``.

    Samples that stand in one part stay together, so that each part is read a few times at most.
    """
    size = pl.col("rows").sum().fill_null(0) * row_bytes
    samples = owners.group_by("sample_id").agg(size.alias("size"), pl.col("part").min()).sort("part", "sample_id")
    group = (pl.col("size").cum_sum() - 1) // AT_ONCE_BYTES
    for own in samples.with_columns(group=group).partition_by("group"):
        yield owners.join(own.select("sample_id"), on="sample_id", how="semi", maintain_order="left")


def counted(store: Store, owners: pl.DataFrame, columns: Sequence[str]) -> pa.Table:
    """Read columns of the rows that rows of the ledger (sample_id, segment, run_id, part) count.

    Beside ``columns`` there are sample_id, window, start_s and end_s; rows come by sample and window.
    """
    tables = []
    wanted_columns = list(dict.fromkeys([*(name for name, _ in HEAD), *columns]))
    for part in owners["part"].drop_nulls().unique(maintain_order=True):
        try:
            table = read_parquet(store.path(part), wanted_columns)
        except FileNotFoundError:
            raise MmrayError(
                f"{store.path(part)}: is missing, and the ledger counts its rows: try again if a run has just ended, "
                f"else `mmray verify {store.uri}` says what can be repaired"
            ) from None
        head = ledger.as_polars(table.select(["sample_id", "segment", "run_id"]))
        wanted = owners.filter(pl.col("part") == part).select("sample_id", "segment", "run_id", wanted=True)
        mask = head.join(wanted, on=["sample_id", "segment", "run_id"], how="left", maintain_order="left")["wanted"]
        tables.append(table.filter(mask.fill_null(False).to_arrow()))
    if not tables:
        return pa.table({"sample_id": pa.array([], pa.string())})
    rows = pa.concat_tables(tables)
    order = [name for name in ("sample_id", "window", "start_s", "token") if name in rows.column_names]
    return rows.sort_by([(name, "ascending") for name in order])


def seconds(rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how long each window lasts: what it weighs in a mean. A text, which has no times, and a still weigh 1."""
    starts, ends = (rows[name].to_numpy().astype(np.float64) for name in ("start_s", "end_s"))
    return np.where(ends > starts, ends - starts, 1.0)


def vectors(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a vector column as a float32 matrix (rows, dim)."""
    array = column.combine_chunks()
    return np.asarray(array.flatten(), np.float32).reshape(len(array), array.type.list_size)
