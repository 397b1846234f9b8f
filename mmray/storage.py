"""Files wherever they are: local paths and fsspec URLs. Only this file and ``remote`` know about file systems.

Local writes go to a temporary name and are renamed; on object stores a write is one PUT or multipart upload, never a
rename. Credentials and endpoints come from the standard chain of the file system alone (environment, profile, instance
role). Remote requests are retried (``retries``); every error is an OSError: FileNotFoundError, PermissionError,
UnavailableError or another.
"""

import errno
import functools
import logging
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

from mmray import retries
from mmray.retries import UnavailableError as UnavailableError
from mmray.retries import sample_error as sample_error
from mmray.retries import set_retry_limit_s as set_retry_limit_s

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
TEMPORARY = ".tmp-"  # starts the name of a local file that is not finished
SINGLE_PUT_BYTES = 64 * 2**20  # larger files are sent in parts
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LOOKING_THREADS = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it; ``tag`` changes when the content does (etag, or mtime in ns)."""

    uri: str
    size_bytes: int
    tag: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A file that cannot be seen now: it is not there, may not be read, or its server is out of reach."""

    detail: str


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
    """Return the file system of a URL, and the path in it."""
    from mmray.remote.systems import file_system

    return file_system(uri)


def _boundary(
    function: Callable[Concatenate[str, Arguments], Result],
) -> Callable[Concatenate[str, Arguments], Result]:
    """Retry a function of a URL after passing faults; what its libraries raise becomes OSError."""

    @functools.wraps(function)
    def bounded(uri: str, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        if not is_remote(uri):
            return function(uri, *arguments, **named)
        return retries.retried(uri, lambda _: function(uri, *arguments, **named))

    return bounded


def open_read(uri: str) -> BinaryIO:
    """Open for reading, seekable; reads of a remote file are retried each."""
    if is_remote(uri):
        from mmray.remote.reader import open_remote

        return open_remote(uri)
    try:
        return local_path(uri).open("rb")
    except ValueError as error:  # a NUL or half a surrogate pair in the name
        raise OSError(f"{uri!r}: {error}") from None


def read_bytes(uri: str) -> bytes:
    """Return the whole content."""
    with open_read(uri) as file:
        return file.read()


@_boundary
def exists(uri: str) -> bool:
    """Tell whether there is such a file or folder."""
    if not is_remote(uri):
        return local_path(uri).exists()
    fs, path = _remote(uri)
    try:
        fs.info(path)  # `exists` takes any error for an answer
    except FileNotFoundError as error:
        if retries.described(error).kind is not FileNotFoundError:
            raise
        return False
    return True


@_boundary
def is_folder(uri: str) -> bool:
    """Tell whether there is such a folder, or something under such a prefix."""
    if not is_remote(uri):
        return local_path(uri).is_dir()
    fs, path = _remote(uri)
    return bool(fs.isdir(path))


def put(uri: str, data: bytes) -> None:
    """Write a file in one step: readers see the old content or the new, never a part."""
    if is_remote(uri) and len(data) <= SINGLE_PUT_BYTES:
        _put(uri, data)
        return
    with create(uri) as file:
        file.write(data)


@_boundary
def _put(uri: str, data: bytes) -> None:
    fs, path = _remote(uri)
    fs.pipe_file(path, data)


@contextmanager
def create(uri: str) -> Iterator[BinaryIO]:
    """Write a file of any length in one step, with little memory; nothing appears when the block raises."""
    if is_remote(uri):
        from mmray.remote.writer import Upload

        upload = Upload(uri)
        try:
            yield cast(BinaryIO, upload)
            upload.commit()
        except BaseException:
            upload.discard()
            raise
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
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def delete(uris: Iterable[str]) -> None:
    """Delete files; one that is gone already is no error."""
    remote: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        if is_remote(uri):
            remote["/".join(uri.split("/")[:3])].append(uri)
        else:
            local_path(uri).unlink(missing_ok=True)
    for root, paths in remote.items():
        _delete(root, paths)


@_boundary
def _delete(root: str, uris: list[str]) -> None:
    """Delete remote files of one bucket or host."""
    fs, _ = _remote(root)
    paths = [_remote(uri)[1] for uri in uris]
    if hasattr(fs, "delete_keys"):
        fs.delete_keys(paths)
        return
    for path in paths:
        with suppress(FileNotFoundError):
            fs.rm_file(path)


@_boundary
def delete_folder(folder: str) -> None:
    """Delete a folder, or all below a prefix; one that is not there is no error."""
    if not is_remote(folder):
        if local_path(folder).exists():
            shutil.rmtree(local_path(folder))
        return
    fs, path = _remote(folder)
    with suppress(FileNotFoundError):
        if hasattr(fs, "delete_keys"):
            fs.delete_keys(fs.find(path))
        else:
            fs.rm(path, recursive=True)


@_boundary
def arrow(folder: str) -> tuple[Any, str]:
    """Return a folder as pyarrow's file system, for libraries that want one, and the path in it.

    On S3 every request is retried; on other stores as their own libraries do.
    """
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


def entries(uris: Iterable[str]) -> dict[str, Entry | Absent]:
    """Look at many files at once, in their order; a file that cannot be seen, for whatever reason, is Absent.

    Local files cost a ``stat`` each. Remote ones are looked up by listing the folders they stand in, so that ten
    million objects cost ten thousand requests; where a file system cannot list (HTTP), one request each.
    """
    looks: dict[str, Entry | Absent] = {}
    folders: dict[str, list[str]] = defaultdict(list)
    names = list(dict.fromkeys(uris))
    for uri in names:
        if not is_remote(uri):
            looks[uri] = _local_look(uri)
        else:
            folders[uri if _web(uri) else parent(uri)].append(uri)
    silent: dict[str, UnavailableError] = {}
    if folders:
        with ThreadPool(LOOKING_THREADS) as pool:  # its threads do not hold up Ctrl-C, as those of an executor do
            for result in pool.imap_unordered(lambda folder: _look(folder, folders[folder], silent), folders):
                looks.update(result)
    return {uri: looks[uri] for uri in names}


def _web(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _local_look(uri: str) -> Entry | Absent:
    path = local_path(uri)
    try:
        entry = _local_entry(path)
        if not path.is_file():
            return Absent("not a file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return Absent(str(error))
    return entry if os.access(path, os.R_OK) else Absent(f"no permission to read {path}")


def _look(folder: str, uris: list[str], silent: dict[str, UnavailableError]) -> Mapping[str, Entry | Absent]:
    """Look at files of one folder, or at one file of the web.

    ``silent``: the servers that were unavailable for the whole limit and have not answered since. Their other files are
    asked for once, and not at all where there was no connection: ten thousand times the limit would be a week.
    """
    server = "/".join(folder.split("/")[:3])
    known = silent.get(server)
    if known is not None and known.status is None:
        return dict.fromkeys(uris, Absent(str(known)))
    try:
        with retries.limited_to(0 if known else retries.retry_limit_s()):
            looks = _looked_up(folder, uris)
    except OSError as error:
        if isinstance(error, UnavailableError):
            silent[server] = error
        return dict.fromkeys(uris, Absent(str(error)))
    silent.pop(server, None)
    return looks


def _looked_up(folder: str, uris: list[str]) -> Mapping[str, Entry | Absent]:
    if _web(folder):
        return {uri: _info(uri) for uri in uris}
    try:
        listing = _listed(folder)
    except PermissionError:  # to list takes another permission than to read
        return {uri: _info(uri) for uri in uris}
    return {uri: listing.get(uri, Absent("there is no such file")) for uri in uris}


@_boundary
def _info(uri: str) -> Entry:
    fs, path = _remote(uri)
    return _entry(uri, fs.info(path))


@_boundary
def _listed(folder: str) -> dict[str, Entry]:
    fs, path = _remote(folder)
    scheme = folder.partition("://")[0]
    uris = ((f"{scheme}://{info['name']}", info) for info in fs.ls(path, detail=True) if info["type"] == "file")
    return {uri: _entry(uri, info) for uri, info in uris}


def _entry(uri: str, info: dict[str, Any]) -> Entry:
    tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return Entry(uri, int(info.get("size") or 0), str(tag).strip('"'))


def _local_entry(path: Path) -> Entry:
    stat = path.stat()
    return Entry(str(path), stat.st_size, str(stat.st_mtime_ns))


def _walk(folder: Path, suffix: str) -> Iterator[Entry]:
    def unlisted(error: OSError) -> None:
        """Raise where the folder itself cannot be listed: it would read as empty."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if str(error.filename) == str(folder):
            raise error
        log.warning("%s: is passed over: %s", error.filename, error.strerror)

    seen = set()  # a link to a folder above would never end
    for root, folders, names in os.walk(folder, onerror=unlisted, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = [f for f in folders if not f.startswith(".") and os.path.realpath(f"{root}/{f}") not in seen]
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                path = Path(root, name)
                if path.is_file():
                    yield _local_entry(path)
