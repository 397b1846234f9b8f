"""What is served: each model of the configuration found on this machine, checked, and how a replica loads it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mmray.config import nearest, validate
from mmray.errors import ConfigError
from mmray.generation import registry
from mmray.generation.base import GenerateFn, Generator
from mmray.models import catalogue, weights
from mmray.pipelines import job
from mmray.pipelines.serving.settings import ModelEntry, Pool, Replicas, ServeConfig

log = logging.getLogger(__name__)

Kind = Literal[
    "image", "audio", "spectrogram", "caption", "labels", "embedding", "transcription", "classification", "search"
]
GENERATORS: dict[str, Kind] = {
    "image": "image",
    "dalle_mini": "image",
    "audio": "audio",
    "spectrogram": "spectrogram",
    "caption": "caption",
    "labels": "labels",
}
EXTRACTORS: dict[str, Kind] = {
    "sbert": "embedding",
    "clip": "embedding",
    "clap": "embedding",
    "whisper": "transcription",
}
ROUTES: dict[Kind, tuple[str, ...]] = {
    "image": ("/v1/images/generations", "/v1/images/edits"),
    "audio": ("/v1/audio/generations",),
    "spectrogram": ("/v1/spectrograms/generations",),
    "caption": ("/v1/captions",),
    "labels": ("/v1/scores",),
    "embedding": ("/v1/embeddings",),
    "transcription": ("/v1/audio/transcriptions",),
    "classification": ("/v1/classifications",),
    "search": ("/v1/search",),
}


class Loader(Protocol):
    """Loads a model in a replica: a function from requests to results, as generators have it."""

    def load(self, device: str) -> GenerateFn:
        """Load it on a device."""


@dataclass(frozen=True)
class GeneratorLoader:
    """Loads a generator from the folders that the driver found."""

    generator: Generator
    paths: Mapping[str, str]

    def load(self, device: str) -> GenerateFn:
        """Load it on a device."""
        return self.generator.load(device, self.paths)


@dataclass(frozen=True)
class Served:
    """One model: ``as_`` is what requests call it; ``batch`` requests share a pass at most."""

    as_: str
    kind: Kind
    loader: Loader
    batch: int
    entry: ModelEntry
    fingerprint: str | None
    licence: str | None
    non_commercial: bool
    size_bytes: int = 0

    @property
    def home(self) -> str:
        """Return the deployment that holds it."""
        return self.entry.pool or self.as_

    @property
    def about(self) -> dict[str, Any]:
        """Return what /v1/models says of it."""
        return {
            "id": self.as_,
            "object": "model",
            "created": 0,
            "owned_by": "mmray",
            "kind": self.kind,
            "generator": self.entry.name if self.entry.name in GENERATORS else None,
            "pool": self.entry.pool,
            "routes": list(ROUTES[self.kind]),
            "weights": self.fingerprint,
            "licence": self.licence,
            "non_commercial": self.non_commercial,
        }


def prepare(config: ServeConfig, file: str) -> tuple[Served, ...]:
    """Find all models; ConfigError, naming file and key, where one is not there or may not be served."""
    found = [_found(entry, place, config, file) for place, entry in enumerate(config.models)]
    found += _over_store(config, file)
    names = [one.as_ for one in found]
    for name, pool in config.pools.items():
        if own := [one for one in found if one.entry.pool == name]:
            fitting(pool, own, f"{file}: pools.{name}")
    if twice := [name for name in names if names.count(name) > 1]:
        mend = "give one another name with `as: ...` (a trained network has its folder's)"
        raise ConfigError(f"{file}: two models are called {twice[0]!r}; {mend}")
    return tuple(found)


def _found(entry: ModelEntry, place: int, config: ServeConfig, file: str) -> Served:
    where = f"models[{place}]"
    if entry.name in GENERATORS:
        kind = GENERATORS[entry.name]
        generator = validate(registry.get(entry.name), entry.settings, where, file)
        job.installed(generator, f"{file}: {where}.name")
        names = {field: getattr(generator, field) for field in generator.checkpoints}
        checkpoints = {field: _resolved(name, f"{where}.{field}", file) for field, name in names.items()}
        loader: Loader = GeneratorLoader(generator, {field: str(one.path) for field, one in checkpoints.items()})
        fingerprint, batch = job.together(list(checkpoints.values())), generator.batch_size
        size_bytes = sum(_size_bytes(one.path) for one in checkpoints.values())
    elif entry.name in EXTRACTORS:
        from mmray.pipelines.serving import reading

        kind = EXTRACTORS[entry.name]
        loader, names, fingerprint, batch = reading.reader(entry, kind, where, file)
        size_bytes = sum(_size_bytes(_resolved(name, where, file).path) for name in names.values())
    else:
        known = nearest(entry.name, [*GENERATORS, *EXTRACTORS])
        raise ConfigError(f"{file}: {where}.name: {entry.name!r} cannot be served{known}")
    licence, non_commercial = _licence(names.values())
    if non_commercial and not config.allow_non_commercial:
        raise ConfigError(
            f"{file}: {where}: the licence of {', '.join(names.values())} ({licence}) forbids commercial use; where "
            "yours is not, set `allow_non_commercial: true`"
        )
    if non_commercial:
        log.warning("%s: %s: no commercial use", entry.as_, licence)
    if str(fingerprint).startswith("random:"):
        log.warning("%s: RANDOM WEIGHTS (%s): what it makes means nothing", entry.as_, fingerprint)
    batch = entry.requests or batch
    return Served(entry.as_, kind, loader, batch, entry, fingerprint, licence, non_commercial, size_bytes)


def _size_bytes(path: Path) -> int:
    """Return the size of a checkpoint: a file or a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def fitting(pool: Pool, models: Sequence[Served], where: str) -> int:
    """Return how many models of a pool are in memory at once: so many that any of them fit; ConfigError for none."""
    room, count = pool.memory_gb * 2**30, 0
    for size_bytes in sorted((one.size_bytes for one in models), reverse=True):
        room -= size_bytes
        count += room >= 0
    if not count:
        largest = max(models, key=lambda one: one.size_bytes)
        raise ConfigError(f"{where}: {largest.as_} takes {largest.size_bytes / 2**30:.1f} GB; raise memory_gb")
    return count


def _resolved(name: str, where: str, file: str) -> weights.Weights:
    try:
        return weights.resolve(name)
    except ConfigError as error:
        raise ConfigError(f"{file}: {where}: {error}") from None


def _licence(names: Any) -> tuple[str | None, bool]:
    known = [model for model in map(catalogue.find, names) if model]
    return ", ".join(dict.fromkeys(model.licence for model in known)) or None, any(m.non_commercial for m in known)


def _over_store(config: ServeConfig, file: str) -> list[Served]:
    """Return the search of the store, and the classifiers over what its extractors read."""
    if config.store is None:
        return []
    from mmray.pipelines.serving import classifying, searching

    found = [classifying.classifier(folder, config.store, place, file) for place, folder in enumerate(config.trained)]
    return [
        *(_own(as_, "classification", loader, fingerprint) for as_, loader, fingerprint in found),
        _own("search", "search", searching.searcher(config.store, file), None),
    ]


def _own(as_: str, kind: Kind, loader: Loader, fingerprint: str | None) -> Served:
    """Return what has no entry in ``models``."""
    entry = ModelEntry.model_validate({"name": kind, "as": as_, "replicas": Replicas()})
    return Served(as_, kind, loader, 4, entry, fingerprint, None, False)
