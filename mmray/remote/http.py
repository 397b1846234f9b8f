"""HTTP(S) that says whether a server gives parts of a file; what has to be read whole is kept on disk."""

from typing import BinaryIO

from fsspec.asyn import sync_wrapper
from fsspec.implementations.http import HTTPFileSystem

from mmray.remote.systems import Part
from mmray.retries import ShortReadError, UnavailableError

SPOOL_BYTES = 4 * 2**30  # most that is kept on disk of a file that has to be read whole
PIECE_BYTES = 2**20
PLAIN = {"Accept-Encoding": "identity"}
PARTIAL, NO_SUCH_RANGE = 206, 416


class Http(HTTPFileSystem):  # type: ignore[misc]
    """The file system."""

    async def read_part(self, url: str, start: int, end: int, tag: str | None) -> Part:
        """Return a part of a file, by one request that is not retried."""
        session = await self.set_session()
        headers = PLAIN | {"Range": f"bytes={start}-{end - 1}"}
        async with session.get(self.encode_url(url), headers=headers) as response:
            span, _, size_text = response.headers.get("Content-Range", "").partition("/")
            if response.status == NO_SUCH_RANGE and start == 0 and size_text == "0":
                return Part(b"", 0, None)
            response.raise_for_status()
            encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            partial = response.status == PARTIAL and span.startswith(f"bytes {start}-")
            if not partial or encoded or not size_text.isdigit():
                return Part(b"", None, None)
            new_tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if tag is not None and new_tag != tag:
                raise UnavailableError(f"{url}: has changed while it was read")
            data = await response.read()
        length = min(end, int(size_text)) - start
        if len(data) != length:
            raise ShortReadError(f"{len(data)} bytes of {length}")
        return Part(data, int(size_text), new_tag)

    async def _spool(self, url: str, target: BinaryIO) -> None:
        """Write the whole of a file to ``target``."""
        session = await self.set_session()
        target.seek(0)
        target.truncate()
        async with session.get(self.encode_url(url), headers=PLAIN) as response:
            response.raise_for_status()
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                if target.tell() + len(piece) > SPOOL_BYTES:
                    raise OSError(
                        f"larger than {SPOOL_BYTES / 2**30:g} GiB, and its server does not give parts of it "
                        "(no ranges, or no length); copy it to a disk or an object store"
                    )
                target.write(piece)

    spool = sync_wrapper(_spool)
