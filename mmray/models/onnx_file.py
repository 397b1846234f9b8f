"""Write small ONNX files without the onnx package: just the parts of its protobuf schema that a small network needs.

Source: the field numbers of onnx.proto (Apache-2.0). torch's own exporters need the onnx package, which mmray does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

IR_VERSION, OPSET = 8, 13
ELEMENT_TYPES = {"float32": 1, "int64": 7}
INT, INTS = 2, 7  # AttributeProto.AttributeType
Side = int | str


@dataclass(frozen=True)
class Node:
    """One operation: its attributes are whole numbers or lists of them."""

    operation: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


def model(
    nodes: Sequence[Node],
    constants: dict[str, npt.NDArray[Any]],
    inputs: Mapping[str, Sequence[Side]],
    outputs: Mapping[str, Sequence[Side]],
    whole: Collection[str] = (),
) -> bytes:
    """Return an ONNX file of inputs and outputs (by name and shape) and constants (float32 or int64).

    Inputs and outputs are float32, those named in ``whole`` int64; a side with a name may have any length.
    """
    graph = b"".join(
        [
            *(_bytes(1, _node(node)) for node in nodes),
            _bytes(2, b"graph"),
            *(_bytes(5, _tensor(name, array)) for name, array in constants.items()),
            *(_bytes(11, _value(name, shape, name in whole)) for name, shape in inputs.items()),
            *(_bytes(12, _value(name, shape, name in whole)) for name, shape in outputs.items()),
        ]
    )
    return _number(1, IR_VERSION) + _bytes(2, b"mmray") + _bytes(7, graph) + _bytes(8, _number(2, OPSET))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers are written as 64-bit two's complement
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _number(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _bytes(tag: int, value: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(value)) + value


def _node(node: Node) -> bytes:
    parts = [_bytes(1, name.encode()) for name in node.inputs] + [_bytes(2, name.encode()) for name in node.outputs]
    parts.append(_bytes(4, node.operation.encode()))
    for name, value in node.attributes.items():
        numbers = _number(3, value) if isinstance(value, int) else b"".join(_number(8, number) for number in value)
        kind = INT if isinstance(value, int) else INTS
        parts.append(_bytes(5, _bytes(1, name.encode()) + numbers + _number(20, kind)))
    return b"".join(parts)


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, side) for side in array.shape)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return dims + _number(2, ELEMENT_TYPES[array.dtype.name]) + _bytes(8, name.encode()) + _bytes(9, little.tobytes())


def _value(name: str, shape: Sequence[Side], whole: bool) -> bytes:
    sides = b"".join(
        _bytes(1, _bytes(2, side.encode()) if isinstance(side, str) else _number(1, side)) for side in shape
    )
    tensor = _number(1, ELEMENT_TYPES["int64" if whole else "float32"]) + _bytes(2, sides)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))
