"""What a configuration means: its extractors built, their weights found, their identities fixed."""

import hashlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmray import provenance
from mmray.config import Entry, keys, nearest, validate
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.extractors.base import Extractor
from mmray.generation.base import Generator
from mmray.models import catalogue, weights
from mmray.pipelines import derived
from mmray.specs import SAMPLINGS, Spec, TextSpec


@dataclass(frozen=True, slots=True)
class Task:
    """One extractor of a run: its name in the configuration, its id, and where its checkpoint is."""

    as_: str
    id: str
    extractor: Extractor
    path: str | None
    fingerprint: str | None  # of its checkpoints together
    identity: Mapping[str, Any]  # what decides its numbers, as plain data
    source: str  # the column of the manifest it reads, or ID.text, ID.objects
    origin: str | None = None  # the id of the extractor it reads
    wave: int = 0  # those it reads run in an earlier one

    @property
    def reads_text(self) -> bool:
        """Tell whether its source column holds texts, not media."""
        return any(isinstance(spec, TextSpec) for spec in self.extractor.specs)

    @property
    def licence(self) -> str | None:
        """Return the licence of its checkpoint, where the catalogue knows it."""
        field = self.extractor.checkpoint
        model = catalogue.find(getattr(self.extractor, field)) if field else None
        return model.licence if model else None

    @property
    def whole_sample(self) -> bool:
        """Tell whether it needs a sample as one segment."""
        return self.extractor.whole_sample


def identity(extractor: Extractor, source: str, found: Mapping[str, weights.Weights]) -> dict[str, Any]:
    """Return what decides an extractor's numbers: fields, code version and weights; nothing of where it runs."""
    digests = {field: one.identity for field, one in found.items()}
    unread = {name for name, value in extractor if isinstance(value, Spec) and value not in extractor.specs}
    without = {*extractor.execution, *extractor.companions, *unread}
    return {
        "name": extractor.name,
        "version": extractor.version,
        "fields": {**extractor.model_dump(mode="json", exclude=without), "source": source},
        "weights": digests if extractor.companions else next(iter(digests.values()), None),
    }


def tasks(entries: Sequence[Entry], file: str, columns: Sequence[str]) -> list[Task]:
    """Build the extractors of a configuration; ``columns`` are those of the manifest."""
    where = {entry.as_: f"extractors[{place}]" for place, entry in enumerate(entries)}
    extractors = {one.as_: build(one.name, one.settings, where[one.as_], file) for one in entries}
    read = {name: _reference(extractor, extractors) for name, extractor in extractors.items()}
    try:
        order = derived.order(read)
    except ValueError as circle:
        first = str(circle).partition(" ")[0]
        raise ConfigError(f"{file}: {where[first]}.source: sources run in a circle: {circle}") from None
    built: dict[str, Task] = {}
    for name in order:
        task = _task(name, extractors[name], built.get(read[name]), where[name], file, columns, extractors)
        for other in built.values():
            if other.id == task.id:
                raise ConfigError(f"{file}: extractors {other.as_!r} and {task.as_!r} are the same; leave one out")
        built[name] = task
    return [built[entry.as_] for entry in entries]


def _reference(extractor: Extractor, names: Collection[str]) -> str:
    """Return the entry that a source such as ``whisper.text`` names, "" where it names a column."""
    name, dot, _ = extractor.source.rpartition(".")
    return name if dot and name in names else ""


def _task(
    name: str,
    extractor: Extractor,
    origin: Task | None,
    where: str,
    file: str,
    columns: Sequence[str],
    entries: Collection[str],
) -> Task:
    try:
        source = _column(extractor, columns, entries) if origin is None else _output(extractor, origin)
    except ConfigError as error:
        raise ConfigError(f"{file}: {where}.source: {error}") from None
    installed(extractor, f"{file}: {where}.name")
    path = None
    found: dict[str, weights.Weights] = {}
    for field in extractor.checkpoints:
        try:
            found[field] = weights.resolve(getattr(extractor, field), extractor.formats_of(field))
            if field == extractor.checkpoint:
                path = str(found[field].path)
                extractor = extractor.resolved(path)
        except ConfigError as error:
            raise ConfigError(f"{file}: {where}.{field}: {error}") from None
    about = identity(extractor, source, found)
    return Task(
        as_=name,
        id=f"{extractor.name}-{provenance.fingerprint(about)}",
        extractor=extractor,
        path=path,
        fingerprint=together(list(found.values())),
        identity=about,
        source=source,
        origin=origin.id if origin else None,
        wave=origin.wave + 1 if origin else 0,
    )


