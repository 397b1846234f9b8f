"""Work on media that may hang or kill its process: in Ray tasks under a watchdog, so that each costs itself alone."""

import faulthandler
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

AT_ONCE = 50  # in a task: about a second of work, far above Ray's millisecond per task


def each(
    ray: Any, work: Callable[[Given], Made], given: Sequence[Given], timeout_s: float, told: Callable[[int], None]
) -> list[Made | None]:
    """Return what ``work`` makes of each, in order; None where it killed its process twice, or took ``timeout_s``.

    ``told`` hears how many more are done.
    """
    results: list[Made | None] = [None] * len(given)
    task = ray.remote(num_cpus=1, max_retries=0)(_batch)
    queue = [(list(range(i, min(i + AT_ONCE, len(given)))), 0) for i in range(0, len(given), AT_ONCE)]
    running: dict[Any, tuple[list[int], int]] = {}
    while queue or running:
        while queue and len(running) < 4 * max(1, int(ray.cluster_resources().get("CPU", 1))):
            batch, deaths = queue.pop()
            running[task.remote(work, [given[place] for place in batch], timeout_s)] = (batch, deaths)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        batch, deaths = running.pop(ready)
        try:
            for place, result in zip(batch, ray.get(ready), strict=True):
                results[place] = result
            told(len(batch))
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
            if len(batch) == 1 and deaths:
                told(1)
            else:
                queue.extend(([place], deaths + (len(batch) == 1)) for place in batch)
    return results


def _batch(work: Callable[[Given], Made], given: Sequence[Given], timeout_s: float) -> list[Made]:
    """Be one task: a worker process that the watchdog may kill."""
    results = []
    for one in given:
        # Works even where native code holds the GIL for ever.
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)
        try:
            results.append(work(one))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return results
