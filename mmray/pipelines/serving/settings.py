"""The configuration of ``mmray serve``, complete and checked before Ray starts."""

import hashlib
import os
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmray import storage
from mmray.config import Entry, nearest, read_yaml, validate, with_settings
from mmray.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
RAY_PORTS = range(10_002, 20_000)  # of Ray's workers: a server there would meet one of them sooner or later
SHORTEST_KEY = 16


class Part(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(Part):
    """How many processes hold a model; ``min: 0`` loads it for the first request, and drops it when nobody asks."""

    min: int = Field(1, ge=0, le=1000)
    max: int = Field(1, ge=1, le=1000)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min must not be above max")
        return self


class Limits(Part):
    """The most that one request may ask for.

    ``length_s``: of a sound to make; ``media_s``, ``media_pixels``: of an upload; ``seconds``: how long a client may
    take to send a body, and how long it is then kept waiting.
    """

    prompt_chars: int = Field(2000, ge=1)
    side_px: int = Field(1024, ge=64, le=8192)
    steps: int = Field(100, ge=1, le=1000)
    n: int = Field(8, ge=1, le=64)
    length_s: float = Field(30, gt=0, le=120)
    media_s: float = Field(600, gt=0)
    media_pixels: int = Field(25_000_000, ge=64 * 64, le=64_000_000)
    texts: int = Field(256, ge=1, le=2048)
    upload_bytes: int = Field(25 * 2**20, ge=1024, le=2**31)
    seconds: float = Field(300, gt=0)


class Jobs(Part):
    """Work that nobody waits for: so many at once, and so many waiting; finished ones are kept for a while."""

    running: int = Field(2, ge=1, le=1000)
    waiting: int = Field(32, ge=0, le=10_000)
    kept: int = Field(200, ge=1, le=100_000)
    kept_s: float = Field(3600, gt=0)


class Processes(Part):
    """The processes of a model or a pool; ``cpus``, ``gpus``: reserved for each (0 CPUs: it shares what there is)."""

    replicas: Replicas = Replicas()
    gpus: float = Field(0, ge=0, le=16)
    cpus: float = Field(0, ge=0, le=256)


class Pool(Processes):
    """Models that share processes: loaded when they are first asked, never more at once than ``memory_gb`` hold.

    What was asked longest ago goes first. A model takes the size of its checkpoint.
    """

    memory_gb: float = Field(8, gt=0)


class ModelEntry(Entry):
    """One entry of ``models``; the keys that are not here are the generator's or the extractor's own.

    ``pool``: of the configuration's ``pools``, instead of processes of its own. ``wait_ms``: how long a batch waits for
    more requests (0: while one batch works the next gathers anyway). ``requests``: how many share a batch at most (0:
    as many as ``batch_size``).
    """

    pool: str | None = None
    replicas: Replicas = Replicas()
    gpus: float = Field(0, ge=0, le=16)
    cpus: float = Field(0, ge=0, le=256)
    wait_ms: float = Field(0, ge=0, le=10_000)
    requests: int = Field(0, ge=0, le=1024)


class ServeConfig(Part):
    """What ``mmray serve`` reads.

    ``queue``: requests that may wait for a model; more are refused. ``keys_env``, ``keys_file``: where the keys stand
    that clients must show, one a line; they never stand here. ``rate_per_minute``: requests of one key (of all, where
    there are no keys). ``allow_non_commercial``: serve models whose licence forbids commercial use. ``store`` is
    searched; ``trained`` are folders of fusion networks (OUT/networks/fold-K/NAME) over extractors of ``store``.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    models: tuple[ModelEntry, ...] = ()
    pools: dict[str, Pool] = {}
    store: str | None = None
    trained: tuple[str, ...] = ()
    limits: Limits = Limits()
    jobs: Jobs = Jobs()
    queue: int = Field(64, ge=1, le=100_000)
    rate_per_minute: int | None = Field(None, ge=1)
    keys_env: str | None = None
    keys_file: str | None = None
    allow_non_commercial: bool = False
    drain_s: float = Field(30, ge=0, le=3600)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.as_ for entry in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}; give one of them another name with `as: ...`")
        for entry in self.models:
            if entry.pool is not None and entry.pool not in self.pools:
                raise ValueError(f"{entry.as_}: there is no pool {entry.pool!r}{nearest(entry.pool, self.pools)}")
            if entry.pool is not None and {"replicas", "gpus", "cpus"} & entry.model_fields_set:
                raise ValueError(f"{entry.as_}: replicas, gpus and cpus are those of its pool; set them there")
        if taken := sorted({*self.pools} & {*names}):
            raise ValueError(f"{taken[0]!r} is a model and a pool; give one of them another name")
        if not self.models and self.store is None:
            raise ValueError("there is nothing to serve: give models, or a store to search")
        if self.trained and self.store is None:
            raise ValueError("trained: give the store too, whose provenance says how to make what the networks read")
        if self.port in RAY_PORTS:
            raise ValueError(f"port: {self.port} is among those of Ray's workers (10002 to 19999); take another")
        if self.keys_env and self.keys_file:
            raise ValueError("keys_env and keys_file: give one of them")
        return self

    @property
    def open_to_all(self) -> bool:
        """Tell whether others than this machine may ask without a key."""
        return self.host not in LOOPBACK and not (self.keys_env or self.keys_file)


def load_serve(file: str, settings: list[str] | None = None) -> ServeConfig:
    """Read the configuration of an endpoint."""
    return validate(ServeConfig, with_settings(read_yaml(file), settings or []), "", file)


def key_digests(config: ServeConfig) -> tuple[bytes, ...]:
    """Return the SHA-256 of each key, none where no keys are wanted; ConfigError where they cannot be read.

    Only digests travel: keys themselves would show in Ray's state and logs.
    """
    if config.keys_env:
        text = os.environ.get(config.keys_env, "")
        where = f"keys_env: the environment variable {config.keys_env}"
    elif config.keys_file:
        where = f"keys_file: {config.keys_file}"
        try:
            text = storage.read_bytes(config.keys_file).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} cannot be read: {error}") from None
    else:
        return ()
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise ConfigError(f"{where} holds no key")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise ConfigError(f"{where} holds a key of less than {SHORTEST_KEY} characters; take `openssl rand -hex 24`")
    return tuple(digest(key) for key in keys)


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()
