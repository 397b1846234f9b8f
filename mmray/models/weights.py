"""Which checkpoint a name stands for: the catalogue, and where its files are on this machine. Never asks the network.

Only safetensors, HDF5 and ONNX are read, and by those who can do it without running anything, the few formats that
networks were published in: a pickle can run any code when it is loaded.
"""

import functools
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmray import storage
from mmray.config import nearest, read_yaml, validate
from mmray.errors import ConfigError
from mmray.models import digest

FILES = frozenset({".h5", ".hdf5", ".onnx", ".safetensors"})
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
HEADER_BYTES = 100_000_000  # the format's own limit
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Model(BaseModel):
    """One entry of ``configs/models.yaml``; ``sha256`` is that of ``file``, None where it is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    revision: str | None = None
    file: str = "model.safetensors"
    sha256: str | None = None
    licence: str = "unknown"
    non_commercial: bool = False
    size_bytes: int | None = Field(None, gt=0)

    @property
    def on_hub(self) -> bool:
        """Tell a Hugging Face id from a URL."""
        return "://" not in self.source

    @property
    def folder(self) -> str:
        """Return the name of its folder below ``MMRAY_HOME/models``."""
        return self.name.replace("/", "--")


class _Catalogue(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint on this machine; ``fingerprint`` is a SHA-256, or ``random:SEED``."""

    name: str
    path: Path
    fingerprint: str

    @property
    def random(self) -> bool:
        """Tell whether make_tiny drew them: their numbers mean nothing."""
        return self.fingerprint.startswith("random:")


@functools.cache
def catalogue() -> tuple[Model, ...]:
    """Return the models of ``configs/models.yaml`` in a checkout, of ``mmray/models.yaml`` in an installed package."""
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / "configs" / "models.yaml", package / "models.yaml"]
    file = next((place for place in places if place.is_file()), places[0])
    return validate(_Catalogue, read_yaml(str(file)), "", str(file)).models


def find(name: str) -> Model | None:
    """Return the catalogue's model of that name or hub id."""
    return next((model for model in catalogue() if name in (model.name, model.source)), None)


def resolve(name: str, formats: frozenset[str] = frozenset()) -> Weights:
    """Return the checkpoint that a name of the catalogue, a hub id, a local path or a URL (fetched once) stands for.

    A name of the catalogue always means the catalogue's model: write ``./yamnet`` for a file of that name. ``formats``:
    suffixes that the caller can read beside ``FILES``. ConfigError where there is no such checkpoint on this machine,
    only a pickle, a damaged file, or other contents than the catalogue pins; it says what to do.
    """
    path = locate(name, formats)
    if path is None:
        raise ConfigError(_absent(name))
    model, folder = find(name), path
    path = _usable(path, FILES | formats)
    for file in [path] if path.is_file() else digest.folder_files(path):
        if file.suffix == ".safetensors":
            safetensors_header(file)
    if model is not None and (problem := mismatch(model, folder)):
        raise ConfigError(f"{problem}; pull it again with `mmray models pull {model.name}` after removing {folder}")
    return Weights(name, path, digest.fingerprint(path))


def mismatch(model: Model, folder: Path) -> str | None:
    """Say how a model on this machine differs from what the catalogue pins; None where it does not, or is random."""
    file = folder / model.file if folder.is_dir() else folder
    if model.sha256 is None or (file.parent / digest.MARKER).is_file():
        return None
    if not file.is_file():
        return f"{file}: is missing"
    found = digest.remembered([file])[0]
    return (
        None
        if found == model.sha256
        else f"{model.name}: the sha256 of {file} is {found}, and should be {model.sha256}"
    )


