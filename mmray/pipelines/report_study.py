"""What a report says of a study, gathered from its folder; its store is asked for pictures and vectors only."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmray import storage
from mmray.config import validate
from mmray.errors import ConfigError
from mmray.fusion import leaderboard
from mmray.fusion.cells import Cell
from mmray.fusion.config import StudyConfig
from mmray.pipelines import projection, report_store, study
from mmray.pipelines.projection import Projection
from mmray.report.cards import Sample
from mmray.report.embedding_map import EmbeddingMap
from mmray.report.study import StudyReport
from mmray.tables import features
from mmray.tables.store import Store, open_store

log = logging.getLogger(__name__)

MOST_SHOWN = 48  # samples that are answered wrongly
BASELINE = "majority"  # answers every sample alike: it says nothing about a sample

Record = dict[str, Any]


class Mistaken(NamedTuple):
    """A sample that cells answered wrongly: ``wrong`` of ``cells`` times, and what it was taken for."""

    sample_id: str
    true: str
    wrong: int
    cells: int
    taken_for: Counter[str]


def gathered(out: Store, page: str, kind: Projection) -> StudyReport:
    """Read everything that the page, which will stand at ``page``, says of a study."""
    account, about = out.read_json("study.json") or {}, out.read_json("provenance.json") or {}
    if "cells" not in about:
        raise ConfigError(f"{out.uri}: its provenance.json names no cells; run `mmray study` again: what is done stays")
    config = validate(StudyConfig, about["asked"], "", out.path("provenance.json"))
    records: dict[Cell, Record] = {}
    tried: dict[str, dict[str, Mistaken]] = {}
    for cell, record in _records(out, about["cells"]):
        if BASELINE not in cell.classifiers and "answers" in record:
            _count(tried.setdefault(cell.labels, {}), record.pop("answers"))
        records[cell] = record
    rows, confusions = leaderboard.build(config, records)
    worst = {name: _worst(own) for name, own in tried.items()}
    notes = list(account["notes"])
    store = _store(str(about["store"]), notes)
    return StudyReport(
        title=storage.absolute(out.uri).rpartition("/")[2],
        account={**account, "notes": notes, "leaderboard": rows},
        confusions=confusions,
        splits=study.class_counts(records),
        worst={name: _cards(own, store, storage.parent(page)) for name, own in worst.items()},
        tested={name: len(own) for name, own in tried.items()},
        wrong={name: sum(one.wrong > 0 for one in own.values()) for name, own in tried.items()},
        maps=_maps(store, config, rows, tried, kind) if store else [],
    )


def _records(out: Store, names: Sequence[str]) -> Iterator[tuple[Cell, Record]]:
    """Yield the cells of the study as it was run last, one at a time: their answers may be many."""
    for name in names:
        record = study.read_cell(out, name)
        if record is None:
            continue
        about = record.pop("cell")
        about |= {key: tuple(about[key]) for key in ("embeddings", "classifiers")}
        yield Cell(**about), record


def _count(tried: dict[str, Mistaken], answers: Mapping[str, Sequence[str]]) -> None:
    """Add the answers of a cell to what is known of each sample."""
    for sample, true, answer in zip(answers["ids"], answers["true"], answers["classes"], strict=True):
        before = tried.get(sample) or Mistaken(sample, true, 0, 0, Counter())
        if wrong := answer != true:
            before.taken_for[answer] += 1
        tried[sample] = before._replace(wrong=before.wrong + wrong, cells=before.cells + 1)


def _worst(tried: Mapping[str, Mistaken]) -> list[Mistaken]:
    """Return the samples that the largest share of the cells answers wrongly."""
    wrong = [one for one in tried.values() if one.wrong]
    return sorted(wrong, key=lambda one: (-one.wrong / one.cells, -one.wrong, one.sample_id))[:MOST_SHOWN]


def _store(uri: str, notes: list[str]) -> Store | None:
    try:
        return open_store(uri)
    except ConfigError as error:
        log.warning("no thumbnails and no map: %s", error)
        notes.append(f"The store is not where it was, so there are no thumbnails and no map: {error}")
        return None


def _cards(worst: Sequence[Mistaken], store: Store | None, folder: str) -> list[Sample]:
    """Return the samples with what they are, how often they were answered wrongly and what they were taken for."""
    notes = {}
    for one in worst:
        taken = ", ".join(f"{name} ({count})" for name, count in one.taken_for.most_common(3))
        notes[one.sample_id] = (f"is {one.true}", f"wrong in {one.wrong} of {one.cells} cells", f"taken for {taken}")
    manifest = store.read("manifest.parquet") if store else None
    if manifest is None:
        return [Sample(one.sample_id, notes[one.sample_id]) for one in worst]
    return report_store.shown([one.sample_id for one in worst], notes, manifest, folder)


def _maps(
    store: Store, config: StudyConfig, rows: Sequence[Record], tried: Mapping[str, Mapping[str, Mistaken]],
    kind: Projection,
) -> list[EmbeddingMap]:  # fmt: skip
    """Return a map of each embedding of the best row, coloured by its labels."""
    if not rows or rows[0]["accuracy"] is None:
        return []
    best = rows[0]
    labels = {sample: one.true for sample, one in tried.get(best["labels"], {}).items()}
    maps = []
    for one in config.embeddings:
        if one.as_ not in best["embeddings"].split(" + ") or one.vectoriser:
            continue
        number = features.extractor_id(store, one.extractor)
        order = projection.order_of(sorted(labels))
        scaled = (store.read_json("provenance", f"{number}.json") or {}).get("kind") == "descriptors"
        found = projection.mapped(store, f"{one.as_} ({number}), {one.pooling}", number, one.pooling, kind, order,
                                  labels, scaled)  # fmt: skip
        maps += [found] if found else []
    return maps
