"""Trained fusion networks behind the endpoint: an upload goes through the extractors that made the training data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError
from torch import Tensor

from mmray import storage
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.fusion import network_files
from mmray.fusion.examples import Batch
from mmray.fusion.network_files import InputFile
from mmray.generation.base import GenerateFn, Progress, RequestError
from mmray.pipelines import query
from mmray.pipelines.adopt_rows import IMPORTED
from mmray.pipelines.job import Task
from mmray.pipelines.serving.reading import Medium, Reading, vectors
from mmray.pipelines.worker import loaded
from mmray.tables.store import open_store

Asked = tuple[Medium, str | None]
VECTORS = ("embedding", "tags", "tokens")


def classifier(folder: str, store: str, place: int, file: str) -> tuple[str, "Classifier", str | None]:
    """Return the name of a network, its loader and the fingerprint of what it reads; ConfigError as it needs."""
    where = f"{file}: trained[{place}]"
    try:
        _, about = network_files.load(folder)
        tasks = tuple(_task(one, store) for one in about.inputs)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    name = storage.absolute(folder).rstrip("/").rpartition("/")[2]
    return name, Classifier(storage.absolute(folder), tasks), together_of(tasks)


def together_of(tasks: Sequence[Task]) -> str | None:
    """Return the fingerprint of all extractors: random if one is."""
    prints = [task.fingerprint for task in tasks if task.fingerprint]
    random = next((one for one in prints if one.startswith("random:")), None)
    return random or (prints[0] if len(prints) == 1 else None)


def _task(one: InputFile, store: str) -> Task:
    """Return the extractor that made an input, as the store's provenance has it."""
    about = open_store(store).read_json("provenance", f"{one.extractor}.json")
    if about is None:
        raise ConfigError(f"{store} has no extractor {one.extractor}, which the input {one.as_!r} is read from")
    if about["identity"]["name"] == IMPORTED:
        raise ConfigError(f"the input {one.as_!r} is read from imported vectors: nothing here makes such of an upload")
    if about["kind"] not in VECTORS:
        raise ConfigError(f"the input {one.as_!r} is of {about['kind']}: only vectors can be served")
    try:
        extractor = registry.get(about["identity"]["name"]).model_validate(about["config"])
    except ValidationError as error:
        raise ConfigError(f"{one.extractor} was made by another version of mmray: {error}") from None
    return query.task_of(about, extractor)


@dataclass(frozen=True)
class Classifier:
    """A network and the extractors of its inputs, in their order."""

    folder: str
    tasks: tuple[Task, ...]

    def load(self, device: str) -> GenerateFn:
        """Load the network and the extractors."""
        network, about = network_files.load(self.folder, device)
        reading = Reading(self.tasks, [loaded(task, device) for task in self.tasks])

        def one(asked: Asked, progress: Progress) -> Any:
            medium, words = asked
            try:
                tables, _ = reading(medium, progress, words)
            except RequestError as error:
                return error
            found = [windows_of(one, rows) for one, rows in zip(about.inputs, tables, strict=True)]
            if not any(len(windows) for windows in found):
                return RequestError(medium.field, "holds nothing that this network reads")
            names = [one.as_ for one in about.inputs]
            with torch.inference_mode():
                shares = network(_batch(names, found).to(device)).softmax(1)[0]
            scores = dict(zip(about.classes, shares.cpu().tolist(), strict=True))
            return {"scores": scores, "inputs": {name: bool(len(own)) for name, own in zip(names, found, strict=True)}}

        return lambda requests, progress: [one(asked, progress) for asked in requests]


def windows_of(one: InputFile, rows: pa.Table | None) -> Any:
    """Return what a network reads of one extractor's rows: float32 (windows, dim), of no windows where it is absent."""
    if rows is None or rows.num_rows == 0:
        return np.zeros((0, one.dim), np.float32)
    found = vectors(rows) if one.pooling is None else query.pooled(rows.sort_by("window"), one.pooling)[None]
    found = found[np.isfinite(found).all(axis=1)]
    count = min(len(found), one.windows or 1)
    return found[np.arange(count) * len(found) // max(1, count)]  # as training chose them: evenly


def _batch(names: Sequence[str], found: Sequence[Any]) -> Batch:
    windows: dict[str, Tensor] = {}
    there: dict[str, Tensor] = {}
    for name, own in zip(names, found, strict=True):
        windows[name] = torch.tensor(own if len(own) else np.zeros((1, own.shape[1]), np.float32))[None]
        there[name] = torch.full((1, max(1, len(own))), bool(len(own)))
    return Batch(windows, there, torch.zeros(1, dtype=torch.long))
