"""IDX files, the format of MNIST: a short header, then unsigned bytes, row by row.

Source: LeCun, Cortes and Burges, "The MNIST database": two zero bytes, the type of the numbers, how many dimensions;
then the size of each as a big-endian int32.
"""

import contextlib
import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from mmray import storage
from mmray.errors import ConfigError

MAGIC = b"\0\0"
BYTES = 8  # the type of unsigned bytes; others are rare and refused
MOST_DIMENSIONS = 8
MOST_SAMPLES = 10**7
MOST_BYTES = 2**32  # of samples in one file, unpacked
READ_BYTES = 2**20
ENDING = re.compile(r"[-.]idx\d+-ubyte$|\.idx$")


class Header(NamedTuple):
    """What an IDX file holds: the sizes of its dimensions, the first of which counts the samples."""

    sizes: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Return how many samples there are."""
        return self.sizes[0]

    @property
    def dim(self) -> int:
        """Return the bytes of a sample; 1 for a list of labels."""
        return math.prod(self.sizes[1:])

    @property
    def length(self) -> int:
        """Return the bytes before the first sample."""
        return 4 + 4 * len(self.sizes)


def is_idx(uri: str) -> bool:
    """Tell an IDX file, packed or not, by its first bytes."""
    with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile), _opened(uri) as file:
        return file.read(len(MAGIC)) == MAGIC
    return False


def header(uri: str) -> Header:
    """Read the header, and the file to its end to see that it holds just what the header says.

    ConfigError where it does not, or asks for more than MOST_SAMPLES or MOST_BYTES.
    """
    with _opened(uri) as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != MAGIC or not 1 <= magic[3] <= MOST_DIMENSIONS:
            raise ConfigError(f"{uri}: is no IDX file (it begins with {magic.hex(' ')})")
        if magic[2] != BYTES:
            raise ConfigError(f"{uri}: holds numbers of type {magic[2]:#04x}; only unsigned bytes (0x08) are read")
        sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise ConfigError(f"{uri}: ends within its header")
        found = Header(struct.unpack(f">{magic[3]}I", sizes))
        shape = " x ".join(map(str, found.sizes))
        if found.samples > MOST_SAMPLES or found.samples * found.dim > MOST_BYTES:
            raise ConfigError(
                f"{uri}: its header says {shape} bytes; at most {MOST_SAMPLES} samples and {MOST_BYTES} bytes are read"
            )
        length = _length(file, found.samples * found.dim)
    if length != found.samples * found.dim:
        more = "more" if length > found.samples * found.dim else str(length)
        raise ConfigError(f"{uri}: its header says {shape} = {found.samples * found.dim} bytes, and it holds {more}")
    if not found.samples * found.dim:
        raise ConfigError(f"{uri}: holds no sample ({shape})")
    return found


def rows(uri: str, about: Header, at_once: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the samples as uint8 (rows, dim), ``at_once`` rows at a time."""
    with _opened(uri) as file:
        file.read(about.length)
        for first in range(0, about.samples, at_once):
            data = file.read(min(at_once, about.samples - first) * about.dim)
            yield np.frombuffer(data, np.uint8).reshape(-1, about.dim)


def stem(uri: str) -> str:
    """Return the name of a file without folder and endings: train-images for train-images-idx3-ubyte.gz."""
    return ENDING.sub("", uri.rpartition("/")[2].removesuffix(".gz"))


def _length(file: BinaryIO, expected: int) -> int:
    """Count the bytes that are left, in bounded memory; at most one more than expected."""
    length = 0
    while length <= expected and (data := file.read(min(READ_BYTES, expected + 1 - length))):
        length += len(data)
    return length


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    with storage.open_read(uri) as packed:
        if uri.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=packed) as file:
                yield cast(BinaryIO, file)
        else:
            yield packed
