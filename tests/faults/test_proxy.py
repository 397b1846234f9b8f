"""The proxy does to requests what a fault says, and to no others."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.faults.proxy import Fault, FaultProxy, Kind

BODY = bytes(range(256)) * 1024


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    puts: list[bytes]

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = str(len(self.puts)).encode() if "list-type" in self.path else BODY
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.puts.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def puts() -> list[bytes]:
    return []


@pytest.fixture
def proxy(puts: list[bytes]) -> Iterator[FaultProxy]:
    handler = type("Handler", (Echo,), {"puts": puts})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with FaultProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


def request(proxy: FaultProxy, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_what_meets_no_fault_passes_unchanged(proxy: FaultProxy, puts: list[bytes]) -> None:
    proxy.inject(Fault(Kind.ERROR, prefix="/bucket/media/"))
    assert request(proxy, "/bucket/store/a")[:2] == (200, BODY)
    assert request(proxy, "/bucket/store/a", "PUT", BODY)[0] == 200
    assert puts == [BODY]
    assert proxy.count(fault=Kind.ERROR) == 0


def test_an_error_has_its_status_and_retry_after(proxy: FaultProxy) -> None:
    proxy.inject(Fault(Kind.ERROR, status=429, retry_after_s=3, count=1))
    status, _, headers = request(proxy, "/a")
    assert (status, headers["Retry-After"]) == (429, "3")
    assert request(proxy, "/a")[0] == 200


def test_a_share_of_requests_fails_the_same_with_the_same_seed(proxy: FaultProxy) -> None:
    again = FaultProxy(proxy.upstream, proxy.seed)
    with again:
        for one in (proxy, again):
            one.inject(Fault(Kind.ERROR, share=0.3))
            for _ in range(30):
                request(one, "/a")
        assert [seen.fault for seen in proxy.requests] == [seen.fault for seen in again.requests]
        assert 0 < proxy.count(fault=Kind.ERROR) < 30


def test_a_reset_does_not_reach_the_server_and_a_lost_response_does(proxy: FaultProxy, puts: list[bytes]) -> None:
    proxy.inject(Fault(Kind.RESET, count=1))
    with pytest.raises(ConnectionResetError):
        request(proxy, "/a", "PUT", b"first")
    proxy.inject(Fault(Kind.LOST_RESPONSE, count=1, methods=("PUT",)))
    with pytest.raises(ConnectionResetError):
        request(proxy, "/a", "PUT", b"second")
    assert puts == [b"second"]


def test_a_cut_body_is_shorter_than_its_length(proxy: FaultProxy) -> None:
    proxy.inject(Fault(Kind.CUT_BODY))
    with pytest.raises(http.client.IncompleteRead) as caught:
        request(proxy, "/a")
    assert caught.value.partial == BODY[: len(BODY) // 2]


def test_a_list_counts_under_its_prefix_and_can_be_stale(proxy: FaultProxy, puts: list[bytes]) -> None:
    target = "/bucket?list-type=2&prefix=store%2Fledger%2F"
    assert request(proxy, target)[1] == b"0"
    proxy.inject(Fault(Kind.STALE_LIST, prefix="/bucket/store/"))
    request(proxy, "/bucket/store/ledger/part", "PUT", b"x")
    assert request(proxy, target)[1] == b"0"
    proxy.clear()
    assert request(proxy, target)[1] == b"1"


def test_a_proxy_that_is_down_refuses_and_comes_back(proxy: FaultProxy) -> None:
    proxy.down()
    with pytest.raises(ConnectionRefusedError):
        request(proxy, "/a")
    proxy.up()
    assert request(proxy, "/a")[0] == 200