def safetensors_header(file: Path) -> dict[str, Any]:
    """Return name -> {dtype, shape, data_offsets} of a safetensors file; ConfigError where it is damaged or cut off."""
    size_bytes = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size_bytes, HEADER_BYTES):
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        end, last = max(((about["data_offsets"][1], name) for name, about in tensors.items()), default=(0, "no tensor"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: is not a safetensors file ({error})") from error
    if 8 + length + end > size_bytes:
        missing = 8 + length + end - size_bytes
        raise ConfigError(f"{file}: is cut short: {missing:,} bytes are missing, of {last!r} at least; copy it again")
    return tensors


def locate(name: str, formats: frozenset[str] = frozenset()) -> Path | None:
    """Return the file or folder a name stands for, unchecked; None where it is not on this machine."""
    model = find(name)
    if model is None and storage.is_remote(name):
        return _fetched(name, digest.READ | FILES | formats)
    if model is None and (path := storage.local_path(name).expanduser()).exists():
        return path
    if model is None and HUB_ID.fullmatch(name):
        model = Model(name=name, source=name)
    if model is None:
        return None
    pulled = digest.home() / "models" / model.folder
    if pulled.is_dir():
        return pulled
    return _in_hub_cache(model) if model.on_hub else None


def _in_hub_cache(model: Model) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _fetched(url: str, suffixes: frozenset[str]) -> Path:
    """Copy a file or folder from a URL to ``MMRAY_HOME``, once for each state of its source."""
    try:
        folder = storage.is_folder(url)
        found = storage.files(url) if folder else [entry for entry in storage.entries([url]).values() if entry]
    except OSError as error:
        raise ConfigError(f"{url}: cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"{url}: there is no such checkpoint")
    state = hashlib.sha256("\n".join([url, *(entry.tag for entry in found)]).encode()).hexdigest()[:16]
    target = digest.home() / "models" / "fetched" / state
    base = _key(url) if folder else _key(storage.parent(url))
    for entry in found:
        file = target / _key(entry.uri).removeprefix(base).lstrip("/")
        if file.suffix in suffixes and not file.is_file():
            with storage.open_read(entry.uri) as source, storage.create(str(file)) as copy:
                shutil.copyfileobj(source, copy, 2**22)
    return target if folder else target / Path(url).name


def _key(url: str) -> str:
    """Return a URL without its scheme; some file systems list keys with a slash in front."""
    return url.partition("://")[2].strip("/")


def _usable(path: Path, formats: frozenset[str]) -> Path:
    """Return the file or folder to load: the one file of a folder that holds just one HDF5 or ONNX file."""
    if path.is_file():
        if path.suffix in formats:
            return path
        what = "a pickle, which can run any code when it is loaded" if path.suffix in PICKLES else "of no known kind"
        raise ConfigError(f"{path}: is {what}; give a {', '.join(sorted(formats))} file or a folder with safetensors")
    files = [file for file in path.iterdir() if file.suffix in formats]
    if len(files) == 1 and not (path / "config.json").exists() and not (path / "modules.json").exists():
        return files[0]
    if any(file.suffix == ".safetensors" for file in digest.folder_files(path)):
        return path
    if any(file.suffix in PICKLES for file in path.rglob("*")):
        raise ConfigError(
            f"{path}: holds pickles only, which can run any code when they are loaded; take a revision with "
            "safetensors, or convert them on a machine you can lose"
        )
    found = f"several ({', '.join(sorted(file.name for file in files))}): name one" if files else "none"
    raise ConfigError(f"{path}: should hold one checkpoint (safetensors, HDF5 or ONNX), and holds {found}")


def unknown(name: str) -> str:
    """Say that a name stands for nothing, with the nearest one that does."""
    return f"{name}: no such file, folder or known model{nearest(name, [model.name for model in catalogue()])}"


def _absent(name: str) -> str:
    dry = "for a dry run give a random one from `mmray models make-tiny DIR`"
    if find(name) or HUB_ID.fullmatch(name):
        return f"{name}: not on this machine; run `mmray models pull {name}`, or give the path of a local copy; {dry}"
    return f"{unknown(name)}; {dry}"
