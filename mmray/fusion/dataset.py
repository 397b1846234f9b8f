"""Feature partitions joined on ``sample_id``: one matrix per embedding over the same samples, and who is present.

Nothing is ever filled with zeros: where a sample has no vector its row is NaN and ``present`` is false.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.fusion.config import Embedding
from mmray.models.chunks import blank
from mmray.tables import features, ledger, windows
from mmray.tables.store import Store, open_store

Mask = npt.NDArray[np.bool_]
FAR = 1e6  # deviations from the mean: farther out, squares in float32 soon are no numbers any more
Content = tuple[bytes | None, ...]  # digests of what a sample has of some embeddings


@dataclass(frozen=True)
class Block:
    """One embedding of every sample: a float32 matrix (samples, dim), NaN where absent, or texts (None where absent).

    ``identity`` changes whenever the numbers may have.
    """

    matrix: npt.NDArray[np.float32] | None
    texts: tuple[str | None, ...] | None
    present: Mask
    identity: str

    @property
    def dim(self) -> int:
        """Return the numbers of a row; 0 for texts."""
        return 0 if self.matrix is None else int(self.matrix.shape[1])

    def digests(self) -> list[bytes | None]:
        """Return a digest of each sample's vector or text: equal ones are duplicates.

        None where it has none, or a vector of zeros: nothing was found in it, which many samples have in common.
        """
        if self.texts is not None:
            values = [None if text is None else text.encode("utf-8", "replace") for text in self.texts]
        else:
            assert self.matrix is not None
            some = self.present & self.matrix.any(axis=1)
            values = [row.tobytes() if there else None for row, there in zip(self.matrix, some, strict=True)]
        return [None if value is None else hashlib.sha256(value).digest() for value in values]

    @property
    def telling(self) -> bool:
        """Tell whether any two samples differ; True of a single one."""
        if self.texts is not None:
            found = {text for text in self.texts if text is not None}
            return len(found) > 1 or int(self.present.sum()) < 2
        assert self.matrix is not None
        rows = self.matrix[self.present]
        return len(rows) < 2 or bool((rows != rows[0]).any())


@dataclass(frozen=True)
class Dataset:
    """Samples in the order of the store's manifest; ``columns`` are the manifest's, ``notes`` what was left out."""

    ids: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    blocks: Mapping[str, Block]
    notes: tuple[str, ...] = ()

    def column(self, name: str, key: str) -> Sequence[Any]:
        """Return a column of the manifest; ConfigError, naming the key that wants it, where there is none."""
        if name not in self.columns:
            raise ConfigError(f"{key}: the manifest has no column {name!r}{nearest(name, self.columns)}")
        return self.columns[name]

    def having(self, names: Iterable[str]) -> Mask:
        """Return the samples that are present in every one of these embeddings."""
        masks = [self.blocks[name].present for name in names]
        return np.logical_and.reduce(masks) if masks else np.ones(len(self.ids), bool)

    def contents(self, names: Iterable[str]) -> list[Content | None]:
        """Return digests of what each sample has of these embeddings; None where it has nothing."""
        return together([self.blocks[name].digests() for name in names])


def together(digests: Sequence[Sequence[bytes | None]]) -> list[Content | None]:
    """Join the digests of several embeddings, sample by sample; None where a sample has nothing of any."""
    return [one if any(own is not None for own in one) else None for one in zip(*digests, strict=True)]


def load(uri: str, embeddings: Sequence[Embedding]) -> Dataset:
    """Read the manifest and the embeddings of a store.

    ConfigError where an extractor or a pooling is not there, an embedding has no sample, or two have none in common
    with any other. Rows with NaN or infinity count as absent, and a note says how many.
    """
    store = open_store(uri)
    manifest = store.read("manifest.parquet")
    if manifest is None:
        raise ConfigError(f"{uri}: has no manifest.parquet; `mmray extract` makes one")
    columns = values(manifest)
    ids = tuple(columns["sample_id"])
    blocks: dict[str, Block] = {}
    notes: list[str] = []
    for place, one in enumerate(embeddings):
        try:
            block, said = _texts(store, one, columns) if one.vectoriser else _matrix(store, one, ids)
        except ConfigError as error:
            raise ConfigError(f"embeddings[{place}]: {error}") from None
        if not block.present.any():
            raise ConfigError(f"embeddings[{place}]: {one.as_!r} has no vector of any sample of {uri}")
        if not block.telling:
            raise ConfigError(f"embeddings[{place}]: {one.as_!r} is the same in all samples: it tells nothing")
        blocks[one.as_] = block
        notes += said
    return Dataset(ids, columns, blocks, tuple(notes))


def values(manifest: pa.Table) -> dict[str, list[Any]]:
    """Return the columns of a manifest; None where one says nothing: null, NaN, or white space."""
    return {
        name: [None if value != value or (isinstance(value, str) and not value.strip()) else value for value in column]
        for name, column in zip(manifest.column_names, map(pa.ChunkedArray.to_pylist, manifest.columns), strict=True)
    }


def joined(ids: Sequence[str], found: features.Features, identity: str) -> tuple[Block, int]:
    """Lay a feature table out over ``ids``; also count the rows left out because they are not finite."""
    finite = np.asarray(np.isfinite(found.matrix).all(axis=1))
    places = {sample: row for row, sample in enumerate(found.ids) if finite[row]}
    rows = np.array([places.get(sample, -1) for sample in ids], np.int64)
    present = rows >= 0
    matrix = np.full((len(ids), found.matrix.shape[1]), np.nan, np.float32)
    matrix[present] = found.matrix[rows[present]]
    return Block(matrix, None, present, identity), int((~finite).sum())


def _matrix(store: Store, one: Embedding, ids: Sequence[str]) -> tuple[Block, list[str]]:
    number = features.extractor_id(store, one.extractor)
    found = features.load(store.uri, number, one.pooling)
    made_from = features.generation(store, number, one.pooling)
    block, broken = joined(ids, found, f"{number}/{one.pooling}/{made_from}")
    notes = [f"{one.as_}: {broken} of {len(found.ids)} vectors have NaN or infinity and count as absent"] * bool(broken)
    if absent := int((~block.present).sum()):
        notes.append(f"{one.as_}: {absent} of {len(ids)} samples have no vector")
    return block, notes


def _texts(store: Store, one: Embedding, columns: Mapping[str, Sequence[Any]]) -> tuple[Block, list[str]]:
    block, notes = texts(store, one.source, one.as_, columns)
    return replace(block, identity=f"{one.extractor}/{one.max_terms}/{one.ngrams}/{block.identity}"), notes


def texts(store: Store | None, source: str, name: str, columns: Mapping[str, Sequence[Any]]) -> tuple[Block, list[str]]:
    """Read the texts of a column, or that an extractor of the store wrote, over the samples of ``columns``.

    Nothing but white space and control characters counts as absent. ConfigError where there is no such source.
    """
    extractor, dot, _ = source.rpartition(".text")
    if source in columns:
        values = columns[source]
    elif store and dot and extractor:
        known = written(store, features.extractor_id(store, extractor))
        values = [known.get(sample) for sample in columns["sample_id"]]
    else:
        other = "; or EXTRACTOR.text" if store else ""
        raise ConfigError(f"source: {source!r} is no column of the manifest{nearest(source, columns)}{other}")
    found = tuple(None if value is None or blank(str(value)) else str(value) for value in values)
    present = np.array([text is not None for text in found], bool)
    digest = hashlib.sha256("\0".join(text or "" for text in found).encode("utf-8", "replace")).hexdigest()[:16]
    absent = int((~present).sum())
    notes = [f"{name}: {absent} of {len(found)} samples have no text in {source}"] * bool(absent)
    return Block(None, found, present, digest), notes


def written(store: Store, extractor: str) -> dict[str, str]:
    """Return one text per sample of an extractor whose rows are texts: its windows in time order, joined by spaces."""
    rows = ledger.read(store).filter(pl.col("extractor") == extractor, pl.col("status").is_in(["ok", "partial"]))
    about = store.read_json("provenance", f"{extractor}.json") or {}
    if about.get("kind") != "text":
        raise ConfigError(f"source: the rows of {extractor} are not texts")
    frame = ledger.as_polars(windows.counted(store, rows, ["text"]))
    joined_up = frame.group_by("sample_id", maintain_order=True).agg(pl.col("text").str.strip_chars().str.join(" "))
    return dict(joined_up.iter_rows())
