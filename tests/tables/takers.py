"""Processes that all reach for one lease; few imports, as eight of them start at once."""

from collections.abc import Sequence
from typing import Any

from mmray.errors import MmrayError
from mmray.tables import lease
from mmray.tables.store import open_store


def take(number: int, trials: Sequence[tuple[int, str]], barrier: Any, outcomes: Any) -> None:
    """Try to take the lease of each trial's store when all are ready; tell the token, or None where refused.

    A holder lets go when all others were refused.
    """
    for trial, uri in trials:
        store = open_store(uri)
        barrier.wait(120)
        try:
            with lease.hold(store, f"taker-{number}") as held:
                outcomes.put((trial, held.token))
                barrier.wait(120)
        except MmrayError:
            outcomes.put((trial, None))
            barrier.wait(120)
        barrier.wait(120)
