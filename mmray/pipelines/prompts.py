"""The configuration of ``mmray generate``, and the requests that it stands for: one for each prompt and seed."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmray import storage
from mmray.config import Entry, Resources, keys, nearest, read_yaml, validate, with_settings
from mmray.errors import ConfigError
from mmray.generation import registry
from mmray.generation.base import Generator, Request
from mmray.tables import manifest

# The generators that make something of a prompt, and the scores that it can have.
SCORED = {"image": ("clip",), "dalle_mini": ("clip",), "audio": ("clap",), "spectrogram": ("clip", "clap")}
PICTURES = ("image", "imprint")  # the fields of requests that are pictures: in a configuration, their files
READABLE = ("prompt", "sound_prompt", "negative_prompt", "negative_sound_prompt")  # also columns of the store
CARRIED = (*manifest.TEXTS, *manifest.NUMBERS)  # columns of a manifest that are no part of a request
SEEDS = 2**32


class Scores(BaseModel):
    """Who says how well a result fits its words: a CLIP model its picture, a CLAP model its sound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: str | None = None
    clap: str | None = None


class GenerateConfig(BaseModel):
    """What ``mmray generate`` reads.

    ``prompts``, or the rows of ``manifest``: fields of the generator's request; ``request``: fields of those that leave
    them out. ``seeds``: so many results of each prompt, with the seeds from its own on; ``best``: of these only so many
    become files, by their scores. ``frames``: compare each picture with so many frames, the most different ones, of the
    video in the column ``uri``, by ``scores.clip``. ``timeout_s``: of one pass, that is, of ``batch_size`` results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generate"]
    generator: Entry
    prompts: tuple[dict[str, Any], ...] = ()
    manifest: str | None = None
    request: dict[str, Any] = {}
    seeds: int = Field(1, ge=1, le=10_000)
    scores: Scores = Scores()
    best: int | None = Field(None, ge=1)
    frames: int | None = Field(None, ge=1, le=1000)
    store: str
    max_error_rate: float = Field(0.05, ge=0, le=1)
    max_attempts: int = Field(3, ge=1, le=100)
    timeout_s: float = Field(3600, gt=0)
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _prompts_or_manifest(self) -> Self:
        if bool(self.prompts) == bool(self.manifest):
            raise ValueError("give prompts or a manifest of them, and not both")
        if self.best is not None and self.scores == Scores():
            raise ValueError("best: needs scores to choose by: scores: {clip: ..., clap: ...}")
        if self.frames is not None and self.scores.clip is None:
            raise ValueError("frames: needs a model to compare by: scores: {clip: ...}")
        return self


class Prompts(NamedTuple):
    """``samples``: the manifest of the store; its column ``request`` is what is made, as JSON, ``prompt_id`` the sample
    that is the prompt's first.

    ``pictures``: the files of the pictures that requests name by their SHA-256.
    """

    samples: pa.Table
    pictures: Mapping[str, str]


def load_generate(
    file: str, settings: list[str] | None = None, store: str | None = None, listed: str | None = None
) -> GenerateConfig:
    """Read a configuration; ``store`` and ``listed`` (a manifest) replace what it says where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {"store": store} if store is not None else {}
    data |= {"manifest": listed, "prompts": []} if listed is not None else {}
    return validate(GenerateConfig, data, "", file)


def generator(config: GenerateConfig, file: str) -> Generator:
    """Build the generator; ConfigError for an unknown name or key."""
    name = config.generator.name
    if name not in SCORED:
        raise ConfigError(f"{file}: generator.name: {name!r} makes nothing of prompts{nearest(name, SCORED)}")
    for score, model in config.scores:
        if model is not None and score not in SCORED[name]:
            raise ConfigError(f"{file}: scores.{score}: what {name} makes has no such score; leave it out")
    return validate(registry.get(name), config.generator.settings, "generator", file)


