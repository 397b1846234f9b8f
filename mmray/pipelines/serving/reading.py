"""Extractors behind the endpoint: the batch job's own code, on texts and uploaded media."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mmray import provenance
from mmray.config import Entry
from mmray.errors import ConfigError, SampleError
from mmray.extractors.base import ExtractFn, Extractor
from mmray.generation.base import GenerateFn, Progress, RequestError
from mmray.media.probe import probe
from mmray.media.text import text
from mmray.pipelines import batch, job, query
from mmray.pipelines.batch import Batch
from mmray.pipelines.feed import Feed
from mmray.pipelines.job import Task
from mmray.pipelines.worker import loaded, schema
from mmray.tables import features, windows
from mmray.tables.features import Matrix

SAID = ["text", "language", "avg_logprob", "start_s", "end_s"]
OWN = {"clip": {"modality": "text"}, "clap": {"modality": "text"}}


class Medium(NamedTuple):
    """An uploaded file, of at most so many seconds; ``field`` of the request it came in."""

    data: bytes
    longest_s: float
    field: str = "file"


def reader(entry: Entry, kind: str, where: str, file: str) -> tuple[Any, dict[str, str], str | None, int]:
    """Return the loader of an extractor, its checkpoints' names, their fingerprint and its batch size."""
    settings = {**OWN.get(entry.name, {}), **entry.settings}
    extractor = job.build(entry.name, settings, where, file)
    names = {field: str(getattr(extractor, field)) for field in extractor.checkpoints}
    try:
        task = task_of(entry.as_, extractor)
    except ConfigError as error:
        raise ConfigError(f"{file}: {where}: {error}") from None
    loader = Embedder(task) if kind == "embedding" else Transcriber(task)
    return loader, names, task.fingerprint, extractor.batch_size


def task_of(as_: str, extractor: Extractor) -> Task:
    """Return what the batch job would run; ConfigError where a checkpoint is not there."""
    found = job.checkpoints(extractor)
    path = str(next(iter(found.values())).path)
    extractor = extractor.resolved(path)
    about = job.identity(extractor, extractor.source, found)
    number = f"{extractor.name}-{provenance.fingerprint(about)}"
    return Task(as_, number, extractor, path, job.together(list(found.values())), about, extractor.source)


@dataclass(frozen=True)
class Embedder:
    """Texts to vectors: float32 (dim,); of a long text the mean over its chunks."""

    task: Task

    def load(self, device: str) -> GenerateFn:
        """Load the extractor."""
        extract = loaded(self.task, device)

        def generate(texts: Sequence[str], progress: Progress) -> list[Any]:
            progress(0, len(texts))
            found = batch.answers(extract, [text(one) for one in texts])
            return [_embedded(rows) for rows in found]

        return generate


def _embedded(rows: Any) -> Matrix | RequestError:
    if isinstance(rows, SampleError):
        return RequestError("input", rows.detail or str(rows.reason))
    matrix = np.asarray(rows.columns["embedding"], np.float32)
    vector: Matrix = features.pooled(matrix, np.zeros(1, np.int64), "mean", np.ones(len(matrix)))[0]
    return vector


@dataclass(frozen=True)
class Transcriber:
    """Media, and the language of each if it is given, to the rows of a transcript; and the length of the medium."""

    task: Task

    def load(self, device: str) -> GenerateFn:
        """Load the extractor."""
        hearing: Any = loaded(self.task, device)

        def one(medium: Medium, language: str | None, progress: Progress) -> Any:
            try:
                extract = hearing if language is None else hearing.speaking(language)
                (found,), duration_s = Reading([self.task], [extract])(medium, progress)
            except ConfigError as error:
                return RequestError("language", str(error))
            except RequestError as error:
                return error
            return {"duration_s": duration_s, "segments": found.select(SAID).to_pylist() if found is not None else []}

        return lambda asked, progress: [one(medium, language, progress) for medium, language in asked]


class Reading:
    """Extractors over one medium at a time, decoded once: what the batch job does with a sample."""

    def __init__(self, tasks: Sequence[Task], extract: Sequence[ExtractFn]) -> None:
        self._tasks, self._extract = tasks, extract
        self._schemas = [schema(task) for task in tasks]

    def __call__(
        self, medium: Medium, progress: Progress, words: str | None = None
    ) -> tuple[list[pa.Table | None], float | None]:
        """Return the rows of each extractor (None: it finds nothing to read), and how long the medium lasts.

        ``words``: what extractors of texts read. RequestError where the medium cannot be read or is too long; what
        ``progress`` raises ends it.
        """
        with opened(medium) as (path, duration_s):
            feeds = self._feeds(path, duration_s, words)
            work = Batch(self._extract, self._tasks, self._schemas, "request", lambda: progress(0, 0))
            try:
                for feed in feeds:
                    work.take(feed)
                work.finish()
            finally:
                for feed in feeds:
                    feed.close()
        tables: list[pa.Table | None] = [None] * len(self._tasks)
        outcomes = [one.outcome for one in work.finished if one.outcome is not None]
        if outcomes and all(one.status in ("failed", "skipped") for one in outcomes):
            worst = next((one for one in outcomes if one.status == "failed"), outcomes[0])
            raise RequestError(medium.field, f"{worst.reason}: {worst.detail}")
        for one in work.finished:
            tables[one.task] = one.tables[0] if one.tables else None
        return tables, duration_s

    def _feeds(self, path: str, duration_s: float | None, words: str | None) -> list[Feed]:
        """Return the medium, and the words if there are any, each for the extractors that read it."""
        whole = [query.segment(path, True, duration_s), *([query.segment(words, False, None)] if words else [])]
        own = [
            replace(one, tasks=tuple(place for place, task in enumerate(self._tasks) if task.reads_text is not media))
            for one, media in zip(whole, (True, False), strict=False)
        ]
        specs = [
            list(dict.fromkeys(spec for place in one.tasks for spec in self._tasks[place].extractor.specs))
            for one in own
        ]
        return [Feed(one, wanted) for one, wanted in zip(own, specs, strict=True)]


@contextmanager
def opened(medium: Medium) -> Iterator[tuple[str, float | None]]:
    """Put an upload into a file of its own for as long as it is read; yields its path and how long the medium lasts.

    RequestError where it is no medium, or too long.
    """
    with tempfile.NamedTemporaryFile(prefix="mmray-upload-") as file:
        file.write(medium.data)
        file.flush()
        try:
            duration_s = probe(file.name).duration_s
        except SampleError as error:
            raise RequestError(medium.field, str(error)) from error
        except MemoryError as error:  # as a damaged header may claim
            raise RequestError(medium.field, "asks for more memory than there is") from error
        if (duration_s or 0) > medium.longest_s:
            raise RequestError(medium.field, f"lasts {duration_s:.0f} s, and at most {medium.longest_s:g} s are read")
        yield file.name, duration_s


def vectors(rows: pa.Table) -> Matrix:
    """Return the vectors of a table of windows in their order: (windows, dim)."""
    ordered = rows.sort_by("window")
    found: Matrix = windows.vectors(ordered["embedding"])
    return found
