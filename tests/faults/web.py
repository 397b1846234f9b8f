"""A small web server of given files, with the habits of real ones.

``/NAME`` gives parts of a file. ``/NAME?no-length``, ``?chunked`` and ``?no-ranges`` say what the server lacks.
``/404`` and other numbers answer with that status.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE_BYTES = 100_000


@contextmanager
def web(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files by their names, on a free port of loopback; yields the URL of the server."""
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"files": files})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients leave in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Mapping[str, bytes]

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, _, habit = self.path.strip("/").partition("?")
        data = self.files.get(name)
        if data is None:
            self.send_error(int(name) if name.isdigit() else 404)
        elif habit == "no-length":
            self.close_connection = True
            self._answer(200, data, {"Connection": "close"})
        elif habit == "chunked":
            pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
            self._answer(200, body, {"Transfer-Encoding": "chunked"})
        elif habit == "no-ranges" or "Range" not in self.headers:
            self._answer(200, data, {"Content-Length": str(len(data)), "ETag": '"1"'})
        else:
            self._part(data)

    def _part(self, data: bytes) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)) + 1, len(data))
        span = f"bytes {start}-{end - 1}/{len(data)}"
        self._answer(206, data[start:end], {"Content-Range": span, "Content-Length": str(end - start), "ETag": '"1"'})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
