"""Tensors out of a PyTorch file that pickles whole modules, without running anything that is in it.

Some networks were published only so (``{"model": <the module>}``). What ``inert`` reads of the pickle is data: the
modules' own dictionaries, which are walked for their parameters and buffers. Every length that the file tells is
checked against the bytes that are there.
"""

import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.models import inert
from mmray.models.inert import STORAGES, Inert, InertTensor

Array = npt.NDArray[Any]

PICKLE_BYTES = 50_000_000  # YOLOv7's has 0.2 MB: names and shapes, no numbers
MODULES = 20_000  # YOLOv7 has 600
DEPTH, DIMENSIONS = 32, 8
NETWORKS = ("ema", "model", "state_dict", "generator")  # under which key a file keeps its network, the first that is
NUMBERS = 2**40  # a shape of more is none, even where one of its lengths is 0
BROKEN = (zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's numbers lie in its storage, in numbers."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: InertTensor) -> "_Place":
        """Read torch's description; ValueError or TypeError where it is none."""
        (kind, dtype, storage, _, _), offset, shape, stride = tensor.made_of[:4]
        place = cls(storage, dtype, offset, tuple(shape), tuple(stride))
        numbers = (place.offset, *place.shape, *place.stride)
        if len(place.shape) != len(place.stride) or len(place.shape) > DIMENSIONS:
            raise ValueError(f"{len(place.shape)} dimensions, {len(place.stride)} steps")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("its shape and place are no numbers")
        if math.prod(max(1, length) for length in place.shape) > NUMBERS:
            raise ValueError("its shape is none of a network's")
        if kind != "storage" or dtype not in STORAGES.values() or not isinstance(storage, str):
            raise ValueError("its storage is none of torch's")
        return place

    @property
    def itemsize(self) -> int:
        """Return the bytes of a number."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def count(self) -> int:
        """Return how many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """Return the first number behind the last one it reaches."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) + 1


class Pickled:
    """A file that ``torch.save`` wrote: the shapes of its tensors by name, and what its root says ``about`` itself.

    ``arrays`` reads the numbers. Of a training checkpoint the averaged network (``ema``) counts where there is one.
    ConfigError, naming the file, where it is damaged, holds anything but data, or no network.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with self._open() as file:
            self._size_bytes = Path(path).stat().st_size
            inside = [name for name in file.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if len(inside) != 1:
                raise ConfigError(f"{path}: is an archive, but none of torch.save: it has {len(inside)} data.pkl")
            self._folder = inside[0].removesuffix("data.pkl")
            if f"{self._folder}byteorder" in file.namelist() and self._bytes(file, "byteorder") != b"little":
                raise ConfigError(f"{path}: was written on a big-endian machine; save it again on another")
            root = self._root(self._bytes(file, "data.pkl", PICKLE_BYTES))
            chosen = next((root[key] for key in NETWORKS if root.get(key) is not None), root)
            self.about: dict[Any, Any] = chosen.state if isinstance(chosen, Inert) else {}
            self._places = {name: self._place(file, name, tensor) for name, tensor in self._walk(chosen)}
            claimed = sum(entry.file_size for entry in file.infolist())
        if not self._places:
            raise ConfigError(f"{path}: holds no tensors of a network")
        if claimed > self._size_bytes:
            raise ConfigError(
                f"{path}: its parts claim {claimed:,} bytes together, and the file has {self._size_bytes:,}"
            )
        if sum(place.count for place in self._places.values()) > self._size_bytes:
            raise ConfigError(f"{path}: its tensors claim more numbers than the file has bytes")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor."""
        return {name: place.shape for name, place in self._places.items()}

    def arrays(self) -> dict[str, Array]:
        """Return every tensor, each with memory of its own; halves become float32."""
        found = {}
        storages: dict[str, bytes] = {}
        with self._open() as file:
            for name, place in self._places.items():
                if place.storage not in storages:
                    storages[place.storage] = self._bytes(file, f"data/{place.storage}")
                data = storages[place.storage]
                if place.count and place.end * place.itemsize > len(data):  # it has changed since it was looked at
                    self._refuse(f"tensor {name!r} reaches beyond the {len(data):,} bytes of its storage")
                found[name] = _array(data, place)
        return found

    def _root(self, data: bytes) -> dict[Any, Any]:
        try:
            root = inert.load(data)
        except ValueError as error:
            raise ConfigError(f"{self.path}: {error}") from error
        root = {"model": root} if type(root) is Inert else root
        if not isinstance(root, dict):
            self._refuse(f"holds {type(root).__name__}, and should hold a network's tensors")
        return root

    def _walk(self, root: Any) -> Iterator[tuple[str, InertTensor]]:
        """Find the tensors of a tree of modules, or of a state dictionary, by the names torch gives them."""
        if isinstance(root, dict):
            yield from _tensors(root)
            return
        waiting, seen = [("", root, 0)], 0
        while waiting and seen + len(waiting) <= MODULES:
            seen += 1
            prefix, module, depth = waiting.pop()
            state = module.state if isinstance(module, Inert) and depth <= DEPTH else {}
            for part in ("_parameters", "_buffers"):
                for name, tensor in _tensors(state.get(part)):
                    yield prefix + name, tensor
            modules = state.get("_modules")
            children = modules.items() if isinstance(modules, dict) else ()
            waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in children if isinstance(name, str)]
        if waiting:
            self._refuse(f"its modules are more than {MODULES:,}")

    def _place(self, file: zipfile.ZipFile, name: str, tensor: InertTensor) -> _Place:
        try:
            place = _Place.of(tensor)
            held = self._entry(file, f"data/{place.storage}").file_size // place.itemsize
        except (TypeError, ValueError, LookupError) as error:
            raise ConfigError(f"{self.path}: tensor {name!r} cannot be read: {error}") from error
        if place.count and (place.count > held or place.end > held):
            self._refuse(f"tensor {name!r} of shape {place.shape} reaches beyond the {held:,} numbers of its storage")
        return place

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error}") from error
        except BROKEN as error:
            raise ConfigError(
                f"{self.path}: is cut short, or no archive as torch.save writes since version 1.6 ({error}); copy it "
                "again, or convert it to safetensors on a machine you can lose"
            ) from error

    def _entry(self, file: zipfile.ZipFile, name: str, limit: int | None = None) -> zipfile.ZipInfo:
        """Return a part that is stored as it is and can be whole; ValueError or KeyError where it is not."""
        entry = file.getinfo(self._folder + name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("it is compressed, or two lengths are told of it")
        if (limit is not None and entry.file_size > limit) or entry.file_size > self._size_bytes:
            raise ValueError(f"it is too long ({entry.file_size:,} bytes)")
        return entry

    def _bytes(self, file: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
        try:
            entry = self._entry(file, name, limit)
            data = file.read(entry)
            # Python's zipfile checks no sum where an archive ends early.
            if len(data) != entry.file_size:
                raise ValueError(f"{entry.file_size - len(data):,} bytes of it are missing")
        except (OSError, *BROKEN) as error:
            raise ConfigError(f"{self.path}: {name} is damaged ({error}); copy the file again") from error
        return data

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {why}")


def _tensors(found: object) -> list[tuple[str, InertTensor]]:
    """Return the tensors of a dictionary by name; nothing of anything else."""
    pairs = found.items() if isinstance(found, dict) else ()
    return [(name, value) for name, value in pairs if isinstance(name, str) and isinstance(value, InertTensor)]


def _array(data: bytes, place: _Place) -> Array:
    if not place.count:
        return np.zeros(place.shape, np.float32)
    numbers = np.frombuffer(data, "<u2" if place.dtype == "bfloat16" else place.dtype, len(data) // place.itemsize)
    start = numbers[place.offset :]
    steps = [step * place.itemsize if n > 1 else 0 for n, step in zip(place.shape, place.stride, strict=True)]
    array = np.lib.stride_tricks.as_strided(start, place.shape, steps, writeable=False)
    if place.dtype == "bfloat16":  # the upper half of a float32
        return (array.astype("<u4") << 16).view("<f4")
    return array.astype(np.float32) if place.dtype == "<f2" else array.copy()
