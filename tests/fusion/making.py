"""Stores as an extraction leaves them, made in a moment: a manifest and feature tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmray.tables import features
from mmray.tables.store import open_store


def clusters(classes: np.ndarray[Any, Any], dim: int, noise: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return float32 vectors scattered around one point per class."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(int(classes.max()) + 1, dim))
    return np.asarray(points[classes] + noise * random.normal(size=(len(classes), dim)), np.float32)


def store(
    folder: Path,
    columns: Mapping[str, Sequence[Any]],
    matrices: Mapping[str, np.ndarray[Any, Any]],
    have: Mapping[str, Sequence[int]] | None = None,
    scores: Mapping[str, Sequence[str]] | None = None,
    pooling: str = "mean",
) -> str:
    """Write a store; ``have``: which rows an extractor has (all); ``scores``: label names of extractors of scores."""
    made = open_store(str(folder), create=True)
    count = len(next(iter(columns.values())))
    ids = [f"s{place:04d}" for place in range(count)]
    made.write(pl.DataFrame({"sample_id": ids, **columns}).to_arrow(), "manifest.parquet")
    for name, matrix in matrices.items():
        number, labels = f"{name}-00000000", list((scores or {}).get(name, ()))
        about = {"id": number, "as": name, "kind": "scores" if labels else "embedding", "labels": labels}
        made.write_json(about, "provenance", f"{number}.json")
        rows = list((have or {}).get(name, range(count)))
        table = features.table([ids[row] for row in rows], matrix[rows], "gen")
        made.write(table, "features", f"extractor={number}", f"pooling={pooling}", "part-0.parquet")
    return str(folder)
