"""Vectors that another tool made: npz, CSV and Parquet as ``mmray export`` writes them, and IDX files (MNIST).

Sizes are checked against the files before anything is believed; vectors are read some rows at a time.
"""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import ConfigError
from mmray.tables import idx, manifest, npz

MOST_NUMBERS = 2**20  # of a vector
CHUNK_BYTES = 64 * 2**20  # of vectors at a time
NUMBERED = re.compile(r"e?(\d+)")
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """One file: ``columns`` (sample_id and what else it says of a sample), and its vectors of ``dim`` numbers."""

    uri: str
    dim: int
    columns: pa.Table
    opened: Callable[[int], Iterator[Matrix]]

    def chunks(self, at_once: int | None = None) -> Iterator[Matrix]:
        """Yield the vectors as float32 (rows, dim), a number that is missing as NaN; ConfigError as ``read``."""
        with _told(self.uri):
            yield from self.opened(at_once or max(1, CHUNK_BYTES // (4 * self.dim)))


def read(uris: Sequence[str]) -> list[Vectors]:
    """Open files of vectors; ConfigError, naming the file, for whatever is wrong with one.

    An IDX file of one dimension holds the labels of the vectors in the file before it.
    """
    found: list[Vectors] = []
    for uri in uris:
        one = _opened(uri)
        if isinstance(one, Vectors):
            if not one.columns.num_rows:
                raise ConfigError(f"{uri}: holds no sample")
            if not 0 < one.dim <= MOST_NUMBERS:
                raise ConfigError(f"{uri}: has vectors of {one.dim} numbers; 1 to {MOST_NUMBERS} can be imported")
            if found and found[0].dim != one.dim:
                raise ConfigError(f"{uri}: has vectors of {one.dim} numbers, and {found[0].uri} of {found[0].dim}")
            found.append(one)
        elif not found:
            raise ConfigError(f"{uri}: holds labels; name the file of their vectors before it")
        else:
            found[-1] = _labelled(found[-1], uri, one)
    return found


def _opened(uri: str) -> Vectors | idx.Header:
    lower = uri.lower()
    with _told(uri):
        with storage.open_read(uri) as file:
            if not file.read(1):
                raise ConfigError(f"{uri}: is empty")
        if lower.endswith(".parquet"):
            return _parquet(uri)
        if lower.endswith(".csv"):
            return _csv(uri)
        if lower.endswith(".npz"):
            return _npz(uri)
        if not idx.is_idx(uri) and not idx.ENDING.search(lower.removesuffix(".gz")):
            raise ConfigError(f"{uri}: give .npz, .csv, .parquet or an IDX file; it does not begin as one of these")
        return _idx(uri)


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{uri}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{uri}: is a folder; name the files in it") from None
    except (OSError, pa.ArrowException, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"{uri}: cannot be read: {error}") from None


def _labelled(vectors: Vectors, uri: str, about: idx.Header) -> Vectors:
    count = vectors.columns.num_rows
    if "label" in vectors.columns.column_names:
        raise ConfigError(f"{uri}: holds labels, and {vectors.uri} has labels already")
    if about.samples != count:
        raise ConfigError(f"{uri}: holds {about.samples} labels, and {vectors.uri} {count} vectors")
    (values,) = idx.rows(uri, about, about.samples)
    labels = pa.array(values[:, 0]).cast(pa.string())
    return replace(vectors, columns=vectors.columns.append_column("label", labels))


def _idx(uri: str) -> Vectors | idx.Header:
    """Read pictures as numbers from 0 to 1, row by row; they are named by the file and by their place in it."""
    about = idx.header(uri)
    if len(about.sizes) == 1:
        return about
    digits = len(str(about.samples - 1))
    ids = pa.array([f"{idx.stem(uri)}/{number:0{digits}d}" for number in range(about.samples)])

    def chunks(at_once: int) -> Iterator[Matrix]:
        for values in idx.rows(uri, about, at_once):
            yield values.astype(np.float32) / np.float32(255)

    return Vectors(uri, about.dim, pa.table({"sample_id": ids}), chunks)


def _parquet(uri: str) -> Vectors:
    with storage.open_read(uri) as file:
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        kind = schema.field("embedding").type if "embedding" in schema.names else pa.null()
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            raise ConfigError(
                f"{uri}: has no column 'embedding' of lists of numbers (it has: {', '.join(schema.names)})"
            )
        columns = manifest.checked(table.read([name for name in schema.names if name != "embedding"]), uri)
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(table)

    def chunks(at_once: int) -> Iterator[Matrix]:
        done = 0
        with storage.open_read(uri) as file:
            for batch in pq.ParquetFile(file).iter_batches(at_once, columns=["embedding"]):
                yield _matrix(batch.column(0), dim, uri, done)
                done += batch.num_rows

    return Vectors(uri, dim, columns, chunks)


def _first_length(table: pq.ParquetFile) -> int:
    for batch in table.iter_batches(1024, columns=["embedding"]):
        lengths = pc.list_value_length(batch.column(0)).drop_null()
        if len(lengths):
            return int(lengths[0].as_py())
    return 0


def _matrix(lists: pa.Array, dim: int, uri: str, done: int) -> Matrix:
    """Return lists of numbers as rows; NaN where a list is null."""
    lengths = pc.list_value_length(lists)
    wrong = pc.indices_nonzero(pc.fill_null(pc.not_equal(lengths, dim), False))
    if len(wrong):
        row = int(wrong[0].as_py())
        raise ConfigError(f"{uri}: row {done + row + 1} has a vector of {lengths[row]} numbers, others have {dim}")
    there = np.asarray(lists.is_valid())
    matrix = np.full((len(lists), dim), np.nan, np.float32)
    values = pc.list_flatten(lists.drop_null()).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        matrix[there] = values.astype(np.float32).reshape(-1, dim)
    return matrix


def _csv(uri: str) -> Vectors:
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with storage.open_read(uri) as file, pyarrow.csv.open_csv(file, parse_options=parsing) as table:
        names = table.schema.names
    numbers = [name for name in names if NUMBERED.fullmatch(name)]
    places = [int(name.removeprefix("e")) for name in numbers]
    if not numbers or places != list(range(len(numbers))):
        raise ConfigError(f"{uri}: the numbers of a vector stand in columns e0, e1, e2 ... (it has: {_shown(names)})")
    others = [name for name in names if name not in numbers]
    columns = manifest.checked(manifest.csv_columns(lambda: storage.open_read(uri), only=others), uri)

    def chunks(at_once: int) -> Iterator[Matrix]:
        options = pyarrow.csv.ConvertOptions(include_columns=numbers, column_types=dict.fromkeys(numbers, pa.float32()))
        reading = pyarrow.csv.ReadOptions(block_size=CHUNK_BYTES)
        with (
            storage.open_read(uri) as file,
            pyarrow.csv.open_csv(file, reading, parse_options=parsing, convert_options=options) as table,
        ):
            for batch in table:
                for first in range(0, batch.num_rows, at_once):
                    part = batch.slice(first, at_once)
                    yield np.stack([one.to_numpy(zero_copy_only=False) for one in part.columns], axis=1)

    return Vectors(uri, len(numbers), columns, chunks)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def _npz(uri: str) -> Vectors:
    found = npz.header(uri)
    columns: dict[str, pa.Array] = {"sample_id": pa.array(npz.texts(uri, "ids"))}
    if found.labels:
        columns["label"] = pa.array([text or None for text in npz.texts(uri, "labels")], pa.string())
    for name, values in columns.items():
        if len(values) != found.samples:
            raise ConfigError(f"{uri}: has {len(values)} {name}s, and {found.samples} vectors")
    return Vectors(uri, found.dim, manifest.checked(pa.table(columns), uri), lambda at_once: npz.rows(uri, at_once))
