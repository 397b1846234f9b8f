"""What the makers of tiny checkpoints share."""

import json
from pathlib import Path
from typing import Any

# Of any transformer.
SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


def write_json(file: Path, data: Any) -> None:
    """Write plain data; the folder is made where it is missing."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data, indent=2))
