"""Feature tables: one row per sample, pooled from windows; and reading them back as a matrix."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mmray import storage
from mmray.config import nearest
from mmray.errors import ConfigError, MmrayError
from mmray.tables import ledger, windows
from mmray.tables.store import DamagedError, Store, named_damage, open_store

Matrix = npt.NDArray[np.float32]


class Features(NamedTuple):
    """One extractor's matrix: ``matrix`` float32 (samples, dim), with ids and labels (None where there are none)."""

    ids: list[str]
    matrix: Matrix
    labels: list[str | None]


def pooled(matrix: Matrix, starts: npt.NDArray[np.int64], pooling: str, weights: npt.NDArray[np.float64]) -> Matrix:
    """Reduce runs of rows to one row each; ``starts`` are the first rows of the runs.

    ``mean`` is weighted (by the seconds a window covers) and summed in float64.
    """
    if pooling == "first":
        return matrix[starts]
    if pooling == "max":
        return np.maximum.reduceat(matrix, starts, axis=0)
    if pooling == "mean":
        sums = np.add.reduceat(matrix.astype(np.float64) * weights[:, None], starts, axis=0)
        return (sums / np.add.reduceat(weights, starts)[:, None]).astype(np.float32)
    if pooling == "mean+max":
        return np.concatenate([pooled(matrix, starts, one, weights) for one in ("mean", "max")], axis=1)
    raise ValueError(pooling)


def class_vectors(
    sample: npt.NDArray[np.int64],
    frame: npt.NDArray[np.int64],
    class_id: npt.NDArray[np.int64],
    score: npt.NDArray[np.float32],
    frames: npt.NDArray[np.int64],
    classes: int,
    pooling: str,
) -> Matrix:
    """Reduce detections to one number per class and sample.

    ``max``: the best score; ``mean``: the best score of each frame, averaged over all ``frames`` looked at (0 where
    nothing was found); ``count``: how many were found. ``sample`` and ``frame`` number the samples and frames.
    """
    result = np.zeros((len(frames), classes), np.float64)
    if pooling == "count":
        np.add.at(result, (sample, class_id), 1)
    elif pooling == "max":
        np.maximum.at(result, (sample, class_id), score)
    else:
        keys, place = np.unique(np.stack([sample, frame, class_id]), axis=1, return_inverse=True)
        best = np.zeros(keys.shape[1], np.float64)
        np.maximum.at(best, place.reshape(-1), score)
        np.add.at(result, (keys[0], keys[2]), best)
        result /= np.maximum(frames, 1)[:, None]
    return result.astype(np.float32)


def summarised(
    columns: dict[str, Matrix],
    starts: npt.NDArray[np.int64],
    rules: Mapping[str, str],
    weights: npt.NDArray[np.float64],
) -> Matrix:
    """Reduce named columns to one number each: ``sum``, ``max``, ``mean`` or ``energy`` (mean of dB as power).

    Means are weighted (by the seconds a window covers) and pass over NaN; NaN where a sample has no value at all.
    """
    result = np.full((len(starts), len(rules)), np.nan)
    for place, (name, rule) in enumerate(rules.items()):
        values = columns[name].astype(np.float64)
        there = ~np.isnan(values)
        any_there = np.maximum.reduceat(there, starts)
        if rule == "sum":
            number = np.add.reduceat(np.where(there, values, 0), starts)
        elif rule == "max":
            number = np.maximum.reduceat(np.where(there, values, -np.inf), starts)
        else:
            weight = np.where(there, weights, 0)
            value = np.where(there, 10 ** (values / 10) if rule == "energy" else values, 0)
            total = np.maximum(np.add.reduceat(weight, starts), 1e-12)
            number = np.add.reduceat(value * weight, starts) / total
            number = 10 * np.log10(np.maximum(number, 1e-10)) if rule == "energy" else number
        result[:, place] = np.where(any_there, number, np.nan)
    return result.astype(np.float32)


