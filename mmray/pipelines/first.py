"""``mmray init``: a first configuration, with comments, for what is in a folder. Starts no Ray and asks no network."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

from mmray import storage
from mmray.errors import ConfigError
from mmray.pipelines import doctor
from mmray.tables import manifest

FILE = "mmray.yaml"
KINDS = {"films": manifest.VIDEO, "sounds": manifest.AUDIO, "pictures": manifest.IMAGE}


class Offer(NamedTuple):
    """An extractor that is offered where something is that it reads: its entry, and what it gives."""

    name: str
    reads: frozenset[str]
    keys: str
    gives: str


FILMS, HEARD, SEEN = frozenset({"films"}), frozenset({"films", "sounds"}), frozenset({"films", "pictures"})
OFFERS = (
    Offer("descriptors", HEARD, "source: uri", "length, cuts, brightness, motion, loudness"),
    Offer("transnetv2", FILMS, "source: uri", "where shots end"),
    Offer("clip", SEEN, "source: uri", "what is seen, in one space with words: mmray search --text"),
    Offer("yolo_onnx", SEEN, "source: uri, fps: 2, pooling: [max, count]", "80 kinds of objects"),
    Offer("yamnet", HEARD, "source: uri, pooling: [mean, max]", "521 kinds of sounds"),
    Offer("clap", HEARD, "source: uri", "what is heard, in one space with words"),
    Offer("whisper", HEARD, "source: uri", "what is said"),
    Offer("sbert", frozenset({"texts"}), "source: text", "what texts mean"),
)


def run(folder: str) -> dict[str, Any]:
    """Write FOLDER/mmray.yaml; ConfigError where it is there already, or there is nothing that mmray reads."""
    target = storage.join(folder, FILE)
    if not storage.is_folder(folder):
        raise ConfigError(f"{folder}: there is no such folder")
    if storage.exists(target):
        raise ConfigError(f"{target} is there already; remove it to begin anew")
    uris = [entry.uri for entry in storage.files(folder)]
    kinds = [(uri, _kind(uri)) for uri in uris]
    found = {kind: count for kind, count in Counter(kind for _, kind in kinds).items() if kind}
    lists = [uri for uri in uris if uri.lower().endswith(manifest.LISTS)]
    if found:
        corpus = storage.join(folder, "corpus.parquet")
        folders = {storage.parent(uri) for uri, kind in kinds if kind}
        first, texts = _scan(folder, corpus, lists, len(folders) > 1)
    else:
        corpus, texts = _listed(folder, lists)
        first = ""
    if texts:
        found["texts"] = texts
    entries = _entries(found)
    storage.put(target, _text(target, found, first, corpus, entries).encode())
    waiting = {offer.name: mend for offer, mend in entries if mend}
    return {"config": target, "found": found, "manifest": first, "waiting": waiting}


def _kind(uri: str) -> str | None:
    extension = uri.rpartition(".")[2].lower()
    return next((kind for kind, known in KINDS.items() if extension in known.split()), None)


def _scan(folder: str, corpus: str, lists: Sequence[str], nested: bool) -> tuple[str, int]:
    """Return the command that makes the manifest of a folder of media, and how many of its samples have a text."""
    table, _ = manifest.gather([folder])
    words = ["mmray", "manifest", folder, "-o", corpus]
    labelled = False
    texts = 0
    for uri in lists:
        joined = _joined(table, uri)
        if joined:
            words += ["--join", uri, "--on", joined[0]]
            labelled = "label" in joined[1].column_names
            texts = _texts(joined[1])
            break
    return shlex.join(words + (["--label-from", "parent"] if nested and not labelled else [])), texts


def _joined(table: pa.Table, uri: str) -> tuple[str, pa.Table] | None:
    """Return the column of a list that names most of the samples, and the manifest with the list's columns."""
    try:
        columns = manifest.parsed(uri).column_names
    except ConfigError:
        return None
    for column in columns:
        try:
            joined, bare = manifest.joined(table, uri, column)
        except ConfigError:  # that column names no sample
            continue
        if bare * 2 <= table.num_rows:
            return column, joined
    return None


def _listed(folder: str, lists: Sequence[str]) -> tuple[str, int]:
    """Return the first list that is a manifest as it stands, and how many texts it has."""
    for uri in lists:
        try:
            table = manifest.read(uri)
        except ConfigError:
            continue
        if {"uri", "text"} & set(table.column_names):
            return uri, _texts(table)
    raise ConfigError(f"{folder}: no media found, and no list with the columns sample_id and uri or text")


def _texts(table: pa.Table) -> int:
    return int(table.num_rows - table["text"].null_count) if "text" in table.column_names else 0


def _entries(found: Mapping[str, int]) -> list[tuple[Offer, str]]:
    """Return what is offered, each with the command that it waits for."""
    offers = [(offer, doctor.mend(offer.name)) for offer in OFFERS if offer.reads & found.keys()]
    if all(mend for _, mend in offers):
        offers[0] = (offers[0][0], "")  # a run has an extractor; `extract` says what this one lacks
    return offers


def _text(config: str, found: Mapping[str, int], first: str, corpus: str, entries: Sequence[tuple[Offer, str]]) -> str:
    path, store = shlex.quote(config), storage.join(storage.parent(config) or ".", "store")
    pulls = [mend.removeprefix(doctor.PULL) for _, mend in entries if mend.startswith(doctor.PULL)]
    pull = f"{doctor.PULL}{' '.join(pulls)}     # then take the # away before their lines" if pulls else ""
    commands = [first, pull, f"mmray plan {path}", f"mmray extract {path}", f"mmray status {shlex.quote(store)}"]
    lines = [f"# {', '.join(f'{count} {kind}' for kind, count in found.items())}:"]
    lines += [f"#   {command}" for command in commands if command]
    lines += yaml.safe_dump({"manifest": corpus, "store": store}, allow_unicode=True, width=4096).splitlines()
    lines += [f"{'max_error_rate: 0.05':<72}# more failures than that: exit code 1", "extractors:"]
    for offer, mend in entries:
        entry = f"  {'# ' if mend else ''}- {{name: {offer.name}, {offer.keys}}}"
        lines.append(f"{entry:<72}# {offer.gives}{f'; {_short(mend)}' if mend else ''}")
    return "\n".join(lines) + "\n"


def _short(mend: str) -> str:
    return f"weights: {mend.removeprefix(doctor.PULL)}" if mend.startswith(doctor.PULL) else mend
