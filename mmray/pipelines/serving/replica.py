"""One model in one process: requests that meet share a pass, and one that nobody waits for any more stops."""

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from ray import serve

from mmray.generation.base import RequestError
from mmray.models.torch_setup import gpu_is_lost
from mmray.pipelines.serving.refusals import Refusal, wrong
from mmray.pipelines.serving.room import Room
from mmray.pipelines.serving.served import Loader

log = logging.getLogger(__name__)

Steps = tuple[int, int]  # done, in all


class Unwanted(Exception):  # noqa: N818 — it is no fault
    """Nobody waits for any request of a pass any more."""


class Work:
    """What one client wants made; ``wanted`` until it goes away."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self.requests = requests
        self.wanted = True
        self.steps: Steps = (0, 0)
        self.moved = asyncio.Event()


class Model:
    """A loaded model. A call is one or several requests, whose results come in order; each may be a RequestError.

    ``stuck_s``: after so long without a step a pass hangs, as native code may on a damaged file.
    """

    def __init__(self, loader: Loader, batch: int, wait_ms: float, device: str, stuck_s: float) -> None:
        self._generate = loader.load(device)
        self._stuck_s = stuck_s
        self._moved_s: float | None = None  # when the pass under way last moved
        # Only what is decorated here can have a size of its own.
        self._together: Any = serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait_ms / 1000)(self._pass)

    async def __call__(self, requests: Sequence[Any]) -> list[Any]:
        """Return the results of some requests."""
        work = Work(requests)
        try:
            return await self._answer(work)
        finally:
            work.wanted = False

    async def stream(self, requests: Sequence[Any]) -> AsyncIterator[Steps | list[Any]]:
        """Yield how far the work is, whenever that changes, and at last the results."""
        work = Work(requests)
        answer = asyncio.ensure_future(self._answer(work))
        try:
            while not answer.done():
                moved = asyncio.ensure_future(work.moved.wait())
                await asyncio.wait((answer, moved), return_when=asyncio.FIRST_COMPLETED)
                moved.cancel()
                if work.moved.is_set():
                    work.moved.clear()
                    yield work.steps
            yield answer.result()
        finally:
            work.wanted = False
            answer.cancel()

    def check_health(self) -> None:
        """Raise where a pass hangs: Serve ends this process, then, and starts another."""
        if self._moved_s is not None and time.monotonic() - self._moved_s > self._stuck_s:
            raise RuntimeError(f"a pass has not moved for more than {self._stuck_s:g} s")

    async def _answer(self, work: Work) -> list[Any]:
        found: list[Any] | Refusal = await self._together(work)
        if isinstance(found, Refusal):
            raise found
        return found

    async def _pass(self, works: list[Work]) -> list[list[Any] | Refusal]:
        """Make all requests of a batch; one that makes the model raise costs itself, not its neighbours."""
        wanted = [work for work in works if work.wanted]  # some clients went away while they waited
        try:
            found = dict(zip(wanted, await self._made(wanted), strict=True))
        except Unwanted:
            found = {}
        except Exception as error:
            if gpu_is_lost():
                log.critical("this process has lost its GPU; Serve starts another", exc_info=error)
                os._exit(1)
            if len(wanted) > 1:
                return [one for work in works for one in await self._pass([work])]
            log.error("a model raised on one request", exc_info=error)
            return [Refusal(500, "model_failed", "the model failed on this; the server's log says more")]
        return [found.get(work, []) for work in works]

    async def _made(self, wanted: list[Work]) -> list[list[Any]]:
        """Make all requests of some clients in a thread, so that this process answers meanwhile."""
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def move(steps: Steps) -> None:
            for work in wanted:
                work.steps = steps
                work.moved.set()

        def progress(done: int, total: int) -> None:
            if stop.is_set() or not any(work.wanted for work in wanted):
                raise Unwanted
            self._moved_s = time.monotonic()
            loop.call_soon_threadsafe(move, (done, total))

        flat = [request for work in wanted for request in work.requests]
        self._moved_s = time.monotonic()
        try:
            found = iter(await asyncio.to_thread(self._generate, flat, progress) if flat else [])
        finally:
            stop.set()  # a replica that is stopped while a thread works
            self._moved_s = None
        return [[next(found) for _ in work.requests] for work in wanted]


class ModelPool:
    """Several models in one process, loaded when they are first asked; calls say which by Serve's model id.

    ``fit``: how many are in memory at once; that which was asked longest ago makes room.
    """

    def __init__(self, models: Mapping[str, tuple[Loader, int, float]], fit: int, device: str, stuck_s: float) -> None:
        self._loaded: WeakSet[Model] = WeakSet()

        async def load(name: str) -> Model:
            gc.collect()  # Serve let go of what made room; its batching keeps that alive in a circle
            model = await asyncio.to_thread(_loaded, *models[name], device, stuck_s)
            self._loaded.add(model)
            return model

        # Only what is decorated here can have a number of its own.
        self._model: Any = serve.multiplexed(max_num_models_per_replica=fit)(load)
        self._room = Room(fit)

    def check_health(self) -> None:
        """Raise where a pass of a model hangs."""
        for model in list(self._loaded):
            model.check_health()

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[Model]:
        """Load the model that this call is for where it is not, and keep it."""
        name = serve.get_multiplexed_model_id()
        async with self._room.of(name):
            for other in [*self._room.working]:  # now that which was asked longest ago is none of those
                await self._model(other)
            yield await self._model(name)

    async def __call__(self, requests: Sequence[Any]) -> list[Any]:
        """Return the results of some requests to a model."""
        async with self._held() as model:
            return await model(requests)

    async def stream(self, requests: Sequence[Any]) -> AsyncIterator[Steps | list[Any]]:
        """Yield how far the work is, and at last the results."""
        async with self._held() as model:
            async for part in model.stream(requests):
                yield part


def _loaded(loader: Loader, batch: int, wait_ms: float, device: str, stuck_s: float) -> Model:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()  # what other processes of the same GPU may need
    return Model(loader, batch, wait_ms, device, stuck_s)


def first_refusal(results: Sequence[Any]) -> None:
    """Raise what is wrong with the first request that could not be done."""
    for result in results:
        if isinstance(result, RequestError):
            raise wrong(result.field, result.message)
