"""A run's configuration: one YAML file -> frozen models, complete before anything starts.

Keys are fields, defaults live here only. A wrong key or value is a ConfigError that names the file, the key and,
where one is near, the right key.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmray import storage
from mmray.errors import ConfigError

GRID_S = 0.96  # what every window grid of the sound models divides: 0.48 s and 0.96 s
LISTED = 25  # words of a list that one still reads
Model = TypeVar("Model", bound=BaseModel)


class Entry(BaseModel):
    """One entry of ``extractors``: which one, under what name; its other keys are the extractor's own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    as_: str = Field("", alias="as")

    @model_validator(mode="before")
    @classmethod
    def _default_as(cls, data: Any) -> Any:
        return {**data, "as": data.get("as", data["name"])} if isinstance(data, dict) and "name" in data else data

    @field_validator("as_")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[\w-]+", value):
            raise ValueError("is made of letters, digits, - and _")
        return value

    @property
    def settings(self) -> dict[str, Any]:
        """Return the keys that belong to the extractor."""
        return dict(self.model_extra or {})


class Resources(BaseModel):
    """How wide a run is; never changes its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus_per_actor: float | None = Field(None, ge=0, le=16)
    cpus_per_actor: float = Field(1, gt=0, le=256)
    actors: Annotated[tuple[int, int], Field(description="least and most")] | None = None
    decode_threads: int | None = Field(None, ge=1, le=64)

    @field_validator("actors", mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("actors")
    @classmethod
    def _in_order(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1 <= value[0] <= value[1]:
            raise ValueError("give [least, most] with 1 <= least <= most")
        return value


class ExtractConfig(BaseModel):
    """What ``mmray plan`` and ``mmray extract`` read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str
    store: str
    max_error_rate: float = Field(0.05, ge=0, le=1)
    segment_s: float = Field(288, gt=0)
    max_attempts: int = Field(3, ge=1, le=100)
    timeout_s: float = Field(600, gt=0)
    extractors: tuple[Entry, ...] = Field(min_length=1)
    pools: tuple[tuple[str, ...], ...] = ()
    resources: Resources = Resources()

    @field_validator("segment_s")
    @classmethod
    def _on_the_grid(cls, value: float) -> float:
        if abs(value / GRID_S - round(value / GRID_S)) > 1e-6 or value < GRID_S / 2:
            raise ValueError(
                f"must be a multiple of {GRID_S} s, for example {max(1, round(value / GRID_S)) * GRID_S:g}"
            )
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [entry.as_ for entry in self.extractors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two extractors are called {name!r}; give one of them another name with `as: ...`")
        pooled = [name for pool in self.pools for name in pool]
        for name in pooled:
            if name not in names:
                raise ValueError(f"pools: no extractor is called {name!r}{nearest(name, names)}")
            if pooled.count(name) > 1:
                raise ValueError(f"pools: {name!r} stands in two pools")
        if missing := [name for name in names if self.pools and name not in pooled]:
            raise ValueError(f"pools: {', '.join(missing)} in no pool")
        return self


def nearest(word: str, words: Any) -> str:
    """Return ``; did you mean 'x'?`` for the most similar of the words, or their list where it is not long."""
    words = [str(one) for one in words]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close or len(words) > LISTED:
        return f"; did you mean {close[0]!r}?" if close else ""
    return f" (known: {', '.join(sorted(words))})"


def validate(model: type[Model], data: Any, where: str, file: str) -> Model:
    """Build a model from plain data; ``where`` is the key the data stands under, ``file`` the file it came from."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        places = [problem["loc"] for problem in problems]
        # Entries that are wrong are not counted: a list of them would be told to be too short as well.
        told = [
            problem
            for problem in problems
            if problem["type"] != "too_short" or not any(_below(problem["loc"], place) for place in places)
        ]
        lines = [_explained(model, problem, where) for problem in told]
        raise ConfigError(f"{file}: " + f"\n{file}: ".join(lines)) from None


def _below(upper: tuple[Any, ...], place: tuple[Any, ...]) -> bool:
    return len(place) > len(upper) and place[: len(upper)] == upper


def _explained(model: type[BaseModel], problem: Any, where: str) -> str:
    path = _dotted(where, problem["loc"])
    if problem["type"] == "extra_forbidden":
        owner = _owner(model, problem["loc"][:-1])
        return f"unknown key {path!r}{nearest(str(problem['loc'][-1]), keys(owner))}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | BaseModel) else f" (given: {problem['input']!r})"
    return f"{path}: {message}{given}" if path else f"{message}"


def _dotted(where: str, location: tuple[Any, ...]) -> str:
    path = where
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path


def keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model as they stand in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _owner(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = getattr(field, "annotation", None)
        inner = next((one for one in get_args(inner) if isinstance(one, type) and issubclass(one, BaseModel)), inner)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return model


def read_yaml(file: str) -> dict[str, Any]:
    """Read a YAML file (a path or URL) that holds one mapping."""
    try:
        data = yaml.safe_load(storage.read_bytes(file).decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file{_beside(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: must be a mapping of keys to values")
    return data


def _beside(file: str) -> str:
    folder = Path(file).parent
    names = [path.name for path in folder.glob("*.y*ml")] if not storage.is_remote(file) and folder.is_dir() else []
    return f" ({folder} has {', '.join(sorted(names))})" if names else ""


def with_settings(data: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Apply ``--set a.b=VALUE``: dotted paths (list places as numbers, extractors also by name) and YAML values."""
    for setting in settings:
        path, value = assigned(setting, "--set")
        data = _set(data, path.split("."), value, setting)
    return data


def assigned(setting: str, option: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, where VALUE is YAML, as an option gives it."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} {setting}: write it as key=value")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{option} {setting}: {text!r} is not a YAML value") from None


def _set(node: Any, path: list[str], value: Any, setting: str) -> Any:
    if not path:
        return value
    if isinstance(node, list):
        place = _place(node, path[0], setting)
        return [_set(item, path[1:], value, setting) if i == place else item for i, item in enumerate(node)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {setting}: there is nothing below {path[0]!r}")
    return {**node, path[0]: _set(node.get(path[0], {} if len(path) > 1 else None), path[1:], value, setting)}


def _place(node: list[Any], key: str, setting: str) -> int:
    names = [
        item.get("as", item.get("name", item.get("extractor"))) if isinstance(item, dict) else None for item in node
    ]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(node):
        return int(key)
    raise ConfigError(f"--set {setting}: no entry {key!r}{nearest(key, [n for n in names if n])}")


def load_extract(file: str, settings: list[str] | None = None, **overrides: str | None) -> ExtractConfig:
    """Read the configuration of an extraction; ``overrides`` (manifest, store) replace keys where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {key: value for key, value in overrides.items() if value is not None}
    return validate(ExtractConfig, data, "", file)
