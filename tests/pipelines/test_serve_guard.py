"""What stands before the routes: bodies that never end, are too many at once, or claim to be smaller than they are."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mmray.pipelines.serving import guard
from mmray.pipelines.serving.counts import Requests
from mmray.pipelines.serving.guard import Guard, Message, Receive, Scope, Send
from mmray.pipelines.serving.settings import Limits, digest

FORM = "multipart/form-data; boundary=x"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and answer as FastAPI does where reading it raises: that the body is broken."""
    try:
        while (await receive()).get("more_body"):
            pass
        status = 200
    except Exception:  # noqa: BLE001
        status = 400
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def guarded(keys: tuple[bytes, ...] = (), per_minute: int | None = None, **limits: Any) -> Guard:
    return Guard(app, keys, per_minute, Limits.model_validate(limits), Requests(CollectorRegistry()))


async def post(one: Guard, parts: AsyncIterator[bytes], kind: str = FORM, **headers: str) -> tuple[int, str | None]:
    """Send a body; returns the status and the code of the refusal."""
    told: list[Message] = []

    async def receive() -> Message:
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    named = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    sent = [(name.encode(), value.encode()) for name, value in named.items()]
    await one({"type": "http", "method": "POST", "path": "/v1/x", "headers": sent}, receive, send)
    starts = [message["status"] for message in told if message["type"] == "http.response.start"]
    assert len(starts) == 1, "answered once"
    body = b"".join(message["body"] for message in told if message["type"] == "http.response.body")
    return starts[0], json.loads(body)["error"]["code"] if body else None


async def some(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def endless(event: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"a"
    await event.wait()


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    one = guarded(seconds=0.2)
    assert asyncio.run(post(one, endless(asyncio.Event()))) == (408, "body_timeout")
    assert one.under_way == 0


def test_a_body_is_as_large_as_it_is_whatever_it_claims() -> None:
    one = guarded(upload_bytes=2000)
    assert asyncio.run(post(one, some(b"x" * 2000), content_length="1")) == (200, None)
    assert asyncio.run(post(one, some(b"x" * 1500, b"x" * 501), content_length="1")) == (413, "body_too_large")
    assert asyncio.run(post(one, some(b"x"), content_length="2001")) == (413, "body_too_large")


def test_json_is_smaller_than_a_form_may_be() -> None:
    one = guarded(upload_bytes=2**30)
    for kind, status in ((FORM, 200), ("application/json", 413), ("application/x-www-form-urlencoded", 413)):
        assert asyncio.run(post(one, some(b"x" * (guard.JSON_BYTES + 1)), kind))[0] == status


def test_all_bodies_together_are_bounded_but_one_alone_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HELD_BYTES", 100)

    async def both() -> list[tuple[int, str | None]]:
        one, event = guarded(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * 90
            await event.wait()

        first = asyncio.create_task(post(one, slow()))
        await asyncio.sleep(0.01)
        second = await post(one, some(b"x" * 20))
        event.set()
        return [await first, second, await post(one, some(b"x" * 200))]

    assert asyncio.run(both()) == [(200, None), (503, "busy"), (200, None)]


def test_each_key_has_its_own_rate_and_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    one = guarded((digest("key one"), digest("key two")), per_minute=2)

    def asked(key: str) -> tuple[int, str | None]:
        return asyncio.run(post(one, some(b"x"), authorization=f"Bearer {key}"))

    assert [asked("key one")[0] for _ in range(3)] == [200, 200, 429]
    assert asked("key two") == (200, None)
    assert [asked("none of them") for _ in range(9)] == [(401, "invalid_api_key")] * 9
    now += 31  # half a minute: one more
    assert [asked("key one") for _ in range(2)] == [(200, None), (429, "rate_limit_exceeded")]
