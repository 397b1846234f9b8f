"""A query becomes a vector: by the very extractor that made a partition, through the code of the batch job."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from mmray.errors import ConfigError, SampleError
from mmray.extractors import registry
from mmray.extractors.base import ExtractFn, Extractor, Kind
from mmray.media.probe import probe
from mmray.pipelines.adopt_rows import IMPORTED
from mmray.pipelines.batch import Batch
from mmray.pipelines.feed import Feed, Segment
from mmray.pipelines.job import Task, checkpoints, together
from mmray.pipelines.worker import loaded, schema
from mmray.specs import AudioSpec, FrameSpec, TextSpec
from mmray.tables import features, windows
from mmray.tables.features import Matrix

log = logging.getLogger(__name__)

Means = Literal["text", "image", "audio", "sample"]
MEANS: tuple[Means, ...] = get_args(Means)
SPACES = frozenset({Kind.EMBEDDING, Kind.TOKENS, Kind.TAGS})  # the kinds of rows with an embedding
_LOADED: dict[tuple[str, str], ExtractFn] = {}
SPECS = {"text": TextSpec, "image": FrameSpec, "audio": AudioSpec}


def reader(about: Mapping[str, Any], means: Means) -> Extractor | None:
    """Return the extractor of a partition (its provenance), set to read such queries; None where it reads none.

    Only the modality may change: an extractor of two towers embeds texts for pictures and sounds, and the reverse.
    """
    try:
        family = registry.get(about["identity"]["name"])
        changed = {"modality": means} if "modality" in family.model_fields else {}
        extractor = family.model_validate({**about["config"], **changed})
    except (ConfigError, ValidationError):  # a third party's that is not installed; a modality it does not have
        return None
    kinds = {type(spec) for spec in extractor.specs}
    return extractor if extractor.kind in SPACES and kinds == {SPECS[means]} else None


def unread(about: Mapping[str, Any]) -> str:
    """Say why a partition reads no query whatever; nothing where its extractor is here."""
    name = about["identity"]["name"]
    if name == IMPORTED:
        return " (imported: only --sample reaches it)"
    try:
        registry.get(name)
    except ConfigError:
        return f" (its extractor {name!r} is not installed here: only --sample reaches it)"
    return ""


def embedded(about: Mapping[str, Any], means: Means, value: str, pooling: str) -> Matrix:
    """Embed a text, or a picture's or sound's file, for a partition; returns one pooled vector (dim,).

    ConfigError where this machine has other weights or other code than the partition was made with, or the query
    cannot be read (its reason in words).
    """
    extractor = reader(about, means)
    assert extractor is not None
    task = task_of(about, extractor)
    media, asked = means != "text", f"--{means} {value!r}"
    try:
        duration_s = probe(value).duration_s if media else None
        batch = Batch([_loaded(task)], [task], [schema(task)], "query")
        batch.take(Feed(segment(value, media, duration_s), task.extractor.specs))
        batch.finish()
    except SampleError as error:
        raise ConfigError(f"{asked}: {error}") from error
    (progress,) = batch.finished
    outcome = progress.outcome
    assert outcome is not None
    words = f"{outcome.reason}: {outcome.detail}"
    if not progress.tables:
        raise ConfigError(f"{asked}: {words}")
    if outcome.status != "ok":
        log.warning("%s: read in part only: %s", asked, words)
    vector = pooled(progress.tables[0], pooling)
    if not np.isfinite(vector).all() or not vector.any():
        raise ConfigError(f"{asked}: {task.as_} gives it a vector without direction (NaN, infinite or zero)")
    return vector


def _loaded(task: Task) -> ExtractFn:
    """Load a model once in a process: one that answers many queries asks it again."""
    key = task.id, task.extractor.model_dump_json()  # of two towers each has one id
    if key not in _LOADED:
        _LOADED[key] = loaded(task, "cpu")
    return _LOADED[key]


def pooled(rows: pa.Table, pooling: str) -> Matrix:
    """Pool the windows of one query as those of a sample are pooled."""
    column = "scores" if pooling.startswith("scores_") else "embedding"
    matrix, first = windows.vectors(rows[column]), np.zeros(1, np.int64)
    vector: Matrix = features.pooled(matrix, first, pooling.removeprefix("scores_"), windows.seconds(rows))[0]
    return vector


def task_of(about: Mapping[str, Any], extractor: Extractor) -> Task:
    """Return what the batch job would run; ConfigError where its numbers could not be those of the partition."""
    made_by = about["identity"]["version"]
    if made_by != extractor.version:
        raise ConfigError(
            f"{about['id']} was made by version {made_by} of {extractor.name}, and this mmray has {extractor.version}: "
            "extract it again, or search with --sample"
        )
    found = list(checkpoints(extractor).values())
    fingerprint = together(found)
    if fingerprint != about["weights"]:
        here = ", ".join(str(one.path) for one in found)
        raise ConfigError(f"{about['id']} was made with the weights {about['weights']}; {here} has {fingerprint}")
    if any(one.random for one in found):
        log.warning("%s: RANDOM WEIGHTS (%s): what it finds means nothing", about["as"], fingerprint)
    path = str(found[0].path) if found else None
    return Task(
        as_=about["as"],
        id=about["id"],
        extractor=extractor.resolved(path) if path else extractor,
        path=path,
        fingerprint=fingerprint,
        identity=about["identity"],
        source=about["source"],
    )


def segment(value: str, media: bool, duration_s: float | None) -> Segment:
    """Return the query as the one segment of a sample."""
    return Segment(
        sample_id="query",
        source="query",
        segment=0,
        input="",
        uri=value if media else None,
        text=None if media else value,
        start_s=0.0,
        end_s=None,
        offset_s=0.0,
        limit_s=None,
        duration_s=duration_s,
        attempt=1,
        tasks=(0,),
    )
