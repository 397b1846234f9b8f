"""Requests that can be done together, together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from mmray.generation.base import Progress, RequestError, Result


class Plan(Protocol):
    """What requests of one batch must have in common; hashable."""

    @property
    def work(self) -> int:
        """Return how many steps one batch takes."""


R = TypeVar("R")
P = TypeVar("P", bound=Plan)


def in_batches(
    requests: Sequence[R],
    batch_size: int,
    plan: Callable[[R], P],
    make: Callable[[P, list[R], Callable[[int], None]], list[Result]],
    progress: Progress,
) -> list[Result | RequestError]:
    """Make all results, in the order of the requests; equal plans share batches.

    ``plan`` raises the RequestError of a request that cannot be done. ``make`` tells how many of the ``work`` steps of
    its batch are done.
    """
    results: dict[int, Result | RequestError] = {}
    groups: dict[P, list[int]] = {}
    for place, request in enumerate(requests):
        try:
            groups.setdefault(plan(request), []).append(place)
        except RequestError as error:
            results[place] = error
    batches = [
        (shared, places[start : start + batch_size])
        for shared, places in groups.items()
        for start in range(0, len(places), batch_size)
    ]
    total = sum(shared.work for shared, _ in batches)
    done = 0
    for shared, places in batches:
        found = make(shared, [requests[place] for place in places], partial(_tell, progress, done, total))
        results.update(zip(places, found, strict=True))
        done += shared.work
    return [results[place] for place in range(len(requests))]


def _tell(progress: Progress, done: int, total: int, step: int) -> None:
    progress(done + step, total)
