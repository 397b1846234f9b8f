"""The pickle of a PyTorch file read as plain data: no name of it is ever imported, not even torch, and nothing runs.

A pickle is a program: its GLOBAL instructions fetch functions, its REDUCE calls them. Here every instruction is looked
at before the first one runs, and the few names that a network's file needs stand for inert records of this module.
"""

import io
import pickle
import pickletools
from typing import Any

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


class InertTensor(Inert):
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
    ("torch._utils", "_rebuild_tensor_v2"): InertTensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    **{("torch", f"{name}Storage"): dtype for name, dtype in STORAGES.items()},
    **dict.fromkeys([("torch", "Size"), ("torch", "device"), ("builtins", "set"), ("__builtin__", "set")], Inert),
    # A trainer's notes beside the network ("best_fitness") are numpy's.
    **dict.fromkeys([("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")], Inert),
    **{(f"numpy.{core}.multiarray", name): Inert for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
}
MODULE_CLASSES = ("models.", "utils.", "torch.nn.modules.")


class _RefusedError(Exception):
    """A program that does what no network needs."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the inert record that a name stands for; nothing is imported."""
        if (module, name) in NAMES:
            return NAMES[module, name]
        if module.startswith(MODULE_CLASSES):
            return Inert
        raise _RefusedError(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage, unchecked."""
        return pid


def load(data: bytes) -> Any:
    """Return what a pickle holds, networks as ``Inert`` and ``InertTensor``; ValueError says why it is refused."""
    try:
        for instruction, value, _ in pickletools.genops(data):
            # A memory slot beyond the file's length would only make Python reserve space.
            far = instruction.name == "LONG_BINPUT" and int(value or 0) > len(data)
            if far or instruction.name not in INSTRUCTIONS:
                raise _RefusedError(f"uses the instruction {instruction.name} {value!r:.50}")
        return _Reader(io.BytesIO(data)).load()
    except _RefusedError as error:
        raise ValueError(f"is a pickle that {error}, which no network needs; nothing of it was run") from error
    except NONSENSE as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error}); copy it again") from error
