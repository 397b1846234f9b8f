"""Pairs: two embeddings of the same samples, joined from a store or made up from a seed, and who is asked about."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.fusion import dataset
from mmray.fusion.splits import owners
from mmray.tables import features
from mmray.tables.store import open_store

Matrix = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
FEWEST = 20  # pairs that a map can be measured on


class Partition(NamedTuple):
    """A feature partition as it was read: full extractor id, pooling, generation, numbers of a vector."""

    extractor: str
    pooling: str
    generation: str | None
    dim: int


class Pairs(NamedTuple):
    """The same samples on two sides, in the order of their ids: float32 (pairs, dim) each, all finite.

    ``groups``: of the manifest, None where a sample has none. ``excluded``: reason -> samples that stand in one
    partition at least, and in no pair.
    """

    ids: tuple[str, ...]
    sources: Matrix
    targets: Matrix
    groups: tuple[Any, ...]
    sides: tuple[Partition, Partition]
    excluded: dict[str, int]


def joined(uri: str, source: tuple[str, str], target: tuple[str, str]) -> Pairs:
    """Join two partitions of a store on ``sample_id``; a side is (extractor id or name, pooling).

    ConfigError, with the counts, where both sides are one partition or have fewer than 20 samples in common.
    """
    store = open_store(uri)
    sides, tables = [], []
    for key, (name, pooling) in (("source", source), ("target", target)):
        try:
            number = features.extractor_id(store, name)
            table = features.load(uri, number, pooling)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
        generation = features.generation(store, number, pooling)
        sides.append(Partition(number, pooling, generation, int(table.matrix.shape[1])))
        tables.append(table)
    if sides[0] == sides[1]:
        raise ConfigError(f"source and target are the same: {sides[0].extractor}, pooling {sides[0].pooling}")
    finite = [_finite(table) for table in tables]
    ids = sorted(finite[0].keys() & finite[1].keys())
    excluded = _excluded([set(table.ids) for table in tables], [set(rows) for rows in finite])
    if len(ids) < FEWEST:
        counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in excluded.items())
        raise ConfigError(
            f"{uri}: {sides[0].extractor} ({len(tables[0].ids)} samples) and {sides[1].extractor} "
            f"({len(tables[1].ids)} samples) have {len(ids)} in common ({counts}); at least {FEWEST} are needed"
        )
    matrices = [
        np.ascontiguousarray(table.matrix[[rows[name] for name in ids]], np.float32)
        for table, rows in zip(tables, finite, strict=True)
    ]
    known = _groups(store.read("manifest.parquet"))
    groups = tuple(known.get(name) for name in ids)
    return Pairs(tuple(ids), matrices[0], matrices[1], groups, (sides[0], sides[1]), excluded)


def _finite(table: features.Features) -> dict[str, int]:
    good = np.flatnonzero(np.isfinite(table.matrix).all(axis=1))
    return {table.ids[row]: int(row) for row in good}


def _excluded(known: list[set[str]], finite: list[set[str]]) -> dict[str, int]:
    both = known[0] & known[1]
    return {
        "only_in_source": len(known[0] - known[1]),
        "only_in_target": len(known[1] - known[0]),
        "source_not_finite": len(both - finite[0]),
        "target_not_finite": len((both & finite[0]) - finite[1]),
    }


def _groups(manifest: Any) -> dict[str, Any]:
    if manifest is None or "group" not in manifest.column_names:
        return {}
    columns = dataset.values(manifest.select(["sample_id", "group"]))
    return dict(zip(columns["sample_id"], columns["group"], strict=True))


def held_out(groups: Sequence[Any], wanted: int, seed: int) -> Places:
    """Return the places of ``wanted`` samples at random, or fewer: whole groups, in random order, that still fit."""
    owner = owners(groups)
    sizes = np.bincount(owner)
    taken: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[group] <= wanted:
            taken.append(int(group))
            wanted -= int(sizes[group])
    return np.flatnonzero(np.isin(owner, taken))


def folds(groups: Sequence[Any], count: int, seed: int) -> list[Places]:
    """Deal all samples out to parts of like size: whole groups, in random order, each to the smallest part so far."""
    owner = owners(groups)
    sizes = np.bincount(owner)
    if count > len(sizes):
        raise ConfigError(f"folds: {count} folds need as many groups or samples; there are {len(sizes)}")
    part, load = np.zeros(len(sizes), np.int64), np.zeros(count, np.int64)
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        part[group] = int(load.argmin())
        load[part[group]] += sizes[group]
    return [np.flatnonzero(part[owner] == one) for one in range(count)]


def synthetic(
    seed: int, pairs: int = 5000, source_dim: int = 256, target_dim: int = 384, noise: float = 0.5
) -> tuple[Matrix, Matrix]:
    """Return made-up sources and targets: the same 8 hidden numbers, seen by two random networks.

    Hidden numbers z are normal. The source network sees z, the target network sees the products z_i z_(i-1), in which
    no linear map finds z again. Both have one layer of 32 tanh units with random weights of variance 1 / inputs and
    offsets of deviation 0.5; their outputs are scaled to deviation 1, and normal noise of deviation ``noise`` is added.
    """
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((pairs, 8))
    sides = []
    for seen, dim in ((hidden, source_dim), (hidden * np.roll(hidden, 1, axis=1), target_dim)):
        first = random.standard_normal((8, 32)) / np.sqrt(8)
        units = np.tanh(seen @ first + 0.5 * random.standard_normal(32))
        clean = units @ random.standard_normal((32, dim)) / np.sqrt(32)
        clean = (clean - clean.mean(0)) / clean.std()
        sides.append((clean + noise * random.standard_normal(clean.shape)).astype(np.float32))
    return sides[0], sides[1]
