"""A generator as a run sees it: an extractor whose source is the column of requests, whose rows are what was made."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny

from mmray import provenance, storage
from mmray.errors import ConfigError, Reason, SampleError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling
from mmray.extractors.clip import Clip
from mmray.generation import files, imprint
from mmray.generation.base import Generator, RequestError, Result
from mmray.generation.rank import Judge
from mmray.models import weights
from mmray.pipelines import job
from mmray.pipelines.job import Task
from mmray.pipelines.prompts import PICTURES, Scores
from mmray.specs import Rows, Text, TextSpec

SOURCE = "request"


class Generation(Extractor):
    """One row for each request, as JSON; a request that cannot be done fails alone, ``bad_text`` where its words do.

    ``pictures``: the files of the pictures that requests name by their SHA-256. Where such a file has changed since, or
    is none that can be read, the request fails as ``corrupt``.
    """

    name: ClassVar[str] = "generation"
    kind: ClassVar[Kind] = Kind.GENERATED
    poolings: ClassVar[tuple[Pooling, ...]] = ()
    slow: ClassVar[bool] = True
    checkpoint: ClassVar[Any] = "model"
    companions: ClassVar[dict[str, frozenset[str]]] = dict.fromkeys(("sound_model", "clip", "clap"), frozenset())

    input: TextSpec = TextSpec()
    source: str = SOURCE
    pooling: tuple[Pooling, ...] = ()
    generator: SerializeAsAny[Generator]
    model: str
    sound_model: str | None = None
    clip: str | None = None
    clap: str | None = None
    pictures: dict[str, str] = Field({}, exclude=True)

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load the generator, and those who judge what it makes when there is something to judge."""
        del path
        paths = {field: str(weights.whole(getattr(self, field))) for field in self.checkpoints}
        generate = self.generator.load(device, paths)
        judge = Judge(paths.get("clip"), paths.get("clap"), self.generator.precision, device)

        def extract(texts: Sequence[Text]) -> Iterator[Rows | SampleError]:
            """Return one row for each request."""
            requests = [self._request(one.text) for one in texts]
            able = [one for one in requests if not isinstance(one, SampleError)]
            made = iter(generate(able, lambda *_: None) if able else ())
            for one in requests:
                yield one if isinstance(one, SampleError) else _row(one, next(made), judge)

        return extract

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of CLIP's vector of a picture, where pictures have scores."""
        del path
        return {} if self.clip is None else Clip().dims(str(weights.whole(self.clip)))

    def _request(self, text: str) -> Any:
        values = json.loads(text)
        try:
            for name in PICTURES:
                if name in values:
                    values[name] = _picture(values, name, self.pictures[values[name]])
        except SampleError as error:
            return error
        return self.generator.request(**values)


def task(as_: str, generator: Generator, scores: Scores, pictures: Mapping[str, str], file: str) -> Task:
    """Return the task of a run, called ``as_``; ConfigError where a checkpoint or the generator's extra is missing."""
    job.installed(generator, f"{file}: generator.name")
    names = {field: getattr(generator, field) for field in generator.checkpoints}
    extractor = Generation(
        generator=generator, batch_size=generator.batch_size, pictures=dict(pictures), **names, **scores.model_dump()
    )
    found = {}
    for field in extractor.checkpoints:
        try:
            found[field] = weights.resolve(getattr(extractor, field))
        except ConfigError as error:
            where = "generator" if field in names else "scores"
            raise ConfigError(f"{file}: {where}.{field}: {error}") from None
    about = {
        "name": generator.name,
        "version": generator.version,
        "fields": generator.model_dump(mode="json", exclude={*names, "batch_size"}),
        "weights": {field: one.identity for field, one in found.items()},
    }
    return Task(
        as_=as_,
        id=f"{generator.name}-{provenance.fingerprint(about)}",
        extractor=extractor,
        path=str(found["model"].path),
        fingerprint=job.together(list(found.values())),
        identity=about,
        source=SOURCE,
    )


def _picture(values: Mapping[str, Any], name: str, uri: str) -> Any:
    """Return the picture that a field stands for, uint8 (height, width, 3): of an imprint also that of a sound."""
    try:
        data = storage.read_bytes(uri)
    except OSError as error:
        raise storage.sample_error(uri, error) from error
    if hashlib.sha256(data).hexdigest() != values[name]:
        raise SampleError(Reason.CORRUPT, f"{uri} has changed since the run began")
    try:
        if name == "imprint":
            return imprint.of_file(data, uri, values.get("width_px", imprint.WIDTH_PX))
        return files.picture_of(data, uri)
    except RequestError as error:
        raise SampleError(Reason.CORRUPT, f"{uri} {error.message}") from error


def _row(request: Any, made: Result | RequestError, judge: Judge) -> Rows | SampleError:
    """Return what was made as a row, with pictures as PNG and sounds as WAV of 16 bits, and its scores.

    A picture is compared with the prompt, a sound with that for sounds if there is one.
    """
    if isinstance(made, RequestError):
        reason = Reason.BAD_TEXT if made.field.endswith("prompt") else Reason.UNSUPPORTED
        return SampleError(reason, str(made))
    (made,) = judge.score([made], [request.prompt], [getattr(request, "sound_prompt", request.prompt)])
    columns: dict[str, Any] = {
        "picture_png": [None if made.picture is None else files.png(made.picture)],
        "spectrum_png": [None if made.spectrum is None else files.png(made.spectrum)],
        "sound_wav": [None if made.sound is None else files.wav(made.sound, made.rate_hz)],
        "rate_hz": [made.rate_hz or None],
        "seed": [request.seed],
        "text": [made.text],
    }
    columns |= {name: [made.scores.get(name)] for name in ("clip", "clap", "flagged")}
    if "clip" in made.scores and made.picture is not None:
        columns["embedding"] = judge.of_pictures([made.picture])
    return Rows([0], [None], [None], columns)
