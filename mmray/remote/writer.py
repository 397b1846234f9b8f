"""Writing remote files of any length in one step, with little memory: a single PUT, or a multipart upload."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mmray.remote.systems import file_system
from mmray.retries import described, limited_to, retried

PART_BYTES = 16 * 2**20  # S3 takes 10,000 parts: 160 GB


class Upload(io.RawIOBase):
    """A file being written: nothing shows before ``commit``, and nothing ever after ``discard``."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._fs, self._path = retried(uri, lambda _: file_system(uri))
        self._buffer = bytearray()
        self._stream: Any = None
        self._written = 0

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def tell(self) -> int:
        """Return the bytes written."""
        return self._written

    def write(self, data: Any) -> int:
        """Take bytes; they are sent as soon as they make a part."""
        view = memoryview(data).cast("B")
        with self._errors():
            for start in range(0, len(view), PART_BYTES):
                self._take(view[start : start + PART_BYTES])
        self._written += len(view)
        return len(view)

    def _take(self, piece: memoryview) -> None:
        if self._stream is not None:
            self._stream.write(piece)
            return
        self._buffer += piece
        if len(self._buffer) > PART_BYTES:
            self._stream = self._fs.open(self._path, "wb", block_size=PART_BYTES, autocommit=False)
            self._stream.write(self._buffer)
            self._buffer = bytearray()

    def commit(self) -> None:
        """Let the file appear."""
        if self._stream is None:
            retried(self._uri, lambda _: self._fs.pipe_file(self._path, bytes(self._buffer)))
            return
        with self._errors():
            self._stream.close()
            self._complete()

    def _complete(self) -> None:
        parts = getattr(self._stream, "parts", None)
        try:
            self._stream.commit()
        except FileNotFoundError:  # no such upload (any more)
            if not parts or not hasattr(self._fs, "holds") or not self._fs.holds(self._path, parts):
                raise

    def discard(self) -> None:
        """Drop what has been sent; a server out of reach keeps it until its bucket's rule for unfinished uploads."""
        if self._stream is not None:
            self._stream.closed = True  # or its finalizer would send the rest
            with suppress(OSError), limited_to(0), self._errors():
                self._stream.discard()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise OSErrors only."""
        try:
            yield
        except Exception as error:
            raise described(error).error(self._uri) from error
