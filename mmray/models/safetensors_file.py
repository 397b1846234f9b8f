"""What a safetensors file says of its tensors, read without torch, and whether it is all there."""

import json
import math
from pathlib import Path
from typing import Any

from mmray.errors import ConfigError

HEADER_BYTES = 100_000_000  # the format's own limit
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def header(file: Path) -> dict[str, Any]:
    """Return name -> {dtype, shape, data_offsets} of a safetensors file; ConfigError where it is damaged or cut off."""
    size_bytes = file.stat().st_size
    if size_bytes == 0:
        raise ConfigError(f"{file}: is empty; copy it again")
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size_bytes, HEADER_BYTES):
                raise ValueError("its header is longer than the file")
            found = json.loads(opened.read(length))
        tensors = {name: about for name, about in found.items() if name != "__metadata__"}
        end, last = max(((_end(name, about), name) for name, about in tensors.items()), default=(0, "no tensor"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: is not a safetensors file ({error}); copy it again") from error
    if 8 + length + end > size_bytes:
        missing = 8 + length + end - size_bytes
        raise ConfigError(f"{file}: is cut short: {missing:,} bytes are missing, of {last!r} at least; copy it again")
    return tensors


def _end(name: str, about: dict[str, Any]) -> int:
    """Return where a tensor's bytes end; ValueError where they cannot be those of its shape."""
    start, end = map(int, about["data_offsets"])
    wanted = math.prod(about["shape"]) * DTYPE_BYTES.get(about["dtype"], 0)
    if not 0 <= start <= end or wanted not in (0, end - start):
        raise ValueError(f"{name!r} of shape {about['shape']} in {end - start:,} bytes")
    return end
