"""Files wherever they are: local paths and fsspec URLs. The only file that knows about file systems.

Local writes go to a temporary name and are renamed; on object stores a write is one PUT, never a rename. Credentials
and endpoints come from the standard chain of the file system alone (environment, profile, instance role).
"""

import contextlib
import functools
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

Given = ParamSpec("Given")
Result = TypeVar("Result")
TEMPORARY = ".tmp-"  # starts the name of a local file that is not finished


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it; ``tag`` changes when the content does (etag, or mtime in ns)."""

    uri: str
    size_bytes: int
    tag: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A file that cannot be seen now; ``detail`` says why."""

    detail: str


def set_retry_limit_s(seconds: float) -> None:
    """Stub."""


def is_remote(uri: str) -> bool:
    """Tell a URL (``s3://...``) from a local path; ``file://`` is local."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.isalnum() and scheme != "file"


def local_path(uri: str) -> Path:
    """Return the path of a local URI."""
    return Path(uri.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """Join with ``/``."""
    return "/".join([base.rstrip("/"), *parts]) if base else "/".join(parts)


def parent(uri: str) -> str:
    """Return the folder a URI stands in."""
    return uri.rpartition("/")[0] if is_remote(uri) else str(local_path(uri).parent)


def absolute(uri: str) -> str:
    """Return a URI that means the same in every process of this machine."""
    return uri if is_remote(uri) else str(local_path(uri).absolute())


def anchored(uri: str, base: str) -> str:
    """Return ``uri``, taken as relative to the folder ``base`` unless it is absolute or a URL."""
    if is_remote(uri) or uri.startswith("file://") or Path(uri).is_absolute():
        return uri
    return join(base, uri) if is_remote(base) else str(Path(base) / uri)


def _remote(uri: str) -> tuple[Any, str]:
    import fsspec

    # A cached listing would hide what other nodes and earlier runs have written.
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return fs, str(path)


def _boundary(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Turn what a remote file system's own libraries raise (no endpoint, no credentials) into OSError."""

    @functools.wraps(function)
    def bounded(*given: Given.args, **named: Given.kwargs) -> Result:
        try:
            return function(*given, **named)
        except Exception as error:
            if type(error).__module__.partition(".")[0] in {"aiohttp", "aiobotocore", "botocore"}:
                raise OSError(f"{given[0]}: {error}") from error
            raise

    return bounded


@_boundary
def open_read(uri: str) -> BinaryIO:
    """Open for reading, seekable; FileNotFoundError, PermissionError and OSError as for local files."""
    if not is_remote(uri):
        return local_path(uri).open("rb")
    fs, path = _remote(uri)
    return cast(BinaryIO, fs.open(path, "rb", block_size=4 * 2**20))


@_boundary
def read_bytes(uri: str) -> bytes:
    """Return the whole content."""
    if not is_remote(uri):
        return local_path(uri).read_bytes()
    fs, path = _remote(uri)
    return cast(bytes, fs.cat_file(path))


@_boundary
def exists(uri: str) -> bool:
    """Tell whether there is such a file or folder."""
    if not is_remote(uri):
        return local_path(uri).exists()
    fs, path = _remote(uri)
    return bool(fs.exists(path))


@_boundary
def is_folder(uri: str) -> bool:
    """Tell whether there is such a folder, or something under such a prefix."""
    if not is_remote(uri):
        return local_path(uri).is_dir()
    fs, path = _remote(uri)
    return bool(fs.isdir(path))


@_boundary
def put(uri: str, data: bytes) -> None:
    """Write a file in one step: readers see the old content or the new, never a part."""
    with create(uri) as file:
        file.write(data)


@contextmanager
def create(uri: str) -> Iterator[BinaryIO]:
    """Write a file of any length in one step; nothing appears when the block raises."""
    if is_remote(uri):
        import io

        fs, path = _remote(uri)
        # Below the multipart threshold a buffered file is exactly one PUT; above it nothing shows before completion.
        buffer = io.BytesIO()
        yield buffer
        fs.pipe_file(path, buffer.getvalue())
        return
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@_boundary
def create_new(uri: str, data: bytes) -> bool:
    """Write a file unless there is one (O_EXCL; If-None-Match on object stores); tell whether it was written."""
    try:
        if is_remote(uri):
            fs, path = _remote(uri)
            if fs.exists(path):  # for the stores that ignore If-None-Match
                return False
            fs.pipe_file(path, data, mode="create")
        else:
            target = local_path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(data)
    except FileExistsError:
        return False
    return True