def installed(needs: Extractor | Generator, where: str) -> None:
    """Raise ConfigError where the extra that an extractor or a generator needs is not installed."""
    if needs.extra is not None and importlib.util.find_spec(needs.extra[1]) is None:
        needed = f"{needs.name} needs the module {needs.extra[1]}: pip install 'mmray[{needs.extra[0]}]'"
        raise ConfigError(f"{where}: {needed}")


def checkpoints(extractor: Extractor) -> dict[str, weights.Weights]:
    """Find the checkpoints of an extractor on this machine, by field, the main one first; ConfigError as resolve."""
    fields = extractor.checkpoints
    return {field: weights.resolve(getattr(extractor, field), extractor.formats_of(field)) for field in fields}


def together(found: Sequence[weights.Weights]) -> str | None:
    """Return the fingerprint of the checkpoints of one extractor; random if any of them is, None without any."""
    random = next((one.fingerprint for one in found if one.random), None)
    if random or len(found) < 2:
        return random or (found[0].fingerprint if found else None)
    return hashlib.sha256("\n".join(one.fingerprint for one in found).encode()).hexdigest()


def _column(extractor: Extractor, columns: Sequence[str], entries: Collection[str]) -> str:
    reads_text = any(isinstance(spec, TextSpec) for spec in extractor.specs)
    if extractor.source == ("uri" if reads_text else "text"):
        raise ConfigError(
            f"{extractor.name} reads {'texts, and uri names media' if reads_text else 'media, not texts'}"
        )
    if extractor.source in entries and extractor.source not in columns:
        raise ConfigError(
            f"to read what the entry {extractor.source!r} gives, write {extractor.source}.text or .objects"
        )
    if extractor.source not in columns:
        name, dot, _ = extractor.source.rpartition(".")
        also = f"; and no entry of this configuration is called {name!r}" if dot else ""
        raise ConfigError(f"the manifest has no column {extractor.source!r}{nearest(extractor.source, columns)}{also}")
    return extractor.source


def _output(extractor: Extractor, origin: Task) -> str:
    """Return the full name of what ``origin`` offers and the extractor's source asks for."""
    asked = extractor.source.rpartition(".")[2]
    offered = derived.OUTPUTS.get(origin.extractor.kind)
    if offered is None:
        raise ConfigError(f"{origin.as_} ({origin.extractor.name}) gives no text that another extractor could read")
    if asked != offered:
        raise ConfigError(f"{origin.as_} gives no {asked!r}; write {origin.as_}.{offered}")
    if any(not isinstance(spec, TextSpec) for spec in extractor.specs):
        mend = " (set modality: text)" if "modality" in type(extractor).model_fields else ""
        raise ConfigError(f"{extractor.source} is text, and {extractor.name} does not read text{mend}")
    return f"{origin.id}.{offered}"


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
            if not kind.gather and (context := [key for key in ("before", "after") if given.get(key)]):
                raise ConfigError(f"{file}: {where}.{context[0]}: {name} looks at each picture alone, without context")
    extractor = validate(kind, values, where, file)
    for field, spec in specs.items():
        unread = [key for key in settings if key in spec.model_fields and key not in kind.model_fields]
        if unread and getattr(extractor, field) not in extractor.specs:
            raise ConfigError(f"{file}: {where}.{unread[0]}: {name} as it is set here does not look at {field}")
    if wrong := [pooling for pooling in extractor.pooling if pooling not in kind.poolings]:
        detail = nearest(wrong[0], kind.poolings) if kind.poolings else "; its rows are texts, leave pooling out"
        raise ConfigError(f"{file}: {where}.pooling: {name} has no pooling {wrong[0]!r}{detail}")
    return extractor


def _over(default: Spec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay given keys over a default spec; choosing one way of sampling takes back the default one."""
    values = default.model_dump(exclude_defaults=True)
    if set(given) & set(SAMPLINGS):
        taken_back = SAMPLINGS if "fps" in given else (*SAMPLINGS, "before", "after")
        values = {key: value for key, value in values.items() if key not in taken_back}
    return {**values, **given}