def path(store: Store, extractor: str, pooling: str) -> str:
    """Return the URI of a feature table: one file, so that a new generation replaces the old one in one step."""
    return store.path("features", f"extractor={extractor}", f"pooling={pooling}", "part-0.parquet")


def generation(store: Store, extractor: str, pooling: str) -> str | None:
    """Return what a feature table was made from, None where there is none, or a damaged one."""
    try:
        uri = path(store, extractor, pooling)
        with storage.open_read(uri) as file, named_damage(uri):
            return ((pq.read_schema(file).metadata or {}).get(b"mmray.generation") or b"").decode()
    except (FileNotFoundError, DamagedError):
        return None


def extractor_id(store: Store, name: str) -> str:
    """Return the full id for an id, or for a name that only one extractor of the store has."""
    known = {}
    for entry in storage.files(store.path("provenance"), ".json"):
        about = store.read_json("provenance", entry.uri.rpartition("/")[2]) or {}
        known[str(about["id"])] = str(about["as"])
    if name in known:
        return name
    called = [number for number, as_ in known.items() if name == as_]
    matching = called or [number for number in known if name == number.rpartition("-")[0]]
    if len(matching) == 1:
        return matching[0]
    if matching:
        choice = ", ".join(f"{number} ({known[number]})" for number in matching)
        raise ConfigError(f"{store.uri}: {name!r} may be any of {choice}; give the full id")
    raise ConfigError(f"{store.uri}: no extractor {name!r}{nearest(name, [*known, *known.values()])}")


def load(store: str, extractor: str, pooling: str = "mean") -> Features:
    """Read one feature table: ids, float32 matrix (samples, dim), labels of the manifest.

    ``extractor``: its id, or its name where that is unambiguous; two ids are never mixed. ConfigError where the store,
    the extractor or the pooling does not exist, MmrayError where a table that was made is gone.
    """
    opened = open_store(store)
    number = extractor_id(opened, extractor)
    table = opened.read("features", f"extractor={number}", f"pooling={pooling}", "part-0.parquet")
    if table is None:
        about = opened.read_json("provenance", f"{number}.json") or {}
        if pooling in about.get("config", {}).get("pooling", ()) and (ended := _finished(opened, number)):
            raise MmrayError(
                f"{path(opened, number, pooling)}: is missing, though {ended} samples are finished; the same `mmray "
                "extract` or `mmray import` again makes it"
            )
        folder = opened.path("features", f"extractor={number}")
        there = sorted({e.uri.rpartition("/")[0].rpartition("pooling=")[2] for e in storage.files(folder, ".parquet")})
        texts = about.get("kind") == "text"
        none = " (its rows are texts: read windows/)" if texts else " (no sample of it is finished)"
        detail = nearest(pooling, there) if there else none
        raise ConfigError(f"{store}: {number} has no pooling {pooling!r}{detail}")
    ids: list[str] = table["sample_id"].to_pylist()
    return Features(ids, windows.vectors(table["embedding"]), labels(opened, ids))


def _finished(store: Store, extractor: str) -> int:
    """Return how many samples of an extractor have rows that count."""
    rows = ledger.read(store).filter(pl.col("extractor") == extractor, pl.col("rows") > 0)
    return int(rows.filter(pl.col("status").is_in(["ok", "partial"]))["sample_id"].n_unique())


def labels(store: Store, ids: Sequence[str]) -> list[str | None]:
    """Return the manifest's labels of samples."""
    table = store.read("manifest.parquet")
    if table is None or "label" not in table.column_names:
        return [None] * len(ids)
    known: dict[str, Any] = dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    return [known.get(sample_id) for sample_id in ids]


def table(ids: Sequence[str], matrix: Matrix, made_from: str) -> pa.Table:
    """Build a feature table."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])
    metadata = {"mmray.generation": made_from}
    schema = pa.schema([("sample_id", pa.string()), ("embedding", vectors.type)], metadata=metadata)
    return pa.table([pa.array(ids, pa.string()), vectors], schema=schema)
