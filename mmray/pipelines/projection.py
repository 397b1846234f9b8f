"""Embeddings in two dimensions: PCA, or UMAP where it is installed, of at most a few thousand samples.

Source: McInnes, Healy & Melville 2018, UMAP: Uniform manifold approximation and projection for dimension reduction.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

from mmray import storage
from mmray.errors import ConfigError
from mmray.pipelines import nearest
from mmray.report.embedding_map import EmbeddingMap
from mmray.tables import features
from mmray.tables.features import Matrix
from mmray.tables.store import Store

Projection = Literal["pca", "umap"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
MOST_POINTS = 2_000  # of a map: what a phone draws at once, and a reader can tell apart
FEWEST = 3
LEAST_THERE = 0.5  # share of the samples that must have a number in a column: descriptors of sounds have no pictures


def check(projection: Projection) -> None:
    """Raise ConfigError where a projection is not installed."""
    if projection == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError("--map umap: UMAP is not installed; `pip install 'mmray[umap]'`, or leave --map out (PCA)")


def mapped(
    store: Store, title: str, extractor: str, pooling: str, projection: Projection, order: Mapping[str, int],
    labels: Mapping[str, str | None], scaled: bool = False,
) -> EmbeddingMap | None:  # fmt: skip
    """Return one partition in the plane; None where fewer than three samples can be drawn.

    ``order``: a number for each sample that may be drawn; where there are more than MOST_POINTS the lowest are, so that
    maps of several partitions show the same samples. ``scaled``: columns of different units, such as descriptors, are
    brought to deviation 1 first. Notes say what was left out.
    """
    ids, total = _drawn(store, extractor, pooling, order)
    found, matrix = [], []
    for keys, rows in nearest.pooled(store, extractor, pooling, pa.array(ids, pa.string())):
        found += keys["sample_id"].to_list()
        matrix.append(rows)
    if len(found) < FEWEST:
        return None
    rows, notes = _finite(np.concatenate(matrix))
    kept = np.flatnonzero(np.isfinite(rows).all(axis=1))
    if len(kept) < FEWEST or not rows.shape[1]:
        return None
    if len(ids) < total:
        notes.insert(0, f"{len(ids):,} of {total:,} samples, drawn at random.")
    if lost := len(found) - len(kept):
        notes.append(f"{lost} have NaN or infinite numbers and are left out.")
    plane = _scaled(rows[kept]) if scaled else rows[kept]
    points, said = (_pca if projection == "pca" else _umap)(plane)
    taken = tuple(found[place] for place in kept)
    return EmbeddingMap(title, taken, points, tuple(labels.get(one) for one in taken), (said, *notes))


def _drawn(store: Store, extractor: str, pooling: str, order: Mapping[str, int]) -> tuple[list[str], int]:
    """Return the samples to draw, and how many of a feature table could be."""
    with storage.open_read(features.path(store, extractor, pooling)) as file:
        names = pq.ParquetFile(file).read(columns=["sample_id"])["sample_id"].to_pylist()
    there = [name for name in names if name in order]
    return sorted(there, key=order.__getitem__)[:MOST_POINTS], len(there)


def _finite(matrix: Matrix) -> tuple[Matrix, list[str]]:
    """Leave out the columns in which most samples have no number."""
    there = np.isfinite(matrix).mean(axis=0) >= LEAST_THERE
    notes = [f"{int((~there).sum())} of {len(there)} columns have no number for most samples and are left out."]
    return matrix[:, there], notes if not there.all() else []


def _scaled(matrix: Matrix) -> Matrix:
    deviation = matrix.std(axis=0, dtype=np.float64)
    scaled: Matrix = (matrix / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    return scaled


def _pca(matrix: Matrix) -> tuple[npt.NDArray[np.float64], str]:
    """Return the first two principal components, and what share of the variance they hold."""
    centred = matrix.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)
    if min(centred.shape) < 2 or not centred.any():
        points = np.zeros((len(matrix), 2))
        points[:, : centred.shape[1]] = centred[:, :2]
        return points, "One dimension." if centred.shape[1] == 1 else "All vectors are equal."
    fitted = PCA(n_components=2, svd_solver="randomized", random_state=0)
    points = fitted.fit_transform(centred)
    held = float(fitted.explained_variance_ratio_.sum())
    return points.astype(np.float64), f"PCA: two of {matrix.shape[1]} dimensions, {held:.0%} of the variance."


def _umap(matrix: Matrix) -> tuple[npt.NDArray[np.float64], str]:
    """Return UMAP's two dimensions, from one seed."""
    import umap  # type: ignore[import-not-found, unused-ignore]

    neighbours = min(15, len(matrix) - 1)
    fitted = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=0, n_jobs=1)
    return np.asarray(fitted.fit_transform(matrix), np.float64), "UMAP: distances between groups mean little."


def order_of(samples: Sequence[str]) -> dict[str, int]:
    """Return a random number for each sample, the same every time."""
    places = np.random.default_rng(0).permutation(len(samples))
    return dict(zip(samples, places.tolist(), strict=True))
