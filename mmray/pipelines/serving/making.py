"""What each route makes, whether somebody waits for it or it is a job: a body in, an answer out."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from mmray.generation import files, rank, registry
from mmray.generation.audio import AudioRequest
from mmray.generation.base import Request, Result
from mmray.generation.caption import CaptionRequest
from mmray.generation.rank import FitRequest
from mmray.generation.spectrogram import SpectrogramRequest
from mmray.pipelines.serving import asked, coding
from mmray.pipelines.serving.asked import Body
from mmray.pipelines.serving.coding import base64_of
from mmray.pipelines.serving.models import Models, Tell
from mmray.pipelines.serving.refusals import wrong
from mmray.pipelines.serving.settings import Limits

# Makes the answer to a body.
Maker = Callable[[Models, Limits, Any, Tell | None], Awaitable[Body]]
OUTSIDE = {"width_px": "size", "height_px": "size"}  # what a field of a generator is called by clients
SEEDS = 2**32
WORDS = ("prompt", "sound_prompt", "negative_prompt", "negative_sound_prompt", "imprint_text", "text", "template")


def built(kind: type[Request], values: Mapping[str, Any], named: Collection[str] = ()) -> Any:
    """Return a generator's request; a Refusal that names the client's field (of ``named``) where it cannot be."""
    try:
        return kind(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        words = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        words = "is nothing that this model can heed" if problem["type"] == "extra_forbidden" else words
        field = str(problem["loc"][0]) if problem["loc"] else words.split()[0].strip(":,")
        raise wrong(field if field in named else OUTSIDE.get(field, field), words) from error


def seeded(kind: type[Request], body: Any, values: Mapping[str, Any]) -> list[Any]:
    """Return the n requests of a body, each with a seed of its own."""
    first = built(kind, {**values, "seed": body.seed}, type(body).model_fields)
    others = [(body.seed + number) % SEEDS for number in range(1, getattr(body, "n", None) or 1)]
    return [first, *(first.model_copy(update={"seed": seed}) for seed in others)]


def sides(size: str | None, limits: Limits) -> dict[str, int]:
    """Read a size such as 512x768: width and height."""
    if size in (None, "auto"):
        return {}
    assert size is not None
    width, height = map(int, size.split("x"))
    if max(width, height) > limits.side_px:
        raise wrong("size", f"is {size}, and sides are at most {limits.side_px} px here", "limit_exceeded")
    return {"width_px": width, "height_px": height}


def within(limits: Limits, body: asked.Asked) -> None:
    """Refuse what is more than this server allows."""
    most = {"n": limits.n, "steps": limits.steps, "length_s": limits.length_s}
    for field, limit in most.items():
        if (value := getattr(body, field, None)) is not None and value > limit:
            raise wrong(field, f"is {value:g}, and at most {limit:g} here", "limit_exceeded")
    for field in WORDS:
        if len(getattr(body, field, None) or "") > limits.prompt_chars:
            raise wrong(field, f"has more than {limits.prompt_chars} characters", "limit_exceeded")
    if (getattr(body, "width_px", None) or 0) > limits.side_px:
        raise wrong("width_px", f"is more than {limits.side_px}", "limit_exceeded")


async def images(models: Models, limits: Limits, body: asked.ImagesAsked, tell: Tell | None) -> Body:
    """Make pictures."""
    name = models.name("image", body.model)
    values: dict[str, Any] = {"prompt": body.prompt, "negative_prompt": body.negative_prompt or None}
    values |= {"steps": body.steps, "guidance": body.guidance, **sides(body.size, limits)}
    if isinstance(body, asked.EditAsked):
        picture = await coding.unpacked(coding.picture_of, body.image, "image", limits.media_pixels)
        if "width_px" not in values and max(picture.shape) > limits.side_px:
            raise wrong("image", f"has sides of over {limits.side_px} px; give a size that it is scaled to")
        values |= {"image": picture, "strength": body.strength}
    found = await chosen(models, name, seeded(_request(models, name), body, values), body, tell)
    data = await asyncio.to_thread(
        lambda: [{**_shown(one, body.response_format), **_about(one, seed)} for one, seed in found]
    )
    return {"created": int(time.time()), "data": data, "output_format": "png"}


def _request(models: Models, name: str) -> type[Request]:
    """Return what a model's generator takes."""
    return registry.get(models.about[name]["generator"]).request


async def chosen(
    models: Models, name: str, requests: list[Any], body: asked.Asked, tell: Tell | None
) -> list[tuple[Result, int]]:
    """Return what is made of all requests, each with its seed: in order, or the ``best`` of them, the best first.

    Where CLIP and CLAP are served (``labels``), each has their scores: how well it fits its words.
    """
    best = getattr(body, "best", None)
    if best is not None and not models.serves("labels"):
        raise wrong("best", "needs a model to choose by, and this server has none (labels)")
    if best is not None and best > len(requests):
        raise wrong("best", f"is {best}, of n = {len(requests)}")
    found = await models.made(name, requests, tell)
    words = [(request.prompt, getattr(request, "sound_prompt", request.prompt)) for request in requests]
    found = await scored(models, found, words)
    pairs = list(zip(found, (request.seed for request in requests), strict=True))
    return pairs if best is None else sorted(pairs, key=lambda pair: rank.fit(pair[0]), reverse=True)[:best]


