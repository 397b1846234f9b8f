"""From one modality to another: maps between two embeddings, compared with chance and with a linear map.

Each map is fitted on a part of the pairs and asked about the rest: which target belongs to this source?
"""

import logging
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmray import provenance
from mmray.config import read_yaml, validate, with_settings
from mmray.errors import ConfigError
from mmray.fusion import map_fit, pairs, retrieval
from mmray.fusion.maps import NAMES, Map, MapName, Training
from mmray.fusion.pairs import Pairs, Places
from mmray.fusion.retrieval import Found

log = logging.getLogger(__name__)

VERSION = 1  # raised whenever our code changes the numbers


class Side(BaseModel):
    """A feature partition: the id or the name of an extractor of the store, and a pooling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: str
    pooling: str = "mean"


class CrossmodalConfig(BaseModel):
    """What a cross-modal study reads.

    ``held_out``: how many pairs, or below 1 what share of them, are asked about; with ``folds`` every pair is, by a map
    fitted without its part. Groups of the manifest are never cut through. ``candidates``: the right target is looked
    for among those of the same part, or among ``all``, which is harder than by number alone: a map draws every answer
    to the targets that it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crossmodal"] = "crossmodal"  # tells the file from that of another study
    store: str
    out: str
    source: Side
    target: Side
    maps: tuple[MapName, ...] = Field(NAMES, min_length=1)
    held_out: int | float = 150
    folds: int | None = Field(None, ge=2)
    candidates: Literal["held_out", "all"] = "held_out"
    seed: int = Field(0, ge=0, lt=2**32)
    training: Training = Training()
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    cpus: int = Field(1, ge=1)  # threads; another number may round differently

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if twice := [name for name in self.maps if self.maps.count(name) > 1]:
            raise ValueError(f"maps: {twice[0]!r} stands there twice")
        if not 0 < self.held_out < 1 and (self.held_out < 2 or self.held_out != int(self.held_out)):
            raise ValueError(f"held_out: a whole number from 2, or a share below 1 (given: {self.held_out})")
        if self.folds is not None and "held_out" in self.model_fields_set:
            raise ValueError("folds: every pair is asked about; take held_out out")
        return self


