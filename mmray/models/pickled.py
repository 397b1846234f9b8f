"""Tensors out of a PyTorch file that pickles whole modules, without running anything that is in it.

Some networks were published only so (``{"model": <the module>}``). A pickle is a program: its GLOBAL instructions fetch
functions, its REDUCE calls them. Here every instruction is looked at before the first one runs, and the few names that
such a file needs stand for inert records of this module: no name of the file is ever imported, not even torch. What is
left is data: the modules' own dictionaries, which are walked for their parameters and buffers.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError

Array = npt.NDArray[Any]

PICKLE_BYTES = 50_000_000  # YOLOv7's has 0.2 MB: names and shapes, no numbers
MODULES = 20_000  # YOLOv7 has 600
DEPTH, DIMENSIONS = 32, 8
# Instructions that make plain data, fetch a name (see NAMES), call one, and give an object its state. All others are
# refused: extension codes, buffers, what old protocols had.
INSTRUCTIONS = frozenset(
    {
        "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
        "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "EMPTY_DICT", "EMPTY_LIST",
        "EMPTY_TUPLE", "EMPTY_SET", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS", "TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
        "NEWOBJ", "BUILD", "BINPERSID",
    }
)  # fmt: skip
# What an unpickler raises at a program that makes no sense, and zipfile at an archive that makes none.
NONSENSE = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError, MemoryError,
    RecursionError,
)  # fmt: skip
BROKEN = (zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError, struct.error)
STORAGES = {
    "Half": "<f2", "Float": "<f4", "Double": "<f8", "BFloat16": "bfloat16", "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "|i1", "Byte": "|u1", "Bool": "|b1",
}  # fmt: skip


class Inert:
    """Anything: takes whatever it is made of and keeps the state it is given, and does nothing with either."""

    __slots__ = ("made_of", "state")
    made_of: tuple[Any, ...]
    state: dict[Any, Any]

    def __new__(cls, *made_of: object) -> "Inert":
        """Return a record without state; unpickling may or may not go through ``__init__``."""
        self = super().__new__(cls)
        self.made_of = made_of
        self.state = {}
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _Tensor(Inert):
    """Made of storage, offset, shape, stride ... as torch wrote them, unchecked."""

    __slots__ = ()


class _Mapping(dict[Any, Any]):
    """An OrderedDict, whose attributes (the versions of a state dictionary) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        del state


class _Parameter:
    """Gives the tensor it is made of."""

    __slots__ = ()

    def __new__(cls, data: object, *_: object) -> Any:
        """Return ``data``."""
        return data

    def __setstate__(self, state: object) -> None:
        del state