def delete(uris: Iterable[str]) -> None:
    """Delete files; one that is gone already is no error."""
    uris = list(uris)
    for uri in (uri for uri in uris if not is_remote(uri)):
        local_path(uri).unlink(missing_ok=True)
    if remote := [uri for uri in uris if is_remote(uri)]:
        fs, _ = _remote(remote[0])
        try:
            fs.rm([_remote(uri)[1] for uri in remote])
        except FileNotFoundError:
            for uri in remote:
                if exists(uri):
                    fs.rm_file(_remote(uri)[1])


@_boundary
def delete_folder(folder: str) -> None:
    """Delete a folder, or all below a prefix; one that is not there is no error."""
    if not is_remote(folder):
        if local_path(folder).exists():
            shutil.rmtree(local_path(folder))
        return
    fs, path = _remote(folder)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def arrow(folder: str) -> tuple[Any, str]:
    """Return a folder as pyarrow's file system, for libraries that want one, and the path in it."""
    from pyarrow import fs as arrow_fs

    if not is_remote(folder):
        return arrow_fs.LocalFileSystem(), absolute(folder)
    fs, path = _remote(folder)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(fs)), path


@_boundary
def files(folder: str, suffix: str = "") -> list[Entry]:
    """List the finished files below a folder, at any depth, by name; empty where there is no such folder."""
    if not is_remote(folder):
        return sorted(_walk(local_path(folder), suffix), key=lambda entry: entry.uri)
    fs, path = _remote(folder)
    scheme = folder.partition("://")[0]
    try:
        found = fs.find(path, detail=True)
    except FileNotFoundError:
        return []
    entries = (_entry(f"{scheme}://{name}", info) for name, info in found.items() if name.endswith(suffix))
    return sorted(entries, key=lambda entry: entry.uri)


def temporary_files(folder: str) -> list[str]:
    """List unfinished local files that a killed process left below a folder."""
    if is_remote(folder):
        return []
    return sorted(str(path) for path in local_path(folder).rglob(f"{TEMPORARY}*"))


@_boundary
def glob(pattern: str) -> list[Entry]:
    """List the files that match a glob pattern (``**`` for any depth)."""
    if is_remote(pattern):
        fs, path = _remote(pattern)
        scheme = pattern.partition("://")[0]
        found = fs.glob(path, detail=True)
        return [_entry(f"{scheme}://{name}", info) for name, info in found.items() if info["type"] == "file"]
    root = glob_root(pattern)
    paths = local_path(root).glob(pattern[len(root) :].lstrip("/"))
    return sorted((_local_entry(path) for path in paths if path.is_file()), key=lambda entry: entry.uri)


def glob_root(pattern: str) -> str:
    """Return the folder in front of the first wildcard of a glob pattern."""
    fixed = pattern[: min(pattern.index(sign) for sign in "*?[" if sign in pattern)]
    return fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else ".")


def entries(uris: Iterable[str]) -> dict[str, Any]:
    """Look at many files at once; None for what is not there.

    Local files cost a ``stat`` each. Remote ones are looked up by listing the folders they stand in, so that ten
    million objects cost ten thousand requests; where a file system cannot list (HTTP), one request each.
    """
    uris = list(dict.fromkeys(uris))
    found: dict[str, Any] = {}
    folders: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        if is_remote(uri):
            folders[parent(uri)].append(uri)
        else:
            path = local_path(uri)
            found[uri] = _local_entry(path) if path.is_file() else Absent("it is not there")
    with ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda item: _listed(*item), folders.items()):
            found.update(result)
    return found


@_boundary
def _listed(folder: str, uris: list[str]) -> dict[str, Any]:
    fs, path = _remote(folder)
    scheme = folder.partition("://")[0]
    if scheme in {"http", "https"}:
        return {uri: _entry(uri, fs.info(uri)) if fs.exists(uri) else None for uri in uris}
    try:
        listing = {f"{scheme}://{info['name']}": info for info in fs.ls(path, detail=True)}
    except FileNotFoundError:
        listing = {}
    return {uri: _entry(uri, listing[uri]) if uri in listing else Absent("it is not there") for uri in uris}


def _entry(uri: str, info: dict[str, Any]) -> Entry:
    tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return Entry(uri, int(info.get("size") or 0), str(tag).strip('"'))


def _local_entry(path: Path) -> Entry:
    stat = path.stat()
    return Entry(str(path), stat.st_size, str(stat.st_mtime_ns))


def _walk(folder: Path, suffix: str) -> Iterator[Entry]:
    seen = set()  # a link to a folder above would never end
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = [f for f in folders if not f.startswith(".") and os.path.realpath(f"{root}/{f}") not in seen]
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                path = Path(root, name)
                if path.is_file():
                    yield _local_entry(path)
