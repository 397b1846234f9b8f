"""Work on media that may hang or kill its process: in Ray tasks under a watchdog, so that each costs itself alone."""

import faulthandler
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AT_ONCE = 50  # in a task: about a second of work, far above Ray's millisecond per task


def map_isolated(
    ray: Any, work: Callable[[Item], Made], items: Sequence[Item], timeout_s: float
) -> Iterator[list[tuple[int, Made | None]]]:
    """Yield pairs of the number of an item and what ``work`` makes of it, as tasks end.

    None for an item that killed its process twice, or took ``timeout_s``.
    """
    task = ray.remote(num_cpus=1, max_retries=0)(_batch)
    queue = [(list(range(i, min(i + AT_ONCE, len(items)))), 0) for i in range(0, len(items), AT_ONCE)]
    running: dict[Any, tuple[list[int], int]] = {}
    while queue or running:
        while queue and len(running) < 4 * max(1, int(ray.cluster_resources().get("CPU", 1))):
            batch, deaths = queue.pop()
            running[task.remote(work, [items[number] for number in batch], timeout_s)] = (batch, deaths)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        batch, deaths = running.pop(ready)
        try:
            yield list(zip(batch, ray.get(ready), strict=True))
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
            if len(batch) == 1 and deaths:
                yield [(batch[0], None)]
            else:
                queue.extend(([number], deaths + (len(batch) == 1)) for number in batch)


def _batch(work: Callable[[Item], Made], items: Sequence[Item], timeout_s: float) -> list[Made]:
    """Ray task: work on items in a worker process that the watchdog may kill."""
    results = []
    for item in items:
        # Works even where native code holds the GIL for ever.
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)
        try:
            results.append(work(item))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return results
