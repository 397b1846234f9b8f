"""What a training does one after the other: fits, and how workers that share one speak to each other.

A **fit** is one network of one fold. What is done is a folder, ``OUT/networks/fold-K/NAME``, whose ``config.json``,
written last, names the fit's key under ``provenance``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from mmray import storage

State = dict[str, Any]


def folder(out: str, fold: int, network: str) -> str:
    """Return the URI of the folder that holds a network of a fold when it is trained."""
    return storage.join(out, "networks", f"fold-{fold}", network)


@dataclass(frozen=True)
class Fit:
    """One network of one fold; ``key`` changes with whatever decides its numbers; ``epochs``: at most so many."""

    fold: int
    network: str
    key: str
    epochs: int

    @property
    def name(self) -> str:
        """Return what people call it."""
        return f"fold {self.fold}, {self.network}"

    def folder(self, out: str) -> str:
        """Return the URI of the folder that holds it when it is done."""
        return folder(out, self.fold, self.network)

    def done(self, out: str) -> dict[str, Any] | None:
        """Return the provenance of its folder (``figures`` for one); None where it is not done, or by another key."""
        try:
            about = json.loads(storage.read_bytes(storage.join(self.folder(out), "config.json")))
        except (FileNotFoundError, ValueError):
            return None
        found = about.get("provenance") if isinstance(about, dict) else None
        return found if isinstance(found, dict) and found.get("key") == self.key else None


class Fitting(Protocol):
    """A fit under way, in every worker that shares it.

    An epoch draws its random numbers from seed, fold and epoch: what goes on from a state ends as if it had never
    stopped.
    """

    @property
    def over(self) -> bool:
        """Tell whether all epochs are done, or patience has run out; the same in all workers."""

    def epoch(self) -> dict[str, float]:
        """Train on this worker's share of one epoch, and validate; returns its metrics, the same in all workers."""

    def state(self) -> State:
        """Return what the next epochs need: tensors, numbers, strings, and lists and dicts of them."""

    def restore(self, state: State) -> None:
        """Go on from a state."""

    def export(self, folder: str) -> None:
        """Write the best epoch, calibrated; ``provenance`` has key and figures, a number by name; one worker writes."""


@dataclass(frozen=True)
class Plan:
    """Fits in the order in which they are done; ``make`` is pickled and makes one in each worker, on its device.

    ``notes``: who is left out and why; ``leaks``: what stands on both sides of a split.
    """

    fits: tuple[Fit, ...]
    make: Callable[[Fit, torch.device], Fitting]
    notes: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()


def rank() -> int:
    """Return which of the workers this process is, 0 where it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Return how many workers share a fit."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(numbers: Tensor) -> Tensor:
    """Return the sum of a tensor over all workers."""
    if world() > 1:
        distributed.all_reduce(numbers)
    return numbers


def together() -> None:
    """Wait until all workers are here."""
    if world() > 1:
        distributed.barrier()
