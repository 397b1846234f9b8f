"""What a fusion network reads: the windows of every sample, per modality, beside labels and splits."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.fusion import dataset, labels
from mmray.fusion.dataset import Block, Content, Dataset, Mask
from mmray.fusion.labels import Labels
from mmray.fusion.splits import Places
from mmray.fusion.training import Input, TrainConfig
from mmray.provenance import fingerprint
from mmray.tables import features, ledger, windows
from mmray.tables.store import Store, open_store

Matrix = npt.NDArray[np.float32]
LARGEST_BYTES = 16 * 2**30  # of one input's windows in memory
ROW_BYTES = 2**16  # of a window at most, about, where groups of them are read


@dataclass(frozen=True)
class Modality:
    """One input: ``windows`` float32 (held, windows, dim) of the samples that have it, 0 where ``there`` is false.

    ``row`` (samples,) says where a sample stands in it, -1 where it is absent. ``extractor`` is the full id of what
    made the numbers; ``identity`` changes whenever they may have.
    """

    windows: Matrix
    there: Mask
    row: Places
    extractor: str
    identity: str

    @property
    def present(self) -> Mask:
        """Return which samples have it: (samples,)."""
        return np.asarray(self.row >= 0)

    @property
    def dim(self) -> int:
        """Return the numbers of a window."""
        return int(self.windows.shape[2])


@dataclass(frozen=True)
class Material:
    """Samples in the order of the store's manifest, their modalities and labels; ``notes``: what was left out."""

    dataset: Dataset
    modalities: Mapping[str, Modality]
    labels: Labels
    notes: tuple[str, ...]

    def contents(self, names: Iterable[str]) -> list[Content | None]:
        """Return digests of what each sample has of these inputs; None where it has nothing: equal are duplicates."""
        return dataset.together([self._digests(self.modalities[name]) for name in names])

    def _digests(self, one: Modality) -> list[bytes | None]:
        held = [hashlib.sha256(row.tobytes()).digest() if row.any() else None for row in one.windows]
        return [held[row] if row >= 0 else None for row in one.row]


def load(config: TrainConfig) -> Material:
    """Read everything that a training reads; ConfigError, naming the key, where something is not there."""
    base = dataset.load(config.store, ())
    store = open_store(config.store)
    kept = chosen(base, config.where)
    modalities: dict[str, Modality] = {}
    notes: list[str] = []
    for place, one in enumerate(config.inputs):
        try:
            found, said = (_windows if one.windows else _pooled)(store, one, base.ids)
        except ConfigError as error:
            raise ConfigError(f"inputs[{place}]: {error}") from None
        found = replace(found, row=np.where(kept, found.row, -1))
        if not found.present.any():
            raise ConfigError(f"inputs[{place}]: {one.as_!r} has no vector of any sample that takes part")
        modalities[one.as_] = found
        notes += said
    if config.where:
        notes.append(f"`where` takes {int(kept.sum())} of {len(kept)} samples")
    blocks = {name: Block(None, None, one.present, one.identity) for name, one in modalities.items()}
    data = Dataset(base.ids, base.columns, blocks)
    given = labels.apply(config.labels, data, config.store)
    values = tuple(value if kept[place] else None for place, value in enumerate(given.values))
    identity = fingerprint([given.identity, config.where], 16)
    return Material(data, modalities, Labels(values, given.excluded, identity), tuple(notes))


def chosen(data: Dataset, where: Mapping[str, str | int | float | bool]) -> Mask:
    """Return the samples whose columns have these values, compared as text; ConfigError where none has."""
    kept = np.ones(len(data.ids), bool)
    for name, value in where.items():
        column = [str(one) for one in data.column(name, "where")]
        if str(value) not in column:
            raise ConfigError(f"where.{name}: no sample has {value!r}{nearest(str(value), set(column))}")
        kept &= np.array([one == str(value) for one in column], bool)
    if not kept.any():
        raise ConfigError("where: no sample has all these values")
    return kept


