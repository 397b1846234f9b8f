"""What a number came from: the identity of an extractor, and the circumstances of a run."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LIBRARIES = (
    "mmray", "av", "diffusers", "min-dalle", "numpy", "onnxruntime", "pyarrow", "ray", "scikit-learn",
    "sentence-transformers", "torch", "torchaudio", "transformers",
)  # fmt: skip


def fingerprint(identity: Any, length: int = 8) -> str:
    """Return the first hex digits of the SHA-256 of plain data; the order of keys does not matter."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def new_run_id() -> str:
    """Return an id that sorts by time of start: ``20261231T235959123-1a2b``."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{uuid.uuid4().hex[:4]}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that touch the numbers, as installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # code shipped by a working directory has no metadata of its own
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout mmray runs from, with ``+`` when files differ; None outside of git."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
