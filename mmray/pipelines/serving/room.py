"""Room for models that share a process: so many work at once as are in memory at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Lets at most ``fit`` models work at once; one that works is never put out, and who comes first is let in first.

    (Serve drops the model that was asked longest ago, at work or not; what is at work stays in memory all the same.)
    """

    def __init__(self, fit: int) -> None:
        self._fit = fit
        self._door = asyncio.Lock()
        self._left = asyncio.Event()
        self.working: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, model: str) -> AsyncIterator[None]:
        """Wait until there is room for a model to work, and keep it."""
        async with self._door:
            while model not in self.working and len(self.working) >= self._fit:
                self._left.clear()
                await self._left.wait()
            self.working[model] += 1
        try:
            yield
        finally:
            self.working[model] -= 1
            self.working = +self.working  # without those that have nothing to do
            self._left.set()
