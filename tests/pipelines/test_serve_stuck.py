"""A pass that hangs is seen, and its process can be ended; one that moves or is over is none."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mmray.generation.base import GenerateFn, Progress
from mmray.pipelines.serving import replica
from mmray.pipelines.serving.replica import Model, Work


class Slow:
    """Loads a model that takes a step whenever it is let."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(0)
        self.steps = 0

    def load(self, device: str) -> GenerateFn:
        def generate(requests: Sequence[Any], progress: Progress) -> list[Any]:
            for number in range(2):
                assert self.step.acquire(timeout=60)
                progress(number + 1, 2)
                self.steps += 1
            return list(requests)

        return generate


def test_a_pass_that_does_not_move_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(replica, "time", SimpleNamespace(monotonic=lambda: now_s))

    async def watched() -> list[Any]:
        nonlocal now_s
        slow = Slow()
        model = Model(slow, 1, 0, "cpu", 30)
        model.check_health()
        answer = asyncio.create_task(model._pass([Work(["a"])]))  # what Serve batches, outside of Serve
        await reached(lambda: slow.steps == 0 and model._moved_s is not None)
        now_s += 29
        model.check_health()
        slow.step.release()
        await reached(lambda: slow.steps == 1)
        now_s += 29
        model.check_health()
        now_s += 2
        with pytest.raises(RuntimeError, match="has not moved"):
            model.check_health()
        slow.step.release()
        found = await answer
        now_s += 1000
        model.check_health()
        return found

    assert asyncio.run(watched()) == [["a"]]


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