def _pooled(store: Store, one: Input, ids: tuple[str, ...]) -> tuple[Modality, list[str]]:
    number = features.extractor_id(store, one.extractor)
    found = features.load(store.uri, number, one.pooling)
    finite = np.isfinite(found.matrix).all(axis=1)
    held = {sample: row for row, sample in enumerate(np.array(found.ids, object)[finite])}
    row = np.array([held.get(sample, -1) for sample in ids], np.int64)
    identity = f"{number}/{one.pooling}/{features.generation(store, number, one.pooling)}"
    matrix = found.matrix[finite][:, None]
    notes = _said(one, row, int((~finite).sum()), "vectors")
    return Modality(matrix, np.ones(matrix.shape[:2], bool), row, number, identity), notes


def _said(one: Input, row: Places, broken: int, what: str) -> list[str]:
    notes = [f"{one.as_}: {broken} {what} have NaN or infinity and are left out"] * bool(broken)
    absent = int((row < 0).sum())
    return notes + [f"{one.as_}: {absent} of {len(row)} samples have no {what}"] * bool(absent)


def _windows(store: Store, one: Input, ids: tuple[str, ...]) -> tuple[Modality, list[str]]:
    """Read the windows of an extractor, at most ``one.windows`` of a sample, evenly chosen."""
    assert one.windows is not None
    number = features.extractor_id(store, one.extractor)
    about = store.read_json("provenance", f"{number}.json") or {}
    if about.get("kind") not in ("embedding", "tags"):
        raise ConfigError(f"windows: the rows of {number} are no vectors ({about.get('kind')}); give a pooling")
    rows = ledger.read(store).filter(pl.col("extractor") == number, pl.col("status").is_in(["ok", "partial"]))
    rows = rows.filter(pl.col("rows") > 0)
    held = {sample: row for row, sample in enumerate(rows["sample_id"].unique(maintain_order=True))}
    matrix, there, broken = np.zeros((0, 0, 0), np.float32), np.zeros((len(held), one.windows), bool), 0
    for group in windows.by_size(rows, ROW_BYTES):
        found = windows.counted(store, group, ["embedding"])
        vectors = windows.vectors(found["embedding"])
        if not matrix.size:
            matrix = _room(len(held), one.windows, vectors.shape[1])
        owner = np.array([held[sample] for sample in found["sample_id"].to_pylist()], np.int64)
        broken += _laid_out(matrix, there, owner, vectors)
    if not there.any():
        raise ConfigError(f"windows: {number} has no rows")
    used = int(there.sum(axis=1).max())  # no sample may have as many as allowed
    some = np.asarray(there.any(axis=1))
    row = np.array([held.get(sample, -1) for sample in ids], np.int64)
    row = np.where((row >= 0) & some[row], row, -1)
    made_from = fingerprint(rows.select("sample_id", "segment", "input", "run_id").rows(), 16)
    identity = f"{number}/windows={one.windows}/{made_from}"
    return Modality(matrix[:, :used], there[:, :used], row, number, identity), _said(one, row, broken, "windows")


def _room(held: int, count: int, dim: int) -> Matrix:
    if 4 * held * count * dim > LARGEST_BYTES:
        raise ConfigError(
            f"windows: {held} samples x {count} windows x {dim} numbers are more than {LARGEST_BYTES >> 30} GiB; "
            "take fewer windows, or a pooling"
        )
    return np.zeros((held, count, dim), np.float32)


def _laid_out(matrix: Matrix, there: Mask, owner: Places, vectors: Matrix) -> int:
    """Put the windows of each sample into its rows; returns how many were left out for not being finite."""
    finite = np.isfinite(vectors).all(axis=1)
    owner, vectors = owner[finite], vectors[finite]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.array([], np.int64)
    for start, end in zip(starts, np.r_[starts[1:], len(owner)], strict=True):
        count = min(int(end - start), there.shape[1])
        picked = start + np.arange(count) * (end - start) // count
        matrix[owner[start], :count] = vectors[picked]
        there[owner[start], :count] = True
    return int((~finite).sum())