# Types that take any state only into an instance, and strings: a program cannot change what it fetches here.
NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    **{("torch", f"{name}Storage"): dtype for name, dtype in STORAGES.items()},
    **dict.fromkeys([("torch", "Size"), ("torch", "device"), ("builtins", "set"), ("__builtin__", "set")], Inert),
    # A trainer's notes beside the network ("best_fitness") are numpy's.
    **dict.fromkeys([("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")], Inert),
    **{(f"numpy.{core}.multiarray", name): Inert for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
}
MODULE_CLASSES = ("models.", "utils.", "torch.nn.modules.")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the inert record that a name stands for; nothing is imported."""
        if (module, name) in NAMES:
            return NAMES[module, name]
        if module.startswith(MODULE_CLASSES):
            return Inert
        raise ConfigError(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage, unchecked."""
        return pid


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's numbers lie in its storage, in numbers."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: _Tensor) -> "_Place":
        """Read torch's description; ValueError or TypeError where it is none."""
        (kind, dtype, storage, _, _), offset, shape, stride = tensor.made_of[:4]
        place = cls(storage, dtype, offset, tuple(shape), tuple(stride))
        numbers = (place.offset, *place.shape, *place.stride)
        if len(place.shape) != len(place.stride) or len(place.shape) > DIMENSIONS:
            raise ValueError(f"{len(place.shape)} dimensions, {len(place.stride)} steps")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("its shape and place are no numbers")
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
            inside = [name for name in file.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if len(inside) != 1:
                raise ConfigError(f"{path}: is an archive, but none of torch.save: it has {len(inside)} data.pkl")
            self._folder = inside[0].removesuffix("data.pkl")
            if f"{self._folder}byteorder" in file.namelist() and self._bytes(file, "byteorder") != b"little":
                raise ConfigError(f"{path}: was written on a big-endian machine; save it again on another")
            root = self._root(self._bytes(file, "data.pkl", PICKLE_BYTES))
            chosen = next((root[key] for key in ("ema", "model", "state_dict") if root.get(key) is not None), root)
            self.about: dict[Any, Any] = chosen.state if isinstance(chosen, Inert) else {}
            self._places = {name: self._place(file, name, tensor) for name, tensor in self._walk(chosen)}
            file_bytes = sum(entry.file_size for entry in file.infolist())
        if not self._places:
            raise ConfigError(f"{path}: holds no tensors of a network")
        if sum(place.count for place in self._places.values()) > file_bytes:
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
                found[name] = _array(storages[place.storage], place)
        return found

    def _root(self, data: bytes) -> dict[Any, Any]:
        try:
            for instruction, value, _ in pickletools.genops(data):
                # A memory slot beyond the file's length would only make Python reserve space.
                far = instruction.name == "LONG_BINPUT" and int(value or 0) > len(data)
                if far or instruction.name not in INSTRUCTIONS:
                    raise ConfigError(f"uses the instruction {instruction.name} {value!r:.50}")
            root = _Reader(io.BytesIO(data)).load()
        except ConfigError as error:
            self._refuse(f"is a pickle that {error}, which no network needs; nothing of it was run")
        except NONSENSE as error:
            raise ConfigError(f"{self.path}: its pickle is damaged ({type(error).__name__}: {error})") from error
        root = {"model": root} if type(root) is Inert else root
        if not isinstance(root, dict):
            self._refuse(f"holds {type(root).__name__}, and should hold a network's tensors")
        return root

    def _walk(self, root: Any) -> Iterator[tuple[str, _Tensor]]:
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

    def _place(self, file: zipfile.ZipFile, name: str, tensor: _Tensor) -> _Place:
        try:
            place = _Place.of(tensor)
            held = file.getinfo(f"{self._folder}data/{place.storage}").file_size // place.itemsize
        except (TypeError, ValueError, KeyError) as error:
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

    def _bytes(self, file: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
        try:
            entry = file.getinfo(self._folder + name)
            if entry.compress_type != zipfile.ZIP_STORED or (limit is not None and entry.file_size > limit):
                raise ValueError(f"it is compressed, or too long ({entry.file_size:,} bytes)")
            return file.read(entry)
        except (OSError, *BROKEN) as error:
            raise ConfigError(f"{self.path}: {name} is damaged ({error}); copy the file again") from error

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {why}")


def _tensors(found: object) -> list[tuple[str, _Tensor]]:
    """Return the tensors of a dictionary by name; nothing of anything else."""
    pairs = found.items() if isinstance(found, dict) else ()
    return [(name, value) for name, value in pairs if isinstance(name, str) and isinstance(value, _Tensor)]


def _array(data: bytes, place: _Place) -> Array:
    if not place.count:
        return np.zeros(place.shape, np.float32)
    numbers = np.frombuffer(data, "<u2" if place.dtype == "bfloat16" else place.dtype, len(data) // place.itemsize)
    start = numbers[place.offset :]
    steps = [step * place.itemsize for step in place.stride]
    array = np.lib.stride_tricks.as_strided(start, place.shape, steps, writeable=False)
    if place.dtype == "bfloat16":  # the upper half of a float32
        return (array.astype("<u4") << 16).view("<f4")
    return array.astype(np.float32) if place.dtype == "<f2" else array.copy()
