"""Pool windows to one vector per sample. Features are derived: they can always be made again from the windows."""

import logging
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from mmray import provenance
from mmray.pipelines.job import Task
from mmray.tables import features, ledger, windows
from mmray.tables.lease import Lease
from mmray.tables.store import Store, write_parquet

log = logging.getLogger(__name__)

VERSION = 2  # raised whenever the code changes what is pooled: feature tables are then made again


def run(
    store: Store,
    held: Lease,
    tasks: Sequence[Task],
    statuses: pl.DataFrame,
    expected: pl.DataFrame,
    rows: pl.DataFrame,
) -> int:
    """Pool every finished sample of every task; returns how many feature tables were (re)made."""
    made = 0
    done = ledger.done(rows, expected)
    for task in tasks:
        own = statuses.filter((pl.col("extractor") == task.id) & pl.col("status").is_in(["ok", "partial"]))
        finished = rows.join(done.select(*ledger.KEY, "input"), on=[*ledger.KEY, "input"])
        finished = finished.filter(
            (pl.col("extractor") == task.id) & pl.col("sample_id").is_in(own["sample_id"].to_list())
        )
        finished = finished.sort("sample_id", "segment")
        about = finished.select("sample_id", "segment", "input", "attempt", "run_id", "rows").rows()
        made_from = provenance.fingerprint([VERSION, *map(list, about)], 16)
        for pooling in task.extractor.pooling:
            if finished.is_empty() or features.generation(store, task.id, pooling) == made_from:
                continue
            table = pooled(store, task, pooling, finished, made_from)
            if table is not None:
                held.check()
                write_parquet(table, features.path(store, task.id, pooling))
                made += 1
    return made


def pooled(store: Store, task: Task, pooling: str, finished: pl.DataFrame, made_from: str) -> pa.Table | None:
    """Return the feature table of one extractor; None where no sample has a row."""
    ids: list[str] = []
    matrices: list[features.Matrix] = []
    columns = _columns(task, pooling)
    width = task.extractor.dims(task.path).get(columns[0], len(columns))
    for chunk in windows.by_size(finished, 12 * width + 100):  # float32, and float64 where means are summed
        rows = windows.counted(store, chunk, columns)
        if task.extractor.kind == "detections":
            names, matrix = _detections(task, pooling, rows, chunk)
        elif rows.num_rows == 0:
            continue
        else:
            names, matrix = _vectors(task, pooling, rows, columns)
        ids += names
        matrices.append(matrix)
    if not ids:
        return None
    order = np.argsort(np.array(ids))
    return features.table([ids[place] for place in order], np.concatenate(matrices)[order], made_from)


def _columns(task: Task, pooling: str) -> list[str]:
    """Return the columns of the windows that a pooling needs."""
    kind = task.extractor.kind
    if kind == "detections":
        return ["class_id", "score"]
    if kind == "descriptors":
        return list(task.extractor.summary)
    return ["scores" if kind == "scores" or pooling.startswith("scores_") else "embedding"]


def _runs(ids: pa.ChunkedArray) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the samples of sorted rows, and the first row of each."""
    encoded = ids.combine_chunks().dictionary_encode()
    _, starts = np.unique(np.asarray(encoded.indices), return_index=True)
    return encoded.dictionary.to_pylist(), starts.astype(np.int64)


def _vectors(task: Task, pooling: str, rows: pa.Table, names_of: Sequence[str]) -> tuple[list[str], features.Matrix]:
    names, starts = _runs(rows["sample_id"])
    if task.extractor.kind == "descriptors":
        rules = task.extractor.summary
        columns = {name: rows[name].to_numpy() for name in names_of}
        weights = np.asarray(rows["duration_s"].to_numpy(), np.float64)
        return names, features.summarised(columns, starts, rules, weights)
    matrix, seconds = windows.vectors(rows[names_of[0]]), windows.seconds(rows)
    return names, features.pooled(matrix, starts, pooling.removeprefix("scores_"), seconds)


def _detections(task: Task, pooling: str, rows: pa.Table, chunk: pl.DataFrame) -> tuple[list[str], features.Matrix]:
    """Pool detections per class; a sample in which nothing was found is a row of zeros."""
    frames = chunk.group_by("sample_id", maintain_order=True).agg(pl.col("frames").sum())
    names = frames["sample_id"].to_list()
    classes = len(task.extractor.labels(task.path))
    owners = rows["sample_id"].combine_chunks().dictionary_encode()
    place = {name: number for number, name in enumerate(names)}
    places = np.array([place[name] for name in owners.dictionary.to_pylist()], np.int64)
    empty = rows.num_rows == 0
    matrix = features.class_vectors(
        places[np.asarray(owners.indices)] if not empty else places,
        np.array([] if empty else rows["window"].to_numpy(), np.int64),
        np.array([] if empty else rows["class_id"].to_numpy(), np.int64),
        np.array([] if empty else rows["score"].to_numpy(), np.float32),
        frames["frames"].to_numpy().astype(np.int64),
        classes,
        pooling,
    )
    return names, matrix
