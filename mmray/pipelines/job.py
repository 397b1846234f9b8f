"""What a configuration means: its extractors built, their weights found, their identities fixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmray import provenance
from mmray.config import Entry, keys, nearest, validate
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.extractors.base import Extractor
from mmray.models import weights
from mmray.specs import SAMPLINGS, Spec, TextSpec


@dataclass(frozen=True, slots=True)
class Task:
    """One extractor of a run: its name in the configuration, its id, and where its checkpoint is."""

    as_: str
    id: str
    extractor: Extractor
    path: str | None
    fingerprint: str | None

    @property
    def source(self) -> str:
        """Return the manifest column it reads."""
        return self.extractor.source

    @property
    def reads_text(self) -> bool:
        """Tell whether its source column holds texts, not media."""
        return any(isinstance(spec, TextSpec) for spec in self.extractor.specs)

    @property
    def licence(self) -> str | None:
        """Return the licence of its checkpoint, where the catalogue knows it."""
        field = self.extractor.checkpoint
        model = weights.find(getattr(self.extractor, field)) if field else None
        return model.licence if model else None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides its numbers, as plain data."""
        return identity(self.extractor, self.fingerprint)


def identity(extractor: Extractor, fingerprint: str | None) -> dict[str, Any]:
    """Return what decides an extractor's numbers: fields, code version and weights; nothing of where it runs."""
    return {
        "name": extractor.name,
        "version": extractor.version,
        "fields": extractor.model_dump(mode="json", exclude=set(extractor.execution)),
        "weights": fingerprint,
    }


def tasks(entries: Sequence[Entry], file: str, columns: Sequence[str]) -> list[Task]:
    """Build the extractors of a configuration; ``columns`` are those of the manifest."""
    built = [_task(entry, f"extractors[{place}]", file, columns) for place, entry in enumerate(entries)]
    for place, task in enumerate(built):
        for other in built[:place]:
            if other.id == task.id:
                raise ConfigError(f"{file}: extractors {other.as_!r} and {task.as_!r} are the same; leave one out")
    return built


def _task(entry: Entry, where: str, file: str, columns: Sequence[str]) -> Task:
    extractor = build(entry.name, entry.settings, where, file)
    if extractor.source not in columns:
        detail = nearest(extractor.source, columns)
        raise ConfigError(f"{file}: {where}.source: the manifest has no column {extractor.source!r}{detail}")
    path = fingerprint = None
    if extractor.checkpoint is not None:
        try:
            found = weights.resolve(getattr(extractor, extractor.checkpoint))
            path, fingerprint = str(found.path), found.fingerprint
            extractor = extractor.resolved(path)
        except ConfigError as error:
            raise ConfigError(f"{file}: {where}.{extractor.checkpoint}: {error}") from None
    number = provenance.fingerprint(identity(extractor, fingerprint))
    return Task(entry.as_, f"{extractor.name}-{number}", extractor, path, fingerprint)


def build(name: str, settings: Mapping[str, Any], where: str, file: str) -> Extractor:
    """Build one extractor from the flat keys of its entry."""
    try:
        kind = registry.get(name)
    except ConfigError as error:
        raise ConfigError(f"{file}: {where}.name: {error}") from None
    specs = {field: type(info.default) for field, info in kind.model_fields.items() if isinstance(info.default, Spec)}
    known = sorted({*keys(kind)} - set(specs) | {key for spec in specs.values() for key in keys(spec)})
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"{file}: unknown key '{where}.{unknown[0]}'{nearest(unknown[0], known)}")
    values = {key: value for key, value in settings.items() if key in kind.model_fields}
    if isinstance(values.get("pooling"), str):
        values["pooling"] = [values["pooling"]]
    for field, spec in specs.items():
        given = {key: value for key, value in settings.items() if key in spec.model_fields and key not in values}
        if given:
            values[field] = validate(spec, _over(kind.model_fields[field].default, given), where, file)
    extractor = validate(kind, values, where, file)
    if wrong := [pooling for pooling in extractor.pooling if pooling not in kind.poolings]:
        raise ConfigError(
            f"{file}: {where}.pooling: {name} has no pooling {wrong[0]!r}{nearest(wrong[0], kind.poolings)}"
        )
    return extractor


def _over(default: Spec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay given keys over a default spec; choosing one way of sampling takes back the default one."""
    values = default.model_dump(exclude_defaults=True)
    if set(given) & set(SAMPLINGS):
        values = {key: value for key, value in values.items() if key not in SAMPLINGS}
        if "fps" not in given:
            values.pop("before", None)
    return {**values, **given}
