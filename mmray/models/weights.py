"""Which checkpoint a name stands for, and where its files are on this machine. Never asks the hub.

Only safetensors, HDF5 and ONNX are read, and by those who can do it without running anything, the few formats that
networks were published in: a pickle can run any code when it is loaded.
"""

import hashlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmray import storage
from mmray.errors import ConfigError
from mmray.models import catalogue, digest, safetensors_file
from mmray.models.catalogue import Model

FILES = frozenset({".h5", ".hdf5", ".onnx", ".safetensors"})
# What lies in a folder that is loaded as a whole: of transformers, sentence-transformers, diffusers.
WHOLE = ("config.json", "modules.json", "model_index.json")
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


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

    @property
    def identity(self) -> str:
        """Return what ids are made of: the fingerprint, and of random weights their contents too."""
        return f"{self.fingerprint}/{digest.contents(self.path)[:16]}" if self.random else self.fingerprint


def resolve(name: str, formats: frozenset[str] = frozenset()) -> Weights:
    """Return the checkpoint that a name of the catalogue, a hub id, a local path or a URL (fetched once) stands for.

    A name of the catalogue always means the catalogue's model: write ``./yamnet`` for a file of that name. ``formats``:
    suffixes that the caller can read beside ``FILES``. ConfigError where there is no such checkpoint on this machine,
    only a pickle, a damaged file, or other contents than the catalogue pins; it says what to do.
    """
    path = whole(name, formats)
    model = catalogue.find(name)
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
    model = catalogue.find(name)
    if model is not None and not model.on_hub and (path / model.file).is_file():
        path = path / model.file
    path = _usable(path, FILES | formats)
    for file in [path] if path.is_file() else digest.folder_files(path):
        if file.suffix == ".safetensors":
            safetensors_file.header(file)
    return path


def mismatch(model: Model, file: Path | str, found: str) -> str | None:
    """Say that the SHA-256 ``found`` of ``file`` is not the one the catalogue pins; None where it is, or none is."""
    if model.sha256 in (None, found):
        return None
    return f"{model.name}: the sha256 of {file} is {found}, and should be {model.sha256}"


def locate(name: str, formats: frozenset[str] = frozenset()) -> Path | None:
    """Return the file or folder a name stands for, unchecked; None where it is not on this machine."""
    known = catalogue.find(name)
    if known is None and storage.is_remote(name):
        return _fetched(name, FILES | formats)
    if known is None and (path := storage.local_path(name).expanduser()).exists():
        return path
    model = catalogue.named(name)
    if model is None:
        return None
    pulled = digest.home() / "models" / model.folder
    if pulled.is_dir():
        return pulled
    if model.package:
        return _in_package(model.package)
    return _in_hub_cache(model) if model.on_hub and not model.files else None


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


def _fetched(url: str, formats: frozenset[str]) -> Path:
    """Copy a file or folder from a URL to ``MMRAY_HOME``, once for each state of its source."""
    try:
        folder = storage.is_folder(url)
        looked = storage.files(url) if folder else storage.entries([url]).values()
    except OSError as error:
        raise ConfigError(f"{url}: cannot be read: {error}") from error
    found = [entry for entry in looked if isinstance(entry, storage.Entry)]
    if not found:
        why = "".join(f": {absent.detail}" for absent in looked if isinstance(absent, storage.Absent))
        raise ConfigError(f"{url}: there is no such checkpoint{why}")
    if not folder:
        _check_suffix(url, formats)
    state = hashlib.sha256("\n".join([url, *(entry.tag for entry in found)]).encode()).hexdigest()[:16]
    target = digest.home() / "models" / "fetched" / state
    base = _key(url) if folder else _key(storage.parent(url))
    names = [_key(entry.uri).removeprefix(base).lstrip("/") for entry in found]
    if astray := [name for name in names if ".." in PurePosixPath(name).parts]:  # object stores take any name
        raise ConfigError(f"{url}: {astray[0]!r} would be copied out of its folder; rename it")
    for entry, name in zip(found, names, strict=True):
        file = target / name
        wanted = file.suffix in formats | digest.READ or file.name in digest.NAMED
        if wanted and not file.is_file():
            with storage.open_read(entry.uri) as source, storage.create(str(file)) as copy:
                shutil.copyfileobj(source, copy, 2**22)
    return target if folder else target / names[0]


def _key(url: str) -> str:
    """Return a URL without its scheme; some file systems list keys with a slash in front."""
    return url.partition("://")[2].strip("/")


def _usable(path: Path, formats: frozenset[str]) -> Path:
    """Return the file or folder to load: the one file of a folder that holds just one HDF5 or ONNX file."""
    if path.is_file():
        _check_suffix(str(path), formats)
        return path
    files = [file for file in path.iterdir() if file.suffix in formats]
    if len(files) == 1 and not any((path / name).exists() for name in WHOLE):
        return files[0]
    if any(file.suffix == ".safetensors" or _ctranslate2(file) for file in digest.folder_files(path)):
        return path
    if (path / "vqgan" / digest.DETOKENIZER).is_file():
        return path
    if any(file.suffix in PICKLES for file in path.rglob("*")):
        raise ConfigError(
            f"{path}: holds pickles only, which can run any code when they are loaded; take a revision with "
            "safetensors, or convert them on a machine you can lose"
        )
    names = ", ".join(sorted(file.name for file in files))
    found = f"several ({names}); name one" if files else "none; give another folder"
    raise ConfigError(f"{path}: should hold one checkpoint (safetensors, HDF5 or ONNX), and holds {found}")


def _check_suffix(path: str, formats: frozenset[str]) -> None:
    suffix = PurePosixPath(path).suffix
    if suffix not in formats:
        what = "a pickle, which can run any code when it is loaded" if suffix in PICKLES else "of no known kind"
        raise ConfigError(f"{path}: is {what}; give a {', '.join(sorted(formats))} file or a folder with safetensors")


def _ctranslate2(file: Path) -> bool:
    """Tell a CTranslate2 file (uint32 version, uint16 length, the name of a specification) from a pickle."""
    if file.name != digest.CTRANSLATE2:
        return False
    with file.open("rb") as opened:
        start = opened.read(64)
    name = start[6 : 6 + int.from_bytes(start[4:6], "little")].rstrip(b"\0")
    return name.isalnum() and name.endswith(b"Spec")


def _absent(name: str) -> str:
    dry = "for a dry run give a random one from `mmray models make-tiny DIR`"
    model = catalogue.named(name)
    if model:
        return f"{name}: not on this machine; run `{model.command}`, or give the path of a local copy; {dry}"
    return f"{catalogue.unknown(name)}; {dry}"
