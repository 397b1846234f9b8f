"""Fair splits: who is trained on, who is tested on, and what must not stand on both sides.

A split is one fold number per sample: each fold is the test part once, and the rest is its train part. ``ALWAYS_TRAIN``
marks samples that are never tested on.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError

Places = npt.NDArray[np.int64]
ALWAYS_TRAIN = -1


def stratified(classes: Places, folds: int, seed: int) -> Places:
    """Deal the members of each class out to the folds at random; class counts and sizes differ by one at most.

    ConfigError where there are fewer samples than folds.
    """
    if len(classes) < folds:
        raise ConfigError(f"{folds} folds need at least as many samples; there are {len(classes)}")
    numbers = np.empty(len(classes), np.int64)
    numbers[_shuffled(classes, seed)] = np.arange(len(classes)) % folds
    return numbers


def fraction(classes: Places, share: float, seed: int) -> Places:
    """Draw one test part of that share, each class alike: 0 for its members, ALWAYS_TRAIN for all others."""
    numbers = np.full(len(classes), ALWAYS_TRAIN, np.int64)
    steps = np.ceil(np.round(np.arange(len(classes) + 1) * share, 9))  # 0.1 * 3 is a little more than 0.3
    numbers[_shuffled(classes, seed)[np.diff(steps) > 0]] = 0
    return numbers


def _shuffled(classes: Places, seed: int) -> Places:
    """Return all places, class after class, the members of each in random order."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(classes == one)) for one in np.unique(classes)])


def owners(groups: Sequence[Any]) -> Places:
    """Number the groups; a sample without one (None) is a group of its own."""
    own = [f"={group}" if group is not None else f"#{place}" for place, group in enumerate(groups)]
    return np.unique(own, return_inverse=True)[1].reshape(-1)


def grouped(
    classes: Places, groups: Sequence[Any], folds: int, seed: int, sizes: Sequence[float] | None = None
) -> Places:
    """Put whole groups into folds, the largest first, each where it disturbs the balance of classes least.

    ``sizes``: the share of each fold (default: equal). A sample without a group (None) is a group of its own.
    ConfigError where there are fewer groups than folds.
    """
    owner = owners(groups)
    count = int(owner.max()) + 1
    if count < folds:
        raise ConfigError(f"{folds} folds need at least as many groups; there are {count}")
    counts = np.zeros((count, int(classes.max()) + 1))
    np.add.at(counts, (owner, classes), 1)
    counts = np.column_stack([counts, counts.sum(1)])  # the size of a fold is to be even too: none stays empty
    wanted = np.outer(sizes, counts.sum(0)) if sizes else counts.sum(0) / folds
    shuffled = np.random.default_rng(seed).permutation(count)
    load = np.zeros((folds, counts.shape[1]))
    chosen = np.empty(count, np.int64)
    for group in shuffled[np.argsort(-counts[shuffled, -1], kind="stable")]:
        cost = (((load + counts[group]) ** 2 - load**2) / np.maximum(wanted, 1e-9)).sum(1)
        chosen[group] = int(np.argmin(cost))
        load[chosen[group]] += counts[group]
    return chosen[owner]


def given(values: Sequence[Any]) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Read a column: ``train`` and ``test`` are one split, anything else names folds; also which samples take part.

    Samples without a value, and beside train and test all others (``val``), take no part. Upper and lower case are
    one. ConfigError where there is one of train and test without the other: that would be folds nobody meant.
    """
    names = [None if value is None else str(value).strip().lower() for value in values]
    known = sorted({name for name in names if name is not None})
    numbers = {name: place for place, name in enumerate(known)}
    if odd := {"training", "testing"} & set(known):
        raise ConfigError(f"says {min(odd)!r} (it has: {', '.join(known)}); the two parts are called train and test")
    if {"train", "test"} & set(known):
        numbers = {"train": ALWAYS_TRAIN, "test": 0}
        if lacking := [name for name in numbers if name not in known]:
            raise ConfigError(f"has no {lacking[0]!r} (it has: {', '.join(known)})")
    taking_part = np.array([name in numbers for name in names], bool)
    return np.array([numbers.get(name, ALWAYS_TRAIN) for name in names], np.int64), taking_part  # type: ignore[arg-type]


def parts(numbers: Places) -> Iterator[tuple[Places, Places]]:
    """Yield the places of the train part and of the test part of every fold."""
    for fold in np.unique(numbers[numbers != ALWAYS_TRAIN]):
        yield np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)


def untrained(classes: Places, numbers: Places) -> list[int]:
    """Return the classes that some fold's train part lacks: all their members stand in one fold."""
    return [
        int(one)
        for one in np.unique(classes)
        if len(held := np.unique(numbers[classes == one])) == 1 and held[0] != ALWAYS_TRAIN
    ]


def straddling(numbers: Places, owners: Sequence[Any]) -> dict[Any, Places]:
    """Return what stands on both sides of a split: owner (a group, a content; None: nobody's) -> its places."""
    held: dict[Any, list[int]] = {}
    for place, owner in enumerate(owners):
        if owner is not None:
            held.setdefault(owner, []).append(place)
    shared = {owner: np.array(places, np.int64) for owner, places in held.items() if len(places) > 1}
    return {owner: places for owner, places in shared.items() if len(np.unique(numbers[places])) > 1}
