"""Folds, and the examples of their parts: the samples themselves, or pairs of samples with the same label."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmray.errors import ConfigError
from mmray.fusion import sides, splits
from mmray.fusion.dataset import Content, Dataset
from mmray.fusion.labels import Labels
from mmray.fusion.material import Modality
from mmray.fusion.sides import Sides
from mmray.fusion.splits import Places
from mmray.fusion.text_training import TextConfig
from mmray.fusion.training import TrainConfig

MEND = "other `folds`, another `validation` or `seed` may give it some"

AnyConfig = TrainConfig | TextConfig


class Samples(Protocol):
    """What a split looks at: samples with what is present of each input, and their labels."""

    @property
    def dataset(self) -> Dataset:
        """Return the samples; a block for each input."""

    @property
    def labels(self) -> Labels:
        """Return the label of each sample."""

    def contents(self, names: Iterable[str]) -> list[Content | None]:
        """Return digests of what each sample has of these inputs, None where it has nothing."""


@dataclass(frozen=True)
class Examples:
    """``places`` (examples, inputs): which sample each input of an example is read from, -1 where it is absent.

    ``classes`` (examples,): the right answers.
    """

    places: Places
    classes: Places

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, columns: Sequence[int]) -> "Examples":
        """Return the examples as a network sees them that has only these inputs; those without any are left out."""
        places = self.places[:, list(columns)]
        some = (places >= 0).any(axis=1)
        return Examples(places[some], self.classes[some])


@dataclass(frozen=True)
class Part:
    """One part of a fold.

    ``members``: for each input the samples that have it; ``classes`` of every sample of the data set, -1 where none.
    """

    members: tuple[Places, ...]
    classes: Places
    paired: bool

    def examples(self, size: int | None = None, seed: Sequence[int] = (0,)) -> Examples:
        """Return the part's samples once each; of pairs: ``size`` of them, drawn by ``seed``.

        Default ``size``: the largest input's samples, each once. Partners are drawn at random among those of the class.
        """
        random = np.random.default_rng(seed)
        if not self.paired:
            places = np.unique(np.concatenate(self.members))
            if size is not None:
                places = _cycled(places, size, random)
            columns = [np.where(np.isin(places, members), places, -1) for members in self.members]
            return Examples(np.stack(columns, axis=1), self.classes[places])
        anchor = int(np.argmax([len(members) for members in self.members]))
        anchors = _cycled(self.members[anchor], size or len(self.members[anchor]), random)
        classes = self.classes[anchors]
        columns = [
            anchors if place == anchor else _partners(self.classes, members, classes, random)
            for place, members in enumerate(self.members)
        ]
        return Examples(np.stack(columns, axis=1), classes)


@dataclass(frozen=True)
class Fold:
    """One fold: networks learn from ``train``, stop and are calibrated by ``validation``, are measured on ``test``."""

    number: int
    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Split:
    """All folds, the names of the classes, and what is to be said: who is left out, what stands on both sides."""

    folds: tuple[Fold, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    leaks: tuple[str, ...]


def split(material: Samples, config: AnyConfig) -> Split:
    """Deal the samples out to the parts of folds; ConfigError where a part has no two classes."""
    names = [one.as_ for one in config.inputs]
    alone = sides.Material(material.dataset, {config.labels.as_: material.labels})
    rules: list[AnyConfig] = [config]
    if config.pair_on:
        rules = [config.model_copy(update={"split": one.split or config.split}) for one in config.inputs]
        dealt = [
            sides.sides((name,), config.labels.as_, config.seed, rule, alone)
            for name, rule in zip(names, rules, strict=True)
        ]
    else:
        dealt = [sides.sides(names, config.labels.as_, config.seed, config, alone)]
    notes = tuple(dict.fromkeys(note for found in dealt for note in found.notes))
    said = [words for found, rule, read in _read(config, dealt, rules) for words in _leaks(found, rule, read, material)]
    classes = tuple(name for name in dealt[0].names if all(name in found.names for found in dealt))
    lost = sorted({name for found in dealt for name in found.names} - set(classes))
    notes += tuple(f"class {name!r} is not in every input; it is left out" for name in lost)
    if len(classes) < 2:
        raise ConfigError("labels: the inputs have fewer than two classes in common")
    folds = max(len(_tested(found)) for found in dealt)
    if any(len(_tested(found)) not in (1, folds) for found in dealt):
        raise ConfigError("folds: the inputs' splits have different numbers of folds")
    made = [_fold(number, folds, dealt, rules, classes, material, config) for number in range(folds)]
    return Split(tuple(made), classes, notes, tuple(dict.fromkeys(said)))


def _read(
    config: AnyConfig, dealt: Sequence[Sides], rules: Sequence[AnyConfig]
) -> list[tuple[Sides, AnyConfig, tuple[str, ...]]]:
    """Return each split with the inputs that some network reads of its samples: of pairs each input has its own."""
    if config.pair_on:
        return [(found, rule, (one.as_,)) for found, rule, one in zip(dealt, rules, config.inputs, strict=True)]
    sets = dict.fromkeys(config.inputs_of(one) for one in config.networks)  # type: ignore[arg-type]
    return [(dealt[0], rules[0], read) for read in sets]


def _leaks(found: Sides, rule: AnyConfig, read: tuple[str, ...], material: Samples) -> list[str]:
    return sides.leaks(found, rule, material.dataset, material.contents(read), " + ".join(read))


def _tested(found: Sides) -> Places:
    return np.unique(found.numbers[found.numbers != splits.ALWAYS_TRAIN])


def _fold(
    number: int, folds: int, dealt: Sequence[Sides], rules: Sequence[AnyConfig], classes: tuple[str, ...],
    material: Samples, config: AnyConfig,
) -> Fold:  # fmt: skip
    owned = np.full(len(material.dataset.ids), -1, np.int64)
    members: list[list[Places]] = [[], [], []]
    for found, rule in zip(dealt, rules, strict=True):
        renamed = np.array([classes.index(name) if name in classes else -1 for name in found.names], np.int64)
        own = renamed[found.classes]
        tested = _tested(found)
        test = (found.numbers == tested[number if len(tested) == folds else 0]) & (own >= 0)
        train = np.flatnonzero((found.numbers != tested[number if len(tested) == folds else 0]) & (own >= 0))
        held = _held_out(found, train, own, rule, material)
        owned[found.places[own >= 0]] = own[own >= 0]
        for mine, places in zip(members, (train[~held], train[held], np.flatnonzero(test)), strict=True):
            mine.append(found.places[places])
    parts = [_part(own, owned, material, config) for own in members]
    inputs = [one.as_ for one in config.inputs]
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        wanting = [one for one, there in zip(inputs, part.members, strict=True) if not len(there)]
        if wanting:
            raise ConfigError(f"fold {number}: no sample of the {name} part has {wanting[0]!r}; {MEND}")
        for one, there in zip(inputs, part.members, strict=True):
            if config.pair_on and len(np.unique(owned[there])) < len(classes):
                said = f"{one!r} lacks a class in the {name} part; pairs need all of them"
                raise ConfigError(f"fold {number}: {said}; {MEND}")
    return Fold(number, *parts)


def _held_out(found: Sides, train: Places, own: Places, rule: AnyConfig, material: Samples) -> npt.NDArray[np.bool_]:
    """Tell which places of the train part are held out for validation."""
    count = max(2, round(1 / rule.validation))
    if rule.validation_by == "group":
        column = material.dataset.column(rule.group_column, "group_column")
        groups = [column[place] for place in found.places[train]]
        count = min(count, int(splits.owners(groups).max()) + 1)
        if count < 2:
            raise ConfigError(f"validation_by: group: a train part has one {rule.group_column} alone; take stratified")
        return np.asarray(splits.grouped(own[train], groups, count, rule.seed) == 0)
    # A class of one member is learnt from: nobody could say whether it is answered rightly.
    several = np.bincount(own[train])[own[train]] > 1
    return np.asarray((splits.stratified(own[train], min(count, len(train)), rule.seed) == 0) & several)


def _part(own: Sequence[Places], classes: Places, material: Samples, config: AnyConfig) -> Part:
    if config.pair_on:
        return Part(tuple(own), classes, True)
    there = own[0]
    members = (there[material.dataset.blocks[one.as_].present[there]] for one in config.inputs)
    return Part(tuple(members), classes, False)


def _cycled(places: Places, size: int, random: np.random.Generator) -> Places:
    """Draw ``size`` places so that each comes as often as any other, give or take one."""
    rounds = [random.permutation(places) for _ in range(-(-size // len(places)))]
    return np.concatenate(rounds)[:size]


def _partners(classes: Places, members: Places, wanted: Places, random: np.random.Generator) -> Places:
    partners = np.empty(len(wanted), np.int64)
    for one in np.unique(wanted):
        mine = np.flatnonzero(wanted == one)
        partners[mine] = random.permutation(_cycled(members[classes[members] == one], len(mine), random))
    return partners


@dataclass(frozen=True)
class Batch:
    """Windows float32 (batch, windows, dim) and which are there (batch, windows) for each input; ``classes`` (batch,).

    A sample that lacks an input has no window there.
    """

    windows: Mapping[str, Tensor]
    there: Mapping[str, Tensor]
    classes: Tensor

    def to(self, device: str | torch.device) -> "Batch":
        """Return the batch on a device."""
        windows = {name: one.to(device, non_blocking=True) for name, one in self.windows.items()}
        there = {name: one.to(device, non_blocking=True) for name, one in self.there.items()}
        return Batch(windows, there, self.classes.to(device, non_blocking=True))

    def without(self, name: str) -> "Batch":
        """Return the batch with one input taken away from every sample."""
        gone = {**self.there, name: torch.zeros_like(self.there[name])}
        return Batch(self.windows, gone, self.classes)


def batch(examples: Examples, names: Sequence[str], modalities: Mapping[str, Modality], chosen: Places) -> Batch:
    """Read the windows of chosen examples; ``names`` are the inputs that the columns of ``examples`` stand for."""
    windows, there = {}, {}
    for column, name in enumerate(names):
        one, places = modalities[name], examples.places[chosen, column]
        rows = np.where(places >= 0, one.row[places], -1)
        windows[name] = torch.from_numpy(np.where((rows >= 0)[:, None, None], one.windows[rows], 0))
        there[name] = torch.from_numpy((rows >= 0)[:, None] & one.there[rows])
    return Batch(windows, there, torch.from_numpy(examples.classes[chosen]))


def batches(
    examples: Examples,
    names: Sequence[str],
    modalities: Mapping[str, Modality],
    size: int,
    seed: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield all examples in batches, in order, or shuffled by a seed."""
    order = np.arange(len(examples)) if seed is None else np.random.default_rng(seed).permutation(len(examples))
    for start in range(0, len(order), size):
        yield batch(examples, names, modalities, order[start : start + size])
