"""The file system of a URL: one for each process and environment, whatever the thread."""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mmray import retries

CONNECTIONS = 64  # of one process to one object store: `storage.entries` looks with 16 threads


_making = threading.Lock()  # or 16 threads that begin together make 16 clients, half a second each


class Part(NamedTuple):
    """Bytes of a file, with its size and tag; ``size`` None: the server cannot give parts of this file."""

    data: bytes
    size: int | None
    tag: str | None


# Returns the part [start, end) of a file that still has a tag (None: any), within seconds.
ReadPart = Callable[[int, int, str | None, float], Part]


def file_system(uri: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    scheme = uri.partition("://")[0]
    kind = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}.get(scheme)
    if kind is None:
        import fsspec

        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        return fs, str(path)
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "FSSPEC_"))))
    with _making:
        fs = _made(kind, retries.request_timeout_s(), os.getpid(), environment)
    return fs, str(fs._strip_protocol(uri))


@functools.lru_cache(maxsize=8)
def _made(kind: str, timeout_s: float, process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    """Make a file system; ``process`` and ``environment`` tell apart what fsspec would take for the same."""
    del process, environment
    # A cached listing would hide what other nodes and earlier runs have written.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if kind == "s3":
        from mmray.remote.s3 import S3

        client = {"connect_timeout": timeout_s / 2, "read_timeout": timeout_s, "max_pool_connections": CONNECTIONS}
        return S3(config_kwargs={"retries": {"total_max_attempts": 1}, **client}, **options)
    import aiohttp

    from mmray.remote.http import Http

    silence = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s / 2, sock_read=timeout_s)
    return Http(client_kwargs={"timeout": silence}, **options)


def part_reader(fs: Any, path: str) -> ReadPart:
    """Return what reads parts of a file."""
    if hasattr(fs, "read_part"):
        from fsspec.asyn import sync

        def read(start: int, end: int, tag: str | None, timeout_s: float) -> Part:
            part: Part = sync(fs.loop, fs.read_part, path, start, end, tag, timeout=timeout_s)
            return part

        return read
    known: dict[str, Any] = {}

    def read_any(start: int, end: int, tag: str | None, timeout_s: float) -> Part:
        del tag, timeout_s
        info = known or fs.info(path)
        known.update(info)
        if info["type"] == "directory":
            raise IsADirectoryError(f"{path}: is a folder")
        return Part(fs.cat_file(path, start=start, end=min(end, int(info["size"]))), int(info["size"]), None)

    return read_any
