"""A pass that hangs is seen, and its process can be ended; one that moves or is over is none."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from mmray.generation.base import GenerateFn, Progress
from mmray.pipelines.serving.replica import Model, Work


class Slow:
    """Loads a model that takes a step whenever it is let."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(0)

    def load(self, device: str) -> GenerateFn:
        def generate(requests: Sequence[Any], progress: Progress) -> list[Any]:
            for number in range(2):
                assert self.step.acquire(timeout=30)
                progress(number + 1, 2)
            return list(requests)

        return generate


def test_a_pass_that_does_not_move_is_seen() -> None:
    async def watched() -> list[Any]:
        slow = Slow()
        model = Model(slow, 1, 0, "cpu", 0.3)
        model.check_health()
        answer = asyncio.create_task(model._pass([Work(["a"])]))  # what Serve batches, outside of Serve
        await asyncio.sleep(0.2)
        slow.step.release()
        await asyncio.sleep(0.2)
        model.check_health()
        await asyncio.sleep(0.3)
        with pytest.raises(RuntimeError, match="has not moved"):
            model.check_health()
        slow.step.release()
        found = await answer
        time.sleep(0.4)
        model.check_health()
        return found

    assert asyncio.run(watched()) == [["a"]]
