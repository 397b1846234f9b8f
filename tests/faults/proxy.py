"""An HTTP proxy with switchable faults, in front of an S3 server (moto) or any other HTTP server.

    with FaultProxy("http://127.0.0.1:5000", seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.inject(Fault(Kind.ERROR, share=0.2, prefix="/bucket/media/"))
        ...
        proxy.clear()

It runs in threads of the calling process. Which requests fail is decided by one seeded generator in the order in which
requests arrive: with one client at a time a run repeats exactly.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

PIECE_BYTES = 64 * 1024  # a slow response is sent in pieces of this size
PER_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


class Kind(StrEnum):
    """What happens to a request."""

    ERROR = "error"  # answer `status` (with Retry-After where `retry_after_s` is set); do not forward
    RESET = "reset"  # reset the connection; do not forward
    SLOW = "slow"  # wait `delay_s` before the response and before each 64 KiB of its body
    CUT_BODY = "cut body"  # send the headers and half the body, then close; responses without a body pass
    LOST_RESPONSE = "lost response"  # forward, then reset the connection instead of answering
    STALE_LIST = "stale list"  # answer a LIST of S3 with the answer to the same LIST before the fault began


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and the requests that it meets; the first fault that matches a request applies.

    ``prefix``: of the path, ``/BUCKET/KEY`` for S3; a LIST counts under the prefix that it lists. ``methods``: empty
    means all. ``skip``: requests that match and pass first. ``share``: of the others, 0 to 1. ``count``: of requests
    that it meets in all. ``duration_s``: how long it lasts from ``inject`` on.
    """

    kind: Kind
    prefix: str = "/"
    methods: Collection[str] = ()
    skip: int = 0
    share: float = 1.0
    count: int | None = None
    duration_s: float | None = None
    status: int = 503
    retry_after_s: float | None = None
    delay_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the proxy has seen; ``fault``: what happened to it, None where it passed."""

    method: str
    path: str
    fault: Kind | None


@dataclass(slots=True)
class _Active:
    fault: Fault
    ends: float | None
    matched: int = 0
    met: int = 0


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: str | None


@dataclass
class FaultProxy:
    """A proxy on a free port of loopback that forwards to ``upstream`` (``http://HOST:PORT``)."""

    upstream: str
    seed: int = 0
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)
        self._active: list[_Active] = []
        self._lists: dict[str, _Response] = {}
        self._connections: set[socket.socket] = set()
        self._timer: threading.Timer | None = None
        self._server: _Server | None = _Server(self, 0)
        self.port: int = self._server.server_address[1]
        self._server.start()

    @property
    def endpoint(self) -> str:
        """Return the URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def inject(self, fault: Fault) -> None:
        """Let a fault begin."""
        ends = None if fault.duration_s is None else time.monotonic() + fault.duration_s
        with self._lock:
            self._active.append(_Active(fault, ends))

    def clear(self) -> None:
        """End all faults that ``inject`` began."""
        with self._lock:
            self._active.clear()

    def down(self, duration_s: float | None = None) -> None:
        """Refuse connections and cut those that are open; come back after ``duration_s``, or with ``up``."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stop()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            reset(connection)
        if duration_s is not None:
            self._timer = threading.Timer(duration_s, self.up)
            self._timer.daemon = True
            self._timer.start()

    def up(self) -> None:
        """Accept connections again, on the same port."""
        with self._lock:
            if self._server is None:
                self._server = _Server(self, self.port)
                self._server.start()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        self.down()

    def count(self, method: str | None = None, fault: Kind | None = None, part: str = "") -> int:
        """Return how many requests came: of a method, met by a kind of fault, with a part in their path (any)."""
        with self._lock:
            return sum(
                method in {None, seen.method} and fault in {None, seen.fault} and part in seen.path
                for seen in self.requests
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose(self, method: str, target: str) -> Fault | None:
        """Return the fault that meets a request, and keep a record of both."""
        path = _scope(target)
        with self._lock:
            active_fault = next((active for active in self._active if self._meets(active, method, path, target)), None)
            if active_fault is not None:
                active_fault.met += 1
            self.requests.append(Request(method, target, active_fault and active_fault.fault.kind))
        return active_fault and active_fault.fault

    def _meets(self, active: _Active, method: str, path: str, target: str) -> bool:
        fault = active.fault
        if active.ends is not None and time.monotonic() >= active.ends:
            return False
        if fault.count is not None and active.met >= fault.count:
            return False
        if fault.kind is Kind.STALE_LIST and target not in self._lists:
            return False
        if not path.startswith(fault.prefix) or (fault.methods and method not in fault.methods):
            return False
        active.matched += 1
        if active.matched <= fault.skip:
            return False
        return fault.share >= 1 or self._random.random() < fault.share

    def _forward(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> _Response:
        """Send a request to the server and return its whole response."""
        parts = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in PER_CONNECTION]
            response = _Response(answer.status, kept, answer.read(), answer.getheader("Content-Length"))
        finally:
            connection.close()
        if _lists(method, target) and response.status == 200:
            with self._lock:
                self._lists[target] = response
        return response


def reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset; one that is closed already is left alone."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads; its close sends the reset
    with suppress(OSError):
        connection.close()


def _lists(method: str, target: str) -> bool:
    return method == "GET" and "list-type" in parse_qs(urlsplit(target).query)


def _scope(target: str) -> str:
    """Return the path that faults compare with their prefix: of a LIST ``/BUCKET/PREFIX``."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    path = unquote(parts.path)
    return f"{path.rstrip('/')}/{query['prefix'][0]}" if "prefix" in query else path


class _Server(ThreadingHTTPServer):
    """The listening socket; a new one for each time the proxy comes up."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="fault-proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.proxy._lock:
            self.proxy._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.proxy._lock:
            self.proxy._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients and faults close connections at any time."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Say nothing: the proxy keeps ``requests``."""

    def __getattr__(self, name: str) -> Any:
        """Return the handler of any method (``do_GET``, ``do_PUT`` ...)."""
        if name.startswith("do_"):
            return self._relay
        raise AttributeError(name)

    def _relay(self) -> None:
        body = self._body()
        proxy = self.server.proxy
        fault = proxy._choose(self.command, self.path)
        kind = None if fault is None else fault.kind
        response: _Response | None = None
        if fault is not None and kind is Kind.ERROR:
            response = _error(fault)
        elif kind is Kind.STALE_LIST:
            response = proxy._lists[self.path]
        elif kind is not Kind.RESET:
            with suppress(OSError, http.client.HTTPException):
                response = proxy._forward(self.command, self.path, self._headers(body), body)
        if response is None or kind is Kind.LOST_RESPONSE:
            self._reset()
        else:
            delay_s = fault.delay_s if fault is not None and kind is Kind.SLOW else 0.0
            self._send(response, kind is Kind.CUT_BODY, delay_s)

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        dropped = PER_CONNECTION | {"expect"}  # the body is here already
        headers = [(name, value) for name, value in self.headers.items() if name.lower() not in dropped]
        return [*headers, ("Content-Length", str(len(body)))] if body or "Content-Length" in self.headers else headers

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _send(self, response: _Response, cut: bool, delay_s: float) -> None:
        body = response.body
        time.sleep(delay_s)
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        # A HEAD has the length of what a GET would give.
        length = (response.length or "0") if self.command == "HEAD" else str(len(body))
        if response.status not in {204, 304}:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and body:
            self.close_connection = True
            body = body[: len(body) // 2]
        for start in range(0, len(body), PIECE_BYTES):
            time.sleep(delay_s if start else 0)
            self.wfile.write(body[start : start + PIECE_BYTES])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # rfile and wfile hold the socket open until the handler ends; shutdown_request would say goodbye first.
        self.server.proxy._connections.discard(self.connection)
        self.connection.close()


def _error(fault: Fault) -> _Response:
    """Return an error as S3 words it; other clients read the status only."""
    codes = {429: "TooManyRequests", 500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 404: "NoSuchKey"}
    code = codes.get(fault.status, f"Fault{fault.status}")
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
    headers = [("Content-Type", "application/xml")]
    if fault.retry_after_s is not None:
        headers.append(("Retry-After", f"{fault.retry_after_s:g}"))
    return _Response(fault.status, headers, body, str(len(body)))
