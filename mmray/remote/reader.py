"""Reading remote files: seekable, in blocks, each of which is asked for again after a passing fault."""

import io
import os
import tempfile
from typing import Any, BinaryIO, cast

from mmray.remote.systems import ReadPart, file_system, part_reader
from mmray.retries import Attempts, UnavailableError, request_timeout_s, retried, retry_limit_s

BLOCK_BYTES = 4 * 2**20
WHOLE_BYTES = 16 * 2**20  # a block where all that is left is wanted
LEAST_BYTES = 64 * 2**10  # a slow link gives so much within any limit


def open_remote(uri: str) -> BinaryIO:
    """Open a remote file; on disk where its server cannot give parts of it."""
    fs, path = retried(uri, lambda _: file_system(uri))
    reader = Reader(uri, part_reader(fs, path))
    if reader.size is not None:
        return io.BufferedReader(reader, BLOCK_BYTES)
    file = tempfile.TemporaryFile()  # noqa: SIM115 — who opened it closes it
    try:
        retried(uri, lambda _: fs.spool(path, file))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


class Reader(io.RawIOBase):
    """The bytes of a remote file; ``size`` is None where they can only be read whole, by other means.

    The time that faults may cost counts for all reads together: a caller that gives itself twice the limit for a file
    is never late because of them.
    """

    def __init__(self, uri: str, read_part: ReadPart) -> None:
        super().__init__()
        self._uri, self._read_part = uri, read_part
        self.size: int | None = None
        self._tag: str | None = None
        self._position = 0
        self._block = WHOLE_BYTES
        self._lost_s = 0.0
        self._head = self._fetch(0, BLOCK_BYTES)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; nothing is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size or 0}[whence]
        if base + offset < 0:
            raise OSError(f"{self._uri}: position {base + offset} is before the start")
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        """Fill a buffer as far as one block goes; returns the bytes read, 0 at the end."""
        view = memoryview(target).cast("B")
        data = self._at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Return all from the position on."""
        pieces = []
        while data := self._at(self._position, WHOLE_BYTES):
            pieces.append(data)
            self._position += len(data)
        return b"".join(pieces)

    def _at(self, start: int, length: int) -> bytes:
        end = min(start + length, self.size or 0)
        if start >= end:
            return b""
        if start < len(self._head):  # the head of a film is read again after the index at its end
            return self._head[start:end]
        return self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        def attempt(attempts: Attempts) -> bytes:
            block = self._block
            self._block = max(LEAST_BYTES, block // 4)  # of the next attempt
            timeout_s = max(attempts.left_s, request_timeout_s())
            part = self._read_part(start, min(end, start + block), self._tag, timeout_s)
            if self.size is not None and part.size != self.size:
                raise UnavailableError(f"{self._uri}: has changed while it was read")
            self._block = min(WHOLE_BYTES, 4 * block)
            self.size, self._tag = part.size, part.tag
            self._lost_s += attempts.lost_s
            return part.data

        return retried(self._uri, attempt, retry_limit_s() - self._lost_s)