def read(config: GenerateConfig, kind: type[Request], file: str) -> Prompts:
    """Return every request, checked; ConfigError, naming prompt and field, where one is wrong."""
    if unknown := [name for name in config.request if name not in keys(kind)]:
        raise ConfigError(f"{file}: unknown key 'request.{unknown[0]}'{nearest(unknown[0], keys(kind))}")
    pictures = _Pictures()
    rows: list[dict[str, Any]] = []
    for place, (where, origin, base, prompt) in enumerate(_given(config, kind, file)):
        given = {name: value for name, value in prompt.items() if value is not None}
        own = {name: value for name, value in given.items() if name not in CARRIED}
        values = {**config.request, **own}
        for name in (name for name in PICTURES if values.get(name) is not None and name in keys(kind)):
            values[name] = pictures.named(values[name], base if name in own else None, f"{origin}: {where}.{name}")
        plain = _checked(kind, values, where, origin)
        carried = {name: value for name, value in given.items() if name in CARRIED}
        carried |= {name: str(value) for name, value in carried.items() if name in manifest.TEXTS}
        rows += _seeded(config.seeds, plain, {"sample_id": f"prompt-{place + 1:03d}"} | carried)
    names = list(dict.fromkeys(name for row in rows for name in row))
    listed = config.manifest or f"{file}: prompts"
    try:
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise ConfigError(f"{listed}: {error}") from None
    return Prompts(manifest.checked(table, listed), pictures.files)


def _checked(kind: type[Request], values: dict[str, Any], where: str, file: str) -> dict[str, Any]:
    """Return the fields of a request as plain data, its pictures by their digests."""
    named = {name: values[name] for name in PICTURES if name in keys(kind) and values.get(name) is not None}
    shown = {name: np.zeros((8, 8, 3), np.uint8) for name in named}
    request = validate(kind, values | shown, where, file)
    return request.model_dump(mode="json", exclude_unset=True, exclude=set(named)) | named | {"seed": request.seed}


def _seeded(seeds: int, plain: dict[str, Any], carried: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Return the rows of a prompt's results; its video, which is looked at once, stands in the first."""
    first = carried["sample_id"]
    others = {}
    if "uri" in carried:  # an actor has another working directory
        carried, others = carried | {"uri": storage.absolute(carried["uri"])}, {"uri": None}
    for number in range(seeds):
        seed = {"seed": (plain["seed"] + number) % SEEDS}
        words = {name: plain[name] for name in READABLE if name in plain}
        row = carried | words | seed | {"prompt_id": first, "request": json.dumps(plain | seed, sort_keys=True)}
        yield row if number == 0 else row | others | {"sample_id": f"{first}-{number + 1}"}


def _given(
    config: GenerateConfig, kind: type[Request], file: str
) -> Iterable[tuple[str, str, str | None, dict[str, Any]]]:
    """Return for each prompt: what it is called in messages, the file it stands in, where its pictures are, itself."""
    if config.manifest is None:
        return ((f"prompts[{place}]", file, None, prompt) for place, prompt in enumerate(config.prompts))
    uri = config.manifest
    table = manifest.read(uri)
    known = [*keys(kind), *CARRIED]
    if unknown := [name for name in table.column_names if name not in known]:
        raise ConfigError(f"{uri}: unknown column {unknown[0]!r}{nearest(unknown[0], known)}")
    return ((f"row {number}", uri, storage.parent(uri), row) for number, row in enumerate(table.to_pylist(), 1))


class _Pictures:
    """The files of pictures, by the SHA-256 of what is in them: what a request names, wherever the file lies."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def named(self, uri: Any, base: str | None, where: str) -> str:
        """Return the digest of a picture's file; ConfigError where there is none."""
        if not isinstance(uri, str):
            raise ConfigError(f"{where}: is the path of a picture (given: {uri!r})")
        path = storage.absolute(uri if base is None else storage.anchored(uri, base))
        digest = _digest(path, where)
        self.files[digest] = path
        return digest


@functools.lru_cache(maxsize=1024)
def _digest(path: str, where: str) -> str:
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error}") from None
