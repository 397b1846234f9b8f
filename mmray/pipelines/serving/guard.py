"""What stands before all routes: keys, rates, the size and the pace of bodies, and the count of what was answered."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from mmray.pipelines.serving.counts import Requests
from mmray.pipelines.serving.refusals import AGAIN_S, Refusal
from mmray.pipelines.serving.settings import Limits, digest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Open to those without a key: what says nothing of anybody.
OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
PAGE = "/page/"
JSON_BYTES = 8 * 2**20  # of a body that is no form; parsed at once, it takes up to twenty times as much
HELD_BYTES = 2**30  # of all bodies together that are under way; one may always be as large as it may be
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


@dataclass
class Held:
    """The bytes of all bodies under way."""

    bytes: int = 0


class Incoming:
    """The body of one request as it comes: what its headers say is not believed.

    ``refusal``: why it is read no further. FastAPI says of whatever is raised in a body that the body is broken.
    """

    def __init__(self, receive: Receive, most_bytes: int, seconds: float, held: Held) -> None:
        self._receive, self._most_bytes, self._seconds, self._held = receive, most_bytes, seconds, held
        self._until = asyncio.get_running_loop().time() + seconds
        self._whole = False
        self._bytes = 0
        self.refusal: Refusal | None = None

    async def __call__(self) -> Message:
        """Return the next part, or whatever is told after the last."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            words = f"the body did not come within {self._seconds:g} s"
            raise self._refused(Refusal(408, "body_timeout", words, "body")) from None
        self._whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._bytes += size
        self._held.bytes += size
        if self._bytes > self._most_bytes:
            raise self._refused(too_large(self._most_bytes))
        if self._held.bytes > max(HELD_BYTES, self._bytes):
            raise self._refused(Refusal(503, "busy", "too much is being sent at once; come again", None, AGAIN_S))
        return message

    def _refused(self, refusal: Refusal) -> Refusal:
        self.refusal = refusal
        return refusal

    def close(self) -> None:
        """Count its bytes no more."""
        self._held.bytes -= self._bytes


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, keys: tuple[bytes, ...], per_minute: int | None, limits: Limits, counts: Requests):
        self._app, self._keys, self._limits, self._counts = app, keys, limits, counts
        self._rates = Rates(per_minute) if per_minute else None
        self._held = Held()
        self.draining = False
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, headers = time.monotonic(), 0, Headers(scope=scope)
        form = headers.get("content-type", "").startswith("multipart/form-data")
        most_bytes = self._limits.upload_bytes if form else min(JSON_BYTES, self._limits.upload_bytes)
        body = Incoming(receive, most_bytes, self._limits.seconds, self._held)

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._counts.seconds.labels(_route(scope)).observe(time.monotonic() - began)
            await send(message)

        async def unless_refused(message: Message) -> None:
            if body.refusal is None:
                await told(message)

        self.under_way += 1
        self._counts.under_way.inc()
        try:
            self._check(scope, headers)
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > most_bytes:
                raise too_large(most_bytes)
            await self._app(scope, body, unless_refused)
            if body.refusal is not None:
                raise body.refusal
        except Refusal as refusal:
            if not status:
                await refusal.response(scope, receive, told)
        finally:
            body.close()
            self.under_way -= 1
            self._counts.under_way.dec()
            self._counts.answers.labels(_route(scope), str(status or 499)).inc()  # 499: the client went away

    def _check(self, scope: Scope, headers: Headers) -> None:
        key = b""
        if self._keys and scope["path"] not in OPEN and not scope["path"].startswith(PAGE):
            kind, _, shown = headers.get("authorization", "").partition(" ")
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


def too_large(most_bytes: int) -> Refusal:
    """Return the refusal of a body."""
    return Refusal(413, "body_too_large", f"the body is larger than {most_bytes:,} bytes", "body")


def _route(scope: Scope) -> str:
    """Return the pattern of a route: paths as they come would be a label without end."""
    return getattr(scope.get("route"), "path", "none")
