"""What stands before all routes: keys, rates, the size of bodies, and the count of what was answered."""

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mmray.pipelines.serving.refusals import Refusal
from mmray.pipelines.serving.settings import digest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Open to those without a key: what says nothing of anybody.
OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
PAGE = "/page/"
SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
IDLE_S = 600  # after which a key's bucket is full whatever it was


class Rates:
    """A bucket for each key, of a minute's requests, that fills again as time goes by."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[bytes, tuple[float, float]] = {}  # requests left, at which time

    def wait_s(self, key: bytes) -> float:
        """Take one request from a key's bucket; returns after how many seconds it may come, 0 where it may now."""
        now = time.monotonic()
        left, then = self._left.get(key, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self._per_minute
        self._left[key] = (left if wait else left - 1, now)
        if len(self._left) > 10_000:
            self._left = {one: seen for one, seen in self._left.items() if now - seen[1] < IDLE_S}
        return wait


class Counts:
    """What Prometheus is told of the endpoint itself; Ray tells the rest on a port of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("mmray_http_requests", "Answers", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "mmray_http_request_seconds", "Until the answer began", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.under_way = Gauge("mmray_http_requests_under_way", "Requests under way", registry=self.registry)


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, keys: tuple[bytes, ...], per_minute: int | None, most_bytes: int, counts: Counts):
        self._app, self._keys, self._most_bytes, self._counts = app, keys, most_bytes, counts
        self._rates = Rates(per_minute) if per_minute else None
        self.draining = False
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, got, refused = time.monotonic(), 0, 0, False

        async def counted() -> Message:
            # What a header says of a body's length is not believed.
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._most_bytes:
                raise self._too_large()
            return message

        async def told(message: Message) -> None:
            nonlocal status
            if got > self._most_bytes and not refused:
                return  # FastAPI says of whatever is raised in a body that the body is broken
            if message["type"] == "http.response.start":
                status = message["status"]
                self._counts.seconds.labels(_route(scope)).observe(time.monotonic() - began)
            await send(message)

        self.under_way += 1
        self._counts.under_way.inc()
        try:
            self._check(scope)
            await self._app(scope, counted, told)
            if got > self._most_bytes and not status:
                raise self._too_large()
        except Refusal as refusal:
            refused = True
            if not status:
                await refusal.response(scope, receive, told)
        finally:
            self.under_way -= 1
            self._counts.under_way.dec()
            self._counts.answers.labels(_route(scope), str(status or 499)).inc()  # 499: the client went away

    def _check(self, scope: Scope) -> None:
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"content-length")}
        key = b""
        if self._keys and scope["path"] not in OPEN and not scope["path"].startswith(PAGE):
            kind, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            found = digest(shown.strip())
            # All are compared, so that time says nothing of which came near.
            known = [hmac.compare_digest(found, one) for one in self._keys]
            if kind.lower() != "bearer" or not any(known):
                raise Refusal(401, "invalid_api_key", "show a key of this server: Authorization: Bearer KEY")
            key = found
        scope.setdefault("state", {})["owner"] = key.hex()
        if scope["method"] == "POST":
            if self.draining:
                raise Refusal(503, "draining", "this server is stopping; come again", None, 10)
            if self._rates is not None and (wait_s := self._rates.wait_s(key)):
                raise Refusal(429, "rate_limit_exceeded", "too many requests in a minute; come again", None, wait_s)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body is larger than {self._most_bytes:,} bytes", "body")


def _route(scope: Scope) -> str:
    """Return the pattern of a route: paths as they come would be a label without end."""
    return getattr(scope.get("route"), "path", "none")