async def scored(models: Models, found: list[Result], words: list[tuple[str, str]]) -> list[Result]:
    """Return results with their cosines with the words for picture and sound, where CLIP and CLAP are served."""
    if not models.serves("labels"):
        return found
    fits = [FitRequest(result=one, seen=seen, heard=heard) for one, (seen, heard) in zip(found, words, strict=True)]
    judged = await models.made(models.name("labels", None), fits)
    return [replace(one, scores=own.scores) for one, own in zip(found, judged, strict=True)]


def _about(one: Result, seed: int) -> Body:
    return {"seed": seed, "scores": dict(one.scores)}


def _shown(one: Result, form: str | None) -> Body:
    return {"url": f"data:image/png;base64,{_png(one)}"} if form == "url" else {"b64_json": _png(one)}


def _png(one: Result) -> str:
    assert one.picture is not None
    return base64_of(files.png(one.picture))


def _wav(one: Result) -> str:
    assert one.sound is not None
    return base64_of(files.wav(one.sound, one.rate_hz))


async def sounds(models: Models, limits: Limits, body: asked.SoundsAsked, tell: Tell | None) -> Body:
    """Make sounds."""
    del limits
    name = models.name("audio", body.model)
    fields = ("prompt", "negative_prompt", "steps", "guidance", "length_s")
    requests = seeded(AudioRequest, body, {field: getattr(body, field) for field in fields})
    data = [
        {"b64_json": _wav(one), "rate_hz": one.rate_hz, "seconds": _seconds(one), **_about(one, seed)}
        for one, seed in await chosen(models, name, requests, body, tell)
    ]
    return {"created": int(time.time()), "data": data, "output_format": "wav"}


def _seconds(one: Result) -> float:
    assert one.sound is not None
    return round(len(one.sound) / one.rate_hz, 6)


async def spectrograms(models: Models, limits: Limits, body: asked.SpectrogramsAsked, tell: Tell | None) -> Body:
    """Make images that sound."""
    name = models.name("spectrogram", body.model)
    values = body.model_dump(exclude={"model", "background", "user", "n", "seed", "best", "imprint"})
    if body.steps is None:
        values["steps"] = min(SpectrogramRequest.model_fields["steps"].default, limits.steps)
    if body.imprint is not None:
        data = coding.bytes_of(body.imprint, "imprint")
        values["imprint"] = await coding.unpacked(coding.imprint_of, data, "imprint", body.width_px)
    found = await chosen(models, name, seeded(SpectrogramRequest, body, values), body, tell)
    made = await asyncio.to_thread(
        lambda: [
            {
                "b64_json": _png(one),
                "spectrum_b64": base64_of(files.png(one.spectrum)) if one.spectrum is not None else None,
                "sound_b64": _wav(one),
                "rate_hz": one.rate_hz,
                "seconds": _seconds(one),
                **_about(one, seed),
            }
            for one, seed in found
        ]
    )
    return {"created": int(time.time()), "data": made, "output_format": "png"}


async def captions(models: Models, limits: Limits, body: asked.CaptionAsked, tell: Tell | None) -> Body:
    """Describe a picture."""
    name = models.name("caption", body.model)
    picture = await coding.unpacked(coding.picture_of, body.image, "image", limits.media_pixels)
    (found,) = await models.made(name, [built(CaptionRequest, {"image": picture, "prompt": body.prompt})], tell)
    return {"data": [{"text": found.text}], "model": name}


async def story(models: Models, limits: Limits, body: asked.StoryAsked, tell: Tell | None) -> Body:
    """Make a picture and a sound at once, then a caption of the picture, and a film of all."""
    image, sound = models.name("image", body.model), models.name("audio", body.audio_model, "audio_model")
    caption = models.name("caption", body.caption_model, "caption_model")
    shared = {"negative_prompt": body.negative_prompt or None, "steps": body.steps, "guidance": body.guidance}
    picture = seeded(_request(models, image), body, {**shared, "prompt": body.prompt} | sides(body.size, limits))
    words = {**shared, "prompt": body.sound_prompt or body.prompt, "length_s": body.length_s}
    part = {} if tell is None else {"image": (0, 0), "audio": (0, 0)}

    def heard(name: str) -> Tell | None:
        def one(done: int, total: int) -> None:
            assert tell is not None
            part[name] = (done, total)
            tell(sum(done for done, _ in part.values()), sum(total for _, total in part.values()))

        return one if tell is not None else None

    async with asyncio.TaskGroup() as both:  # where one fails the other is stopped
        seen = both.create_task(models.made(image, picture, heard("image")))
        sung = both.create_task(models.made(sound, seeded(AudioRequest, body, words), heard("audio")))
    (made,), (tune,) = seen.result(), sung.result()
    assert made.picture is not None
    assert tune.sound is not None
    (said,) = await models.made(caption, [built(CaptionRequest, {"image": made.picture})])
    whole = replace(made, sound=tune.sound, rate_hz=tune.rate_hz)
    (whole,) = await scored(models, [whole], [(body.prompt, body.sound_prompt or body.prompt)])
    film = await asyncio.to_thread(coding.film, made.picture, np.asarray(tune.sound), tune.rate_hz)
    data = {
        "video_b64": base64_of(film), "b64_json": _png(made), "sound_b64": _wav(tune), "rate_hz": tune.rate_hz,
        "seconds": _seconds(tune), "caption": said.text, **_about(whole, body.seed),
    }  # fmt: skip
    return {"created": int(time.time()), "data": [data]}
