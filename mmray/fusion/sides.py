"""Who takes part in a cell of a study, on which side of each fold, and who is left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.errors import ConfigError
from mmray.fusion import splits
from mmray.fusion.config import SplitRule, StudyConfig
from mmray.fusion.dataset import Content, Dataset, Mask
from mmray.fusion.labels import Labels

LISTED = 5  # names of classes in a note


@dataclass(frozen=True)
class Material:
    """What every cell reads: the data set and the label sets."""

    dataset: Dataset
    labels: Mapping[str, Labels]


@dataclass(frozen=True)
class Sides:
    """Who takes part in a cell: ``places`` in the data set with their class and fold; ``notes``: who does not."""

    places: splits.Places
    classes: splits.Places
    numbers: splits.Places
    names: tuple[str, ...]
    notes: tuple[str, ...]


def sides(embeddings: Sequence[str], labels: str, seed: int, config: SplitRule, material: Material) -> Sides:
    """Choose who takes part and deal them out to folds; ConfigError where fewer than two classes are left.

    Left out, counted in ``notes``: who has no label, no vector (unless ``missing: mask``), no split; classes of one
    member, or with all members in one fold, which could not be both trained on and tested.
    """
    dataset, values = material.dataset, material.labels[labels].values
    wanted = {"own": embeddings, "common": list(dataset.blocks), "mask": ()}[config.missing]
    labelled = np.array([value is not None for value in values], bool)
    taking = labelled & dataset.having(wanted)
    if config.missing == "mask":
        taking &= np.logical_or.reduce([dataset.blocks[name].present for name in embeddings])
    what = " + ".join(wanted or embeddings)
    if not taking.any():
        mend = "; `missing: mask` keeps who has any" if len(wanted) > 1 else ""
        raise ConfigError(f"embeddings: of {labelled.sum()} labelled samples (labels {labels!r}) none has {what}{mend}")
    notes = _said(int((labelled & ~taking).sum()), f"labelled samples lack a vector of {what}")
    fixed: splits.Places | None = None
    if config.split == "given":
        fixed, part = _given(config, dataset)
        notes += _said(int((taking & ~part).sum()), f"samples take no part by the column {config.split_column!r}")
        taking &= part
    places = np.flatnonzero(taking)
    counts = Counter(values[place] for place in places)
    alone = {value for value, count in counts.items() if count < 2}
    notes += _said(len(alone), f"class(es) of a single sample are left out ({_listed(sorted(map(str, alone)))})")
    places = np.array([place for place in places if values[place] not in alone], np.int64)
    names = tuple(sorted({str(values[place]) for place in places}))
    classes = np.array([names.index(str(values[place])) for place in places], np.int64)
    if len(names) < 2:
        why = "; ".join(notes) or "as given"
        raise ConfigError(f"{what}, labels {labels!r}: fewer than two classes of two samples are left ({why})")
    numbers = _folds(classes, places, fixed, seed, config, dataset)
    return _both_sided(Sides(places, classes, numbers, names, notes), f"{what}, labels {labels!r}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:LISTED])) + (" ..." if len(names) > LISTED else "")


def _said(count: int, words: str) -> tuple[str, ...]:
    return (f"{count} {words}",) if count else ()


def _given(config: SplitRule, dataset: Dataset) -> tuple[splits.Places, Mask]:
    values = dataset.column(config.split_column, "split_column")
    try:
        numbers, part = splits.given(values)
    except ConfigError as error:
        raise ConfigError(f"split_column: {config.split_column!r} {error}") from None
    if not part.any():
        raise ConfigError(f"split_column: no sample has a value in {config.split_column!r}")
    return numbers, part


def _folds(
    classes: splits.Places, places: splits.Places, fixed: splits.Places | None, seed: int, config: SplitRule,
    dataset: Dataset,
) -> splits.Places:  # fmt: skip
    if fixed is not None:
        return fixed[places]
    groups, share = _groups(places, config, dataset), config.test_fraction
    if share is None:
        return _dealt(classes, groups, config.folds, seed, "folds")
    if groups is None:
        return splits.fraction(classes, share, seed)
    try:
        numbers = splits.grouped(classes, groups, 2, seed, (share, 1 - share))
    except ConfigError as error:
        raise ConfigError(f"test_fraction: {error}") from None
    return np.where(numbers == 0, 0, splits.ALWAYS_TRAIN)


def _groups(places: splits.Places, config: SplitRule, dataset: Dataset) -> list[Any] | None:
    """Return the group of each place; None where the split does not look at groups."""
    if config.split != "group":
        return None
    column = dataset.column(config.group_column, "group_column")
    return [column[place] for place in places]


def _dealt(classes: splits.Places, groups: Sequence[Any] | None, folds: int, seed: int, key: str) -> splits.Places:
    try:
        if groups is None:
            return splits.stratified(classes, folds, seed)
        return splits.grouped(classes, groups, folds, seed)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _both_sided(found: Sides, what: str) -> Sides:
    """Leave out the classes that some train part lacks; they could only be answered wrongly."""
    lacking = splits.untrained(found.classes, found.numbers)
    notes = found.notes + tuple(
        f"class {found.names[one]!r} stands in one fold alone ({int((found.classes == one).sum())} samples, none to "
        "train on); it is left out"
        for one in lacking
    )
    kept = ~np.isin(found.classes, lacking)
    names = tuple(name for place, name in enumerate(found.names) if place not in lacking)
    tested = found.numbers[kept] != splits.ALWAYS_TRAIN
    if len(names) < 2 or not tested.any() or len(np.unique(found.numbers[kept])) < 2:
        raise ConfigError(f"{what}: no train and test part with two classes is left ({'; '.join(notes) or 'one fold'})")
    renumbered = np.searchsorted(np.unique(found.classes[kept]), found.classes[kept])
    untested = sorted(set(range(len(names))) - set(renumbered[tested].tolist()))
    notes += tuple(f"class {names[one]!r} is trained on and never tested" for one in untested)
    return Sides(found.places[kept], renumbered, found.numbers[kept], names, notes)


def leaks(
    found: Sides, config: SplitRule, dataset: Dataset, contents: Sequence[Content | None], what: str
) -> list[str]:
    """Say what stands on both sides of the split: groups (where the manifest has them), and equal contents.

    ``contents``: of each sample of the data set; ``what`` they are, in words. ConfigError where the configuration names
    a column of groups that the manifest does not have.
    """
    said = []
    groups: Sequence[Any] = [None] * len(dataset.ids)
    if config.group_column in dataset.columns or "group_column" in config.model_fields_set:
        groups = dataset.column(config.group_column, "group_column")
    if shared := splits.straddling(found.numbers, [groups[place] for place in found.places]):
        about = (
            f"column {config.group_column!r}: {next(iter(shared))!r} for one; {sum(map(len, shared.values()))} samples"
        )
        said.append(
            f"{len(shared)} group(s) ({about}) stand in train and test at once: figures will be too good; "
            "`split: group` keeps them apart"
        )
    if doubles := splits.straddling(found.numbers, [contents[place] for place in found.places]):
        places = next(iter(doubles.values()))
        other = next(place for place in places if found.numbers[place] != found.numbers[places[0]])
        first = [dataset.ids[found.places[place]] for place in (places[0], other)]
        said.append(
            f"{len(doubles)} content(s) of {what} stand in train and test at once ({' and '.join(first)} are equal; "
            f"{sum(map(len, doubles.values()))} samples): figures will be too good"
        )
    return said


def inner(found: Sides, train: splits.Places, seed: int, config: StudyConfig, dataset: Dataset) -> splits.Places:
    """Return fold numbers of the train part, split again as fairly as the whole: by groups where the study does.

    ConfigError where it cannot be split into so many.
    """
    groups = _groups(found.places[train], config, dataset)
    return _dealt(found.classes[train], groups, config.inner_folds, seed, "inner_folds")
