"""What identifies the weights a number came from: SHA-256 digests.

They are remembered, because a run that has nothing to do must stay under 3 s.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from mmray import storage

MARKER = "random.json"  # {"seed": N}, beside a random checkpoint that make_tiny wrote
READ = frozenset(
    {".safetensors", ".json", ".txt", ".model"}
)  # what loading a folder reads; not README, pickles, ONNX exports
CTRANSLATE2 = "model.bin"  # tensors in CTranslate2's own format; pickles of the hub are called pytorch_model.bin
# The pickles that are read, as data: Auffusion's vocoder and DALL·E mini's networks were published as nothing else.
VOCODER, DETOKENIZER = "vocoder.pt", "detoker.pt"
NAMED = frozenset({CTRANSLATE2, VOCODER, "encoder.pt", "decoder.pt", DETOKENIZER})
EXPORTS = {"onnx", "openvino"}


def home() -> Path:
    """Return the folder mmray keeps its models in: ``MMRAY_HOME``, else ``~/.cache/mmray``."""
    return Path(os.environ.get("MMRAY_HOME") or "~/.cache/mmray").expanduser()


def sha256(path: Path) -> str:
    """Read a whole file and return its SHA-256 in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Identify a checkpoint by what it holds, wherever it stands.

    ``random:SEED`` where make_tiny wrote it; the SHA-256 of a file; of a folder the SHA-256 over the names and digests
    of the files that loading reads.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MARKER).is_file():
        return f"random:{json.loads((folder / MARKER).read_text())['seed']}"
    return contents(path)


def contents(path: Path) -> str:
    """Return the SHA-256 of a file, or over the names and digests of the files of a folder that loading reads."""
    if path.is_file():
        return remembered([path])[0]
    files = sorted(folder_files(path))
    names = [file.relative_to(path).as_posix() for file in files]
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, remembered(files), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_files(folder: Path) -> list[Path]:
    """List the files of a model folder that loading reads."""
    found = (path for path in folder.rglob("*") if (path.suffix in READ or path.name in NAMED) and path.is_file())
    return [path for path in found if not _ignored(path.relative_to(folder))]


def _ignored(name: Path) -> bool:
    return any(part.startswith(".") or part in EXPORTS for part in name.parts)


def remembered(paths: Iterable[Path]) -> list[str]:
    """Return SHA-256 digests; those of files that have not changed (path, size, mtime) come from a small cache."""
    cache = home() / "sha256.json"
    try:
        known = json.loads(cache.read_text())
    except (OSError, json.JSONDecodeError):
        known = {}
    fresh = {}
    digests = []
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            fresh[key] = known[key] = sha256(path)
        digests.append(known[key])
    if fresh:
        try:
            storage.put(str(cache), json.dumps(known, indent=0, sort_keys=True).encode())
        except OSError:  # a read-only home costs time, not the run
            return digests
    return digests
