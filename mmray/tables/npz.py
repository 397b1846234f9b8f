"""npz files, read without numpy's loader: headers are held against the file, and no pickle is ever opened."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmray import storage
from mmray.errors import ConfigError

MOST_BYTES = 2**36  # of an array, unpacked: it is read some rows at a time
MOST_TEXT_BYTES = 2**30


class Header(NamedTuple):
    """What an npz file holds: how many vectors, of how many numbers, and whether there are labels."""

    samples: int
    dim: int
    labels: bool


def header(uri: str) -> Header:
    """Look at the arrays ``ids``, ``matrix`` (samples, numbers) and, where there are any, ``labels``."""
    with storage.open_read(uri) as file, zipfile.ZipFile(file) as packed:
        there = packed.namelist()
    for name in ("ids", "matrix"):
        if f"{name}.npy" not in there:
            raise ConfigError(f"{uri}: has no array {name!r} (it has: {', '.join(there)})")
    with _array(uri, "matrix", MOST_BYTES) as (_, shape, kind):
        if len(shape) != 2 or kind.kind not in "fiu":
            raise ConfigError(f"{uri}: matrix is {kind} {shape}, not numbers of shape (samples, numbers)")
        return Header(shape[0], shape[1], "labels.npy" in there)


def texts(uri: str, name: str) -> list[str]:
    """Read an array of texts or whole numbers, as texts."""
    with _array(uri, name, MOST_TEXT_BYTES) as (file, shape, kind):
        if len(shape) != 1 or kind.kind not in "UiuS":
            raise ConfigError(f"{uri}: {name} is {kind} {shape}, not a list of texts or whole numbers")
        values = np.frombuffer(file.read(), kind) if kind.itemsize else np.full(shape, "")
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values.tolist()]


def rows(uri: str, at_once: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the matrix as float32 (rows, numbers), ``at_once`` rows at a time."""
    with _array(uri, "matrix", MOST_BYTES) as (file, shape, kind):
        for first in range(0, shape[0], at_once):
            count = min(at_once, shape[0] - first)
            values = np.frombuffer(file.read(count * shape[1] * kind.itemsize), kind)
            with np.errstate(over="ignore"):
                yield values.reshape(count, shape[1]).astype(np.float32)


@contextlib.contextmanager
def _array(uri: str, name: str, most_bytes: int) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """Open an array behind its header; ConfigError where that says more than the file holds, or Python objects."""
    with storage.open_read(uri) as packed, zipfile.ZipFile(packed) as archive, archive.open(f"{name}.npy") as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, by_column, kind = reader(file)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{uri}: the header of {name} cannot be read: {error}") from None
        if kind.hasobject:
            raise ConfigError(f"{uri}: {name} holds Python objects, which only a pickle restores; none is ever loaded")
        if by_column and len(shape) > 1:
            raise ConfigError(f"{uri}: {name} stands column by column; save numpy.ascontiguousarray({name})")
        size_bytes = archive.getinfo(f"{name}.npy").file_size
        held = size_bytes - file.tell()
        if held != kind.itemsize * math.prod(shape) or size_bytes > most_bytes:
            raise ConfigError(f"{uri}: the header of {name} says {kind} {shape}, and the file holds {held} bytes of it")
        yield file, shape, kind
