"""Which checkpoint a name stands for: the catalogue, and where its files are on this machine. Never asks the network.

Only safetensors, HDF5 and ONNX are read, and by those who can do it without running anything, the few formats that
networks were published in: a pickle can run any code when it is loaded.
"""

import functools
import hashlib
import importlib.util
import json
import math
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
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Model(BaseModel):
    """One entry of ``configs/models.yaml``; ``sha256`` is that of ``file``, None where it is not known.

    ``extractor`` is the one that reads it, ``output`` what a row then holds. A source ``package:NAME/FOLDER`` is a
    Python package that carries it: one that mmray needs anyway, or its ``extra`` installs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    revision: str | None = None
    file: str = "model.safetensors"
    sha256: str | None = None
    licence: str = "unknown"
    non_commercial: bool = False
    size_bytes: int | None = Field(None, gt=0)
    extractor: str = ""
    output: str = ""
    extra: str | None = None

    @property
    def on_hub(self) -> bool:
        """Tell a Hugging Face id from a URL and a package."""
        return ":" not in self.source

    @property
    def package(self) -> str | None:
        """Return the package that carries it, and the folder there, if one does."""
        kind, _, name = self.source.partition(":")
        return name if kind == "package" else None

    @property
    def command(self) -> str:
        """Return the command that brings it to a machine."""
        if self.package is None:
            return f"mmray models pull {self.name}"
        return f"pip install 'mmray[{self.extra}]'" if self.extra else "pip install mmray"

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
    path = whole(name, formats)
    model = find(name)
    folder = path if path.is_dir() else path.parent
    if model is not None and model.sha256 is not None and not (folder / digest.MARKER).is_file():
        file = folder / model.file
        problem = mismatch(model, file, digest.remembered([file])[0]) if file.is_file() else f"{file}: is missing"
        if problem:
            raise ConfigError(f"{problem}; remove {folder}, then run `{model.command}`")
    return Weights(name, path, digest.fingerprint(path))


def whole(name: str, formats: frozenset[str] = frozenset()) -> Path:
    """Return the file or folder to load for a name, without reading all of it: what ``resolve`` does but for digests.

    ConfigError as there.
    """
    path = locate(name, formats)
    if path is None:
        raise ConfigError(_absent(name))
    model = find(name)
    if model is not None and not model.on_hub and (path / model.file).is_file():
        path = path / model.file
    path = _usable(path, FILES | formats)
    for file in [path] if path.is_file() else digest.folder_files(path):
        if file.suffix == ".safetensors":
            safetensors_header(file)
    return path


def mismatch(model: Model, file: Path | str, found: str) -> str | None:
    """Say that the SHA-256 ``found`` of ``file`` is not the one the catalogue pins; None where it is, or none is."""
    if model.sha256 in (None, found):
        return None
    return f"{model.name}: the sha256 of {file} is {found}, and should be {model.sha256}"


def safetensors_header(file: Path) -> dict[str, Any]:
    """Return name -> {dtype, shape, data_offsets} of a safetensors file; ConfigError where it is damaged or cut off."""
    size_bytes = file.stat().st_size
    if size_bytes == 0:
        raise ConfigError(f"{file}: is empty; copy it again")
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size_bytes, HEADER_BYTES):
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        end, last = max(((_end(name, about), name) for name, about in tensors.items()), default=(0, "no tensor"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: is not a safetensors file ({error})") from error
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
    if model.package:
        return _in_package(model.package)
    return _in_hub_cache(model) if model.on_hub else None


def _in_package(name: str) -> Path | None:
    """Return a folder of a package, without importing it; None where it is not installed."""
    package, _, folder = name.partition("/")
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent / folder if found and found.origin else None


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
        if (file.suffix in suffixes or file.name == digest.CTRANSLATE2) and not file.is_file():
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
    if any(file.suffix == ".safetensors" or _ctranslate2(file) for file in digest.folder_files(path)):
        return path
    if any(file.suffix in PICKLES for file in path.rglob("*")):
        raise ConfigError(
            f"{path}: holds pickles only, which can run any code when they are loaded; take a revision with "
            "safetensors, or convert them on a machine you can lose"
        )
    found = f"several ({', '.join(sorted(file.name for file in files))}): name one" if files else "none"
    raise ConfigError(f"{path}: should hold one checkpoint (safetensors, HDF5 or ONNX), and holds {found}")


def _ctranslate2(file: Path) -> bool:
    """Tell a CTranslate2 file (uint32 version, uint16 length, the name of a specification) from a pickle."""
    if file.name != digest.CTRANSLATE2:
        return False
    with file.open("rb") as opened:
        start = opened.read(64)
    name = start[6 : 6 + int.from_bytes(start[4:6], "little")].rstrip(b"\0")
    return name.isalnum() and name.endswith(b"Spec")


def unknown(name: str) -> str:
    """Say that a name stands for nothing, with the nearest one that does."""
    near = nearest(name, [model.name for model in catalogue()])
    return f"{name}: no such file, folder or known model{near or '; `mmray models list` shows those'}"


def _absent(name: str) -> str:
    dry = "for a dry run give a random one from `mmray models make-tiny DIR`"
    model = find(name) or (Model(name=name, source=name) if HUB_ID.fullmatch(name) else None)
    if model:
        return f"{name}: not on this machine; run `{model.command}`, or give the path of a local copy; {dry}"
    return f"{unknown(name)}; {dry}"
