"""What the routes answer that look at something: embeddings, transcripts, labels, classes, neighbours."""

import zlib
from typing import Any

import numpy as np

from mmray import storage
from mmray.generation.rank import LabelsRequest
from mmray.pipelines.serving import asked, coding
from mmray.pipelines.serving.asked import Body
from mmray.pipelines.serving.making import built
from mmray.pipelines.serving.models import Models, Tell
from mmray.pipelines.serving.reading import Medium
from mmray.pipelines.serving.refusals import Refusal, wrong
from mmray.pipelines.serving.settings import Limits


async def embeddings(models: Models, limits: Limits, body: asked.EmbeddingsAsked, tell: Tell | None) -> Body:
    """Embed texts."""
    name = models.name("embedding", body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not 1 <= len(texts) <= limits.texts:
        raise wrong("input", f"has {len(texts)} texts, and 1 to {limits.texts} are read here", "limit_exceeded")
    if any(len(text) > limits.prompt_chars for text in texts):
        raise wrong("input", f"has a text of more than {limits.prompt_chars} characters", "limit_exceeded")
    vectors = await models.ask(name, texts, tell)
    data = [
        {"object": "embedding", "index": place, "embedding": _written(vector, body.encoding_format)}
        for place, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": 0, "total_tokens": 0}}


def _written(vector: Any, form: str) -> list[float] | str:
    return vector.tolist() if form == "float" else coding.base64_of(np.asarray(vector, "<f4").tobytes())


async def transcription(models: Models, limits: Limits, body: asked.TranscriptionAsked, tell: Tell | None) -> Body:
    """Write down what is said; the form that was asked for is under ``text`` where it is a text."""
    name = models.name("transcription", body.model)
    (found,) = await models.ask(name, [(Medium(body.file, limits.media_s), body.language)], tell)
    segments, duration_s = found["segments"], found["duration_s"] or 0.0
    usage = {"type": "duration", "seconds": duration_s}
    text = " ".join(one["text"].strip() for one in segments).strip()
    if body.response_format == "verbose_json":
        languages = [one["language"] for one in segments]
        return {
            "task": "transcribe",
            "language": max(languages, key=languages.count) if languages else "",
            "duration": duration_s,
            "text": text,
            "segments": [_segment(place, one) for place, one in enumerate(segments)],
            "usage": usage,
        }
    if body.response_format in ("srt", "vtt"):
        return {"text": _subtitles(segments, body.response_format), "usage": usage}
    return {"text": text, "usage": usage}


def _segment(place: int, one: Body) -> Body:
    times = {"seek": 0, "start": one["start_s"], "end": one["end_s"]}
    said = one["text"].encode()
    found = {"avg_logprob": one["avg_logprob"], "compression_ratio": len(said) / len(zlib.compress(said))}
    return {"id": place, **times, "text": one["text"], "tokens": [], "temperature": 0.0, **found, "no_speech_prob": 0.0}


def _subtitles(segments: list[Body], form: str) -> str:
    mark = "," if form == "srt" else "."
    blocks = [
        (f"{place}\n" if form == "srt" else "")
        + f"{_clock(one['start_s'], mark)} --> {_clock(one['end_s'], mark)}\n{one['text'].strip()}\n"
        for place, one in enumerate(segments, 1)
    ]
    return "\n".join(blocks if form == "srt" else ["WEBVTT\n", *blocks])


def _clock(seconds: float, mark: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"


async def scores(models: Models, limits: Limits, body: asked.ScoresAsked, tell: Tell | None) -> Body:
    """Say how well each label fits a picture or a sound; the shares sum to 1."""
    name = models.name("labels", body.model)
    if too_long := [one for one in body.labels if len(one) > limits.prompt_chars]:
        raise wrong(
            "labels", f"{too_long[0][:40]!r}... has more than {limits.prompt_chars} characters", "limit_exceeded"
        )
    medium: Body
    try:
        medium = {"image": await coding.unpacked(coding.picture_of, body.file, "file", limits.media_pixels)}
    except Refusal as refusal:
        if refusal.code != "invalid_file":
            raise
        sound, rate_hz = await coding.unpacked(coding.sound_of, body.file, "file", limits.media_s)
        medium = {"sound": sound, "rate_hz": rate_hz}
    request = built(LabelsRequest, {**medium, "labels": tuple(body.labels), "template": body.template})
    (found,) = await models.made(name, [request], tell)
    ranked = sorted(found.scores.items(), key=lambda pair: -pair[1])
    return {"data": [{"label": label, "score": score} for label, score in ranked], "model": name}


async def classification(models: Models, limits: Limits, body: asked.ClassificationAsked, tell: Tell | None) -> Body:
    """Classify a medium by a trained fusion network."""
    name = models.name("classification", body.model)
    (found,) = await models.ask(name, [(Medium(body.file, limits.media_s), body.text)], tell)
    ranked = sorted(found["scores"].items(), key=lambda pair: -pair[1])
    return {
        "data": [{"label": label, "score": score} for label, score in ranked],
        "model": name,
        "inputs": found["inputs"],
    }


async def search(models: Models, limits: Limits, body: asked.SearchAsked, tell: Tell | None) -> Body:
    """Find the samples of the store nearest to a query; where they lie on this machine's disk is not told."""
    name = models.name("search", body.model)
    given = [field for field in ("text", "sample", "image", "audio") if getattr(body, field) is not None]
    if len(given) != 1:
        raise wrong(given[1] if given else "text", "give just one of text, sample, image and audio")
    (found,) = await models.ask(name, [(given[0], body, limits.media_s)], tell)
    hits = [
        {key: value for key, value in hit.items() if key != "uri" or storage.is_remote(value)}
        for hit in found["results"]
    ]
    return {"data": hits, **{key: found[key] for key in ("extractor", "pooling", "compared", "exact")}}
