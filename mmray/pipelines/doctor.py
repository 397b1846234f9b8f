"""What this machine has and lacks, and which extractors and generators run on it. Asks no network, starts no Ray."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmray import config, storage
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.extractors.base import Extractor
from mmray.generation import registry as generators
from mmray.models import catalogue, digest, weights
from mmray.pipelines import job, machine

PULL = "mmray models pull "
SLOW_ITEMS_PER_S = 1.0  # below it, a core alone is no fun


def run(file: str | None = None) -> dict[str, Any]:
    """Return the checks, and a row for each extractor: those of the configuration ``file``, or all with their defaults,
    and then the generators too.

    ``ok`` tells that the core works; weights that are not here are no error. ConfigError for a wrong configuration.
    """
    entries = _configured(file) if file else None
    checks, devices = machine.checks()
    wrong = {check["name"] for check in checks if not check["ok"]}
    if entries is not None:
        rows = [_row(name, type(one), _named(one), wrong, bool(devices), one) for name, one in entries.items()]
        return {"ok": not wrong, "checks": checks, "extractors": rows, "generators": []}
    rows = [_default(name, wrong, bool(devices)) for name in registry.names()]
    made = [_generator(name, wrong) for name in generators.GENERATORS]
    return {"ok": not wrong, "checks": checks, "extractors": rows, "generators": made}


def mend(name: str) -> str:
    """Return what brings an extractor with its defaults to work on this machine; nothing where it does."""
    row = _default(name, set(), True)
    return "" if row["runs"] else str(row["mend"])


def _configured(file: str) -> dict[str, Extractor]:
    entries = config.load_extract(file).extractors
    return {
        entry.as_: job.build(entry.name, entry.settings, f"extractors[{place}]", file)
        for place, entry in enumerate(entries)
    }


def _default(name: str, wrong: set[str], gpu: bool) -> dict[str, Any]:
    try:
        kind = registry.get(name)
    except (ConfigError, ImportError) as error:  # a third party's that does not import
        row = {"name": name, "runs": False, "checkpoint": None, "why": str(error)}
        return row | {"mend": "mend or uninstall its package", "licence": None, "extra": None}
    return _row(name, kind, {field: kind.model_fields[field].default for field in _fields(kind)}, wrong, gpu)


def _generator(name: str, wrong: set[str]) -> dict[str, Any]:
    """Return the row of a generator with its defaults."""
    kind = generators.get(name)
    wanted = [kind.model_fields[field].default for field in kind.checkpoints]
    libraries = {"torch"} if kind.extra else {"torch", "transformers"}
    problems = _broken(libraries & wrong) + _uninstalled(kind.extra)
    problems += [problem for model in wanted if (problem := _missing(model, frozenset()))]
    return _told_row(name, wanted, problems, _random_ones(wanted), kind.extra)


def _fields(kind: type[Extractor]) -> list[str]:
    """Return the fields that name checkpoints."""
    return [kind.checkpoint, *kind.companions] if kind.checkpoint else list(kind.companions)


def _named(extractor: Extractor) -> dict[str, str | None]:
    return {field: getattr(extractor, field) for field in _fields(type(extractor))}


def _row(
    name: str,
    kind: type[Extractor],
    named: Mapping[str, str | None],
    wrong: set[str],
    gpu: bool,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    wanted = [one for one in named.values() if isinstance(one, str)]
    problems = _problems(kind, wanted, wrong)
    if not problems and extractor is not None and (unfit := _unfit(extractor, wanted)):
        problems = [unfit]
    return _told_row(name, wanted, problems, _remarks(kind, wanted, gpu), kind.extra)


def _told_row(
    name: str, wanted: Sequence[str], problems: Sequence[tuple[str, str]], remarks: str, extra: tuple[str, str] | None
) -> dict[str, Any]:
    return {
        "name": name,
        "runs": not problems,
        "checkpoint": ", ".join(wanted) or None,
        "why": "; ".join(why for why, _ in problems) if problems else remarks,
        "mend": _together([mend for _, mend in problems if mend]),
        "licence": ", ".join(dict.fromkeys(filter(None, map(_licence, wanted)))) or None,
        "extra": extra and extra[0],
    }


def _problems(kind: type[Extractor], wanted: Sequence[str], wrong: set[str]) -> list[tuple[str, str]]:
    """Return what keeps an extractor from running with these checkpoints, each with its mend."""
    found = _broken({_library(kind, name) for name in wanted} & wrong) + _uninstalled(kind.extra)
    return found + [problem for name in wanted if (problem := _missing(name, kind.formats))]


def _broken(libraries: set[str]) -> list[tuple[str, str]]:
    return [(f"{library} does not work", f"mend {library}, above") for library in sorted(libraries)]


def _uninstalled(extra: tuple[str, str] | None) -> list[tuple[str, str]]:
    if extra is None or importlib.util.find_spec(extra[1].partition(".")[0]) is not None:
        return []
    return [(f"{extra[1]} is not installed", f"pip install 'mmray[{extra[0]}]'")]


def _remarks(kind: type[Extractor], wanted: Sequence[str], gpu: bool) -> str:
    """Return what to know of an extractor that does run."""
    found = list(filter(None, [_random_ones(wanted)]))
    if not gpu and kind.cpu_items_per_s < SLOW_ITEMS_PER_S:
        found.append(f"slow without a GPU: about {kind.cpu_items_per_s:g} items a second on a core")
    return "; ".join(found)


def _random_ones(wanted: Sequence[str]) -> str:
    return "random weights: its numbers mean nothing" if any(map(_random, wanted)) else ""


def _library(kind: type[Extractor], name: str) -> str:
    """Return the library that reads a checkpoint: onnxruntime an ONNX file, transformers a folder, torch the others."""
    model = catalogue.find(name)
    if (model.file if model else name).endswith(".onnx"):
        return "onnxruntime"
    return "transformers" if kind.checkpoint == "model" else "torch"


def _missing(name: str, formats: frozenset[str]) -> tuple[str, str] | None:
    """Return what is wrong with a checkpoint and the mend; None where it is here and whole."""
    model = catalogue.find(name)
    if model is None and storage.is_remote(name):
        return None  # a run fetches it; looking would ask the network
    try:
        if weights.locate(name, formats) is None:
            size = f" ({max(1, model.size_bytes // 10**6)} MB)" if model and model.size_bytes else ""
            if catalogue.named(name) is None:
                return "not here", f"{name}: no such file; give the path of a copy"
            return f"not here{size}", model.command if model else f"{PULL}{name}"
        weights.whole(name, formats)
    except (ConfigError, ImportError, OSError) as error:
        why, mend = _told(error)
        return why, f"remove it, then: {model.command}" if model else mend
    return None


def _told(error: Exception) -> tuple[str, str]:
    """Return what an error says is wrong and what it says to do, which stands behind its first semicolon."""
    why, _, mend = str(error).partition("; ")
    return why, mend or "give another checkpoint"


def _unfit(extractor: Extractor, names: Sequence[str]) -> tuple[str, str] | None:
    """Say why an extractor does not take the checkpoint it was given, as far as a cheap look at it can tell."""
    if not names or storage.is_remote(names[0]):
        return None
    try:
        extractor.resolved(str(weights.whole(names[0], extractor.formats)))
    except ConfigError as error:
        return _told(error)
    return None


def _random(name: str) -> bool:
    model = catalogue.find(name)
    if model is None and storage.is_remote(name):
        return False
    place = weights.locate(name) or Path(name)
    return ((place if place.is_dir() else place.parent) / digest.MARKER).is_file()


def _licence(name: str) -> str | None:
    model = catalogue.find(name)
    return None if model is None else model.licence + (" (non-commercial)" if model.non_commercial else "")


def _together(mends: list[str]) -> str:
    """Join mends; several models take one pull."""
    names = [mend.removeprefix(PULL) for mend in mends if mend.startswith(PULL)]
    others = [mend for mend in dict.fromkeys(mends) if not mend.startswith(PULL)]
    return "; ".join([*others, *([PULL + " ".join(names)] if names else [])])
