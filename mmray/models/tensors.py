"""Tensors by name out of the kinds of file that hold nothing else: safetensors, .npz, and torch.save's.

No pickle is executed: torch's loader that knows tensors only reads the last. Networks that were published as pickled
modules are for ``pickled``.
"""

import math
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmray.errors import ConfigError
from mmray.models import safetensors_file

Tensors = dict[str, Tensor]

ARRAY_BYTES = 2**31  # VGGish has 0.3 GB; a compressed archive of 2 MB can claim that much
# What numpy, torch and zipfile raise at a file that makes no sense.
BROKEN = (
    OSError, ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError,
    SyntaxError, TypeError, ValueError, pickle.UnpicklingError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    struct.error, SafetensorError,
)  # fmt: skip


def read(path: Path, names: Collection[str] | None = None) -> Tensors:
    """Return the tensors of a file on the CPU, each with memory of its own; what else it holds is left out.

    ``names``: the only ones that are read of an .npz, which may be compressed. ConfigError, naming the file and, where
    it is one tensor's fault, the tensor, where the file is damaged, cut short, or holds no tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            safetensors_file.header(path)
            # A file that is written over while the run goes on must not change what was read.
            return {name: tensor.clone() for name, tensor in load_file(path).items()}
        return dict(_of_npz(path, names)) if path.suffix == ".npz" else _saved(path)
    except ConfigError:
        raise
    except BROKEN as error:
        said = " ".join(str(error).split())
        said = said.partition("WeightsUnpickler error: ")[2] or said  # the rest is advice to load it all the same
        raise ConfigError(f"{path}: cannot be read as tensors: {said[:200] or type(error).__name__}") from error


def _of_npz(path: Path, names: Collection[str] | None) -> Iterator[tuple[str, Tensor]]:
    left_bytes = ARRAY_BYTES
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            try:
                left_bytes -= _array_bytes(archive, entry)
                if left_bytes < 0:
                    raise ValueError(f"with it the arrays have more than {ARRAY_BYTES:,} bytes")
                with archive.open(entry) as file:
                    tensor = torch.from_numpy(npy.read_array(file, allow_pickle=False))
            except BROKEN as error:
                raise ConfigError(f"{path}: cannot be read as tensors: {name!r}: {error}") from error
            yield name, tensor


def _array_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Return how long an array is, from its header alone; ValueError where its part of the archive is not so long."""
    with archive.open(entry) as file:
        # Later versions, for names of columns, may have headers of 4 GB.
        if npy.read_magic(file) != (1, 0):
            raise ValueError("is no array of numbers")
        shape, _, dtype = npy.read_array_header_1_0(file)
        size_bytes = math.prod(shape) * dtype.itemsize
        if file.tell() + size_bytes != entry.file_size or min(shape, default=0) < 0 or dtype.kind not in "biuf":
            raise ValueError(f"of shape {shape} and {dtype} cannot have {entry.file_size:,} bytes")
    return size_bytes


def _saved(path: Path) -> Tensors:
    """Read what torch.save wrote; torchvggish's quantiser holds plain arrays of numpy."""
    rebuild = np.empty(0).__reduce__()[0]
    arrays: list[Any] = [
        np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ("float32", "float64")),
        (rebuild, "numpy.core.multiarray._reconstruct"), (rebuild, "numpy._core.multiarray._reconstruct"),
    ]  # fmt: skip
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("is compressed, as torch.save never writes")
    with torch.serialization.safe_globals(arrays):
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise TypeError(f"should hold tensors by name, and holds a {type(found).__name__}")
    return {str(name): torch.as_tensor(v) for name, v in found.items() if isinstance(v, Tensor | np.ndarray)}