def load_crossmodal(file: str, settings: list[str] | None = None, **overrides: str | None) -> CrossmodalConfig:
    """Read the configuration of a cross-modal study; ``overrides`` (store, out) replace keys where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {key: value for key, value in overrides.items() if value is not None}
    return validate(CrossmodalConfig, data, "", file)


class Question(NamedTuple):
    """The pairs of a study, what of them is asked about by each map, and among which targets it is looked for."""

    found: Pairs
    parts: list[Places]
    candidates: list[Places]
    results: dict[str, Any]  # what ``results.json`` holds, without the figures of maps

    def provenance(self, config: CrossmodalConfig) -> dict[str, Any]:
        """Return what a map of this study was fitted on."""
        return _provenance(self.found, self.parts, config)


class Measured(NamedTuple):
    """A fitted map, its figures, and what it answered (columns of ``answers.parquet``)."""

    name: MapName
    model: Map
    figures: dict[str, Any]
    answers: pa.Table


def prepare(config: CrossmodalConfig, file: str = "configuration") -> Question:
    """Read the pairs and split them; ConfigError where there are too few, or none are left to learn from."""
    try:
        return _prepared(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _prepared(config: CrossmodalConfig) -> Question:
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device: {config.device}: torch finds no CUDA device on this machine; take device: cpu")
    found = pairs.joined(config.store, *((one.extractor, one.pooling) for one in (config.source, config.target)))
    parts = split(found.groups, config)
    everything = np.arange(len(found.ids))
    candidates = [everything if config.candidates == "all" else part for part in parts]
    same = retrieval.twins(found.targets)
    leaks = leaking(found, parts)
    for words in leaks:
        log.warning("LEAK: %s", words)
    return Question(found, parts, candidates, {
        "version": VERSION,
        "config": config.model_dump(mode="json"),
        "source": found.sides[0]._asdict(),
        "target": found.sides[1]._asdict(),
        "pairs": len(found.ids),
        "excluded": found.excluded,
        "warnings": leaks,
        "fitted_on": len(found.ids) - max(map(len, parts)),
        "asked": sum(map(len, parts)),
        "candidates": max(map(len, candidates)),
        "chance": retrieval.chance([(len(part), same[own]) for part, own in zip(parts, candidates, strict=True)]),
    })  # fmt: skip


def fits(config: CrossmodalConfig, question: Question) -> Iterator[Measured]:
    """Fit and measure each map; with ``folds``, which have one a fold, the map to keep is fitted on all pairs."""
    found, parts = question.found, question.parts
    same = retrieval.twins(found.targets)
    for name in config.maps:
        model, heard = measured(name, found, parts, question.candidates, config)
        answers = _answers(name, found, np.concatenate(parts), heard)
        yield Measured(name, model, retrieval.figures(heard, same), answers)


def split(groups: tuple[Any, ...], config: CrossmodalConfig) -> list[Places]:
    """Return the places asked about, one array for each map to be fitted; ConfigError where too little is left."""
    total = len(groups)
    if config.folds is not None:
        parts, key = pairs.folds(groups, config.folds, config.seed), f"folds: {config.folds}"
    else:
        wanted = round(config.held_out * total) if config.held_out < 1 else int(config.held_out)
        if total - wanted < map_fit.FEWEST:
            raise ConfigError(
                f"held_out: {config.held_out} of {total} pairs leaves fewer than {map_fit.FEWEST} to learn from; "
                "give a share such as 0.2, or folds"
            )
        parts, key = [pairs.held_out(groups, wanted, config.seed)], f"held_out: {config.held_out}"
        if len(parts[0]) < 2:
            raise ConfigError(f"{key} of {total} pairs: no two fit without cutting through a group")
    if config.candidates == "held_out" and min(map(len, parts)) < 2:
        raise ConfigError(f"{key} of {total} pairs: among one target there is no choice; give candidates: all")
    if total - max(map(len, parts)) < map_fit.FEWEST:
        raise ConfigError(f"{key} of {total} pairs: a map would have fewer than {map_fit.FEWEST} to learn from")
    return parts


def leaking(found: Pairs, parts: list[Places]) -> list[str]:
    """Say how many sources asked about are equal to one that their map was fitted on; zeros are nothing found."""
    same, everything = retrieval.twins(found.sources), np.arange(len(found.ids))
    some = np.asarray(found.sources.any(axis=1))
    known = [part[some[part] & np.isin(same[part], same[np.setdiff1d(everything, part)])] for part in parts]
    if not (places := np.concatenate(known)).size:
        return []
    named = found.ids[places[0]]
    return [f"{len(places)} sources ({named!r} for one) are equal to some that a map was fitted on: too good figures"]


def measured(
    name: MapName, found: Pairs, parts: list[Places], candidates: list[Places], config: CrossmodalConfig
) -> tuple[Map, Found]:
    """Fit one map without each part and ask it about that part; returns the map to keep, and what was found.

    The answers found are places of ``found``, in the order of the parts.
    """
    heard = []
    everything = np.arange(len(found.ids))
    for part, own in zip(parts, candidates, strict=True):
        model = _fitted(name, found, np.setdiff1d(everything, part), config)
        queries, places = model.queries(found.sources[part]), model.places(found.targets[own])
        one = retrieval.retrieve(queries, places, np.searchsorted(own, part))
        heard.append(one._replace(answers=own[one.answers]))
    if len(parts) > 1:
        model = _fitted(name, found, everything, config)
    return model, retrieval.joined(heard)


def _fitted(name: MapName, found: Pairs, places: Places, config: CrossmodalConfig) -> Map:
    return map_fit.fit(
        name, found.sources[places], found.targets[places], config.seed, config.training, config.device, config.cpus
    )


def _answers(name: str, found: Pairs, asked: Places, heard: Found) -> pa.Table:
    ids = np.array(found.ids, dtype=object)
    columns = {
        "map": pa.array([name] * len(asked), pa.string()),
        "sample_id": pa.array(ids[asked], pa.string()),
        "answer": pa.array(ids[heard.answers], pa.string()),
        "score": pa.array(heard.scores, pa.float32()),
        "rank": pa.array(heard.ranks, pa.float64()),
    }
    return pa.table(columns)


def _provenance(found: Pairs, parts: list[Places], config: CrossmodalConfig) -> dict[str, Any]:
    return {
        "version": VERSION,
        "source": found.sides[0]._asdict(),
        "target": found.sides[1]._asdict(),
        "pairs": len(found.ids) - (len(parts[0]) if len(parts) == 1 else 0),
        "seed": config.seed,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }
