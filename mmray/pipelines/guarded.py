"""Work on media that may hang or kill its process: in Ray tasks under a watchdog, so that each costs itself alone."""

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mmray.errors import MmrayError
from mmray.pipelines import watchdog

Item = TypeVar("Item")
Made = TypeVar("Made")

AT_ONCE = 50  # in a task: about a second of work, far above Ray's millisecond per task
DEATHS = 2  # of the process of one input: then it has no result
INTERRUPTIONS = 10  # of one task by lost nodes, or by Ray's memory monitor: then something else is wrong


@dataclass(frozen=True, slots=True)
class _Batch:
    """The numbers of the inputs that a task works on."""

    numbers: tuple[int, ...]
    deaths: int = 0
    interruptions: int = 0


def map_isolated(
    ray: Any, work: Callable[[Item], Made], inputs: Sequence[Item], timeout_s: float
) -> Iterator[list[tuple[int, Made | None]]]:
    """Yield pairs of the number of an input and what ``work`` makes of it, as tasks finish.

    None for an input that killed its process twice, or took ``timeout_s``. The tasks of a lost node run again
    elsewhere; MmrayError where one task is lost more than INTERRUPTIONS times.
    """
    task = ray.remote(num_cpus=1, max_retries=0)(_batch)
    queue = [_Batch(tuple(range(i, min(i + AT_ONCE, len(inputs))))) for i in range(0, len(inputs), AT_ONCE)]
    running: dict[Any, _Batch] = {}
    while queue or running:
        while queue and len(running) < 4 * max(1, int(ray.cluster_resources().get("CPU", 1))):
            batch = queue.pop()
            running[task.remote(work, [inputs[number] for number in batch.numbers], timeout_s)] = batch
        ready, _ = ray.wait(list(running), num_returns=1, timeout=5)  # looks again, as a cluster may grow
        for reference in ready:
            finished, again = _outcome(ray, reference, running.pop(reference))
            queue += again
            if finished:
                yield finished


def _outcome(ray: Any, reference: Any, batch: _Batch) -> tuple[list[tuple[int, Any]], list[_Batch]]:
    """Return what is finished of a batch, and what has to run again."""
    try:
        results = ray.get(reference)
    except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError) as error:
        return [], [_interrupted(batch, error)]
    except ray.exceptions.OutOfMemoryError as error:  # the monitor ends the newest task, not the one that is to blame
        return _died(batch) if batch.interruptions == INTERRUPTIONS else ([], [_interrupted(batch, error)])
    except ray.exceptions.WorkerCrashedError:
        return _died(batch)
    rest = batch.numbers[len(results) :]
    return list(zip(batch.numbers, results, strict=False)), [_Batch(rest)] if rest else []


def _interrupted(batch: _Batch, error: Exception) -> _Batch:
    if batch.interruptions >= INTERRUPTIONS:
        raise MmrayError(
            f"the machine of a task was lost {INTERRUPTIONS + 1} times in a row ({type(error).__name__}); "
            "run the same command again when the cluster is stable"
        )
    return replace(batch, interruptions=batch.interruptions + 1)


def _died(batch: _Batch) -> tuple[list[tuple[int, None]], list[_Batch]]:
    """Return who has no result, and who is tried again, each alone: one of them killed the process."""
    if len(batch.numbers) > 1:
        return [], [_Batch((number,)) for number in batch.numbers]
    if batch.deaths + 1 == DEATHS:
        return [(batch.numbers[0], None)], []
    return [], [replace(batch, deaths=batch.deaths + 1)]


def _batch(work: Callable[[Item], Made], inputs: Sequence[Item], timeout_s: float) -> list[Made]:
    """Ray task: work on inputs in a process that the watchdog may kill; return the results of the first ones at least.

    After half of the time limit the rest is left to another task: slow storage must not look like a file that hangs.
    """
    watchdog.guard(timeout_s)
    results: list[Made] = []
    began = time.monotonic()
    for item in inputs:
        # Works even where native code holds the GIL for ever.
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.stderr)
        try:
            results.append(work(item))
        finally:
            faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - began > timeout_s / 2:
            break
    return results
