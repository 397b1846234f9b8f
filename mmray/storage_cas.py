"""Compare-and-swap of one small file, and the clock of the storage it stands in: what a lease is built on.

On disks a swap is a temporary file and a rename under ``flock`` on a hidden guard file; on S3 a PUT with If-Match or
If-None-Match. Another object store gets a plain write after a look, read back: two writers at one instant may both win.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmray import storage
from mmray.storage import _boundary, _remote, is_remote, local_path

GUARD_S = 30.0  # a swap holds the guard for milliseconds; longer only where its process was suspended within
CONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"})


@_boundary
def read_tagged(uri: str) -> tuple[bytes, str]:
    """Return the content of a file and its tag, both of one moment."""
    if not is_remote(uri):
        data = local_path(uri).read_bytes()
        return data, _digest(data)
    fs, path = _remote(uri)
    if _is_s3(fs):
        bucket, key, _ = fs.split_path(path)
        return _get(fs, bucket, key)
    data = bytes(fs.cat_file(path))
    return data, _digest(data)


@_boundary
def compare_and_swap(uri: str, expected_tag: str | None, data: bytes) -> str | None:
    """Write a file only if it still has ``expected_tag`` (None: if it does not exist).

    Returns the new tag, or None where another writer was faster. A write whose response was lost is recognised by
    reading the same content back, so ``data`` must be unique to its writer.
    """
    if not is_remote(uri):
        return _swap_locally(local_path(uri), expected_tag, data)
    fs, path = _remote(uri)
    if _is_s3(fs):
        return _swap_s3(fs, path, uri, expected_tag, data)
    if _tag(uri) != expected_tag:
        return None
    fs.pipe_file(path, data)
    return _own_tag(uri, data)


@_boundary
def compare_and_delete(uri: str, expected_tag: str) -> bool:
    """Delete a file only if it still has ``expected_tag``; tell whether it was deleted."""
    if not is_remote(uri):
        with _guard(local_path(uri)):
            if _tag(uri) != expected_tag:
                return False
            local_path(uri).unlink()
        return True
    fs, path = _remote(uri)
    if not _is_s3(fs):
        if _tag(uri) != expected_tag:
            return False
        fs.rm_file(path)
        return True
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=expected_tag)
    except OSError as error:
        if not _refused(error):
            raise
        return False
    return True


@_boundary
def age_s(uri: str) -> float:
    """Return the age of a file by the clock of its storage: that of a probe written beside it now.

    Object stores tell modification times in whole seconds.
    """
    probe = storage.join(storage.parent(uri), f"{storage.TEMPORARY}{uuid.uuid4().hex}")
    if not is_remote(uri):
        with local_path(probe).open("xb") as file:
            try:
                file.write(b"?")
                file.flush()
                return os.fstat(file.fileno()).st_mtime - local_path(uri).stat().st_mtime
            finally:
                local_path(probe).unlink(missing_ok=True)
    fs, path = _remote(probe)
    written = _modified(fs, _remote(uri)[1])
    fs.pipe_file(path, b"?")
    try:
        return (_modified(fs, path) - written).total_seconds()
    finally:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_s3(fs: Any) -> bool:
    return "s3" in fs.protocol


def _get(fs: Any, bucket: str, key: str) -> tuple[bytes, str]:
    """Return content and ETag of an object from one response: of two requests each could see another writer's."""
    from fsspec.asyn import sync

    async def get() -> tuple[bytes, str]:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        try:
            return await response["Body"].read(), str(response["ETag"])
        finally:
            response["Body"].close()

    data, tag = sync(fs.loop, get)
    return bytes(data), str(tag)


def _modified(fs: Any, path: str) -> datetime:
    moment: datetime = fs.modified(path)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tag(uri: str) -> str | None:
    try:
        return read_tagged(uri)[1]
    except FileNotFoundError:
        return None


def _own_tag(uri: str, data: bytes) -> str | None:
    """Return the tag of a file that holds just ``data``; None where it holds something else or is not there."""
    try:
        content, tag = read_tagged(uri)
    except FileNotFoundError:
        return None
    return tag if content == data else None


def _swap_locally(path: Path, expected_tag: str | None, data: bytes) -> str | None:
    if expected_tag is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():  # a folder that was deleted is not made anew
        return None
    with _guard(path):
        if _tag(str(path)) != expected_tag:
            return None
        new = path.with_name(f".{path.name}.new")  # one name: the guard lets in one writer, who replaces a dead one's
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    return _digest(data)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Hold the file's guard, which the system frees when its process dies; TimeoutError after GUARD_S."""
    guard = path.with_name(f".{path.name}.guard")
    until = time.monotonic() + GUARD_S
    with guard.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"a suspended process holds its guard {guard.name}", str(path)
                    ) from None
                time.sleep(0.002)
        yield  # closing the file frees the guard


def _swap_s3(fs: Any, path: str, uri: str, expected_tag: str | None, data: bytes) -> str | None:
    bucket, key, _ = fs.split_path(path)
    condition = {"IfNoneMatch": "*"} if expected_tag is None else {"IfMatch": expected_tag}
    try:
        response = fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except OSError as error:
        # Also a repeat of a write that had arrived is refused, and one whose response was lost may have arrived.
        if (tag := _own_tag(uri, data)) is not None:
            return tag
        if expected_tag is None and isinstance(error, FileNotFoundError):  # no such bucket
            raise
        if not _refused(error):
            raise
        return None
    return str(response["ETag"])


def _refused(error: OSError) -> bool:
    """Tell whether an object store refused a request because its condition did not hold."""
    if isinstance(error, FileExistsError | FileNotFoundError):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code")) in CONDITION_FAILED
