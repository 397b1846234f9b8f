"""The routes: what comes in is checked here, made or understood elsewhere, at once or as a job."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from mmray.pipelines.serving import asked, making, understanding
from mmray.pipelines.serving.asked import Asked
from mmray.pipelines.serving.making import Maker
from mmray.pipelines.serving.refusals import Failure, Refusal, described, wrong

PAGE = Path(__file__).parent / "page"
# The page runs its own code alone, and shows what it has made.
POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src blob:; base-uri 'none'; frame-ancestors 'none'"
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 401, 404, 405, 413, 429, 500, 503, 504)
}
LATER: dict[int | str, dict[str, Any]] = {202: {"description": "A job, where `background` is true"}}
work = APIRouter(prefix="/v1", responses={**REFUSED, **LATER})
state = APIRouter(responses=REFUSED)
ROUTERS = (work, state)


def endpoint(request: Request) -> Any:
    """Return the deployment that answers."""
    return request.app.state.endpoint


async def answer(request: Request, maker: Maker, body: Asked) -> Any:
    """Return what a maker makes of a body, or the job that makes it."""
    server = endpoint(request)
    making.within(server.limits, body)
    if body.background is True:
        owner = request.scope["state"]["owner"]
        return JSONResponse(await told(server.jobs.start.remote(maker, body, request.url.path, owner)), 202)
    try:
        async with asyncio.timeout(server.limits.seconds):
            return JSONResponse(await maker(server.models, server.limits, body, None))
    except (TimeoutError, BaseExceptionGroup) as error:
        raise described(error) from error


async def told(call: Any) -> Any:
    """Return what another deployment says, or raise the Refusal that it raised."""
    try:
        return await call
    except (RayError, RayServeException) as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        raise described(error) from error


def form(kind: type[Asked], **fields: Any) -> Any:
    """Return the body that a form makes; a Refusal that names the field where it is none."""
    try:
        return kind.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        raise wrong(str(problem["loc"][0]) if problem["loc"] else "body", problem["msg"]) from error


async def filled(request: Request, kind: type[Asked], lists: tuple[str, ...] = ()) -> Any:
    """Read a form into a body of a kind; its files as bytes, and ``name[]`` like ``name``."""
    sent = await request.form(max_files=4, max_fields=2000)
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(name.removesuffix("[]") for name in sent):
        values = [*sent.getlist(name), *sent.getlist(f"{name}[]")]
        read = [value if isinstance(value, str) else await value.read() for value in values]
        if len(read) > 1 and name not in lists:
            raise wrong(name, "is given more than once")
        fields[name] = read if name in lists else read[0]
    return form(kind, **fields)


def multipart(kind: type[Asked], also_json: bool = False) -> dict[str, Any]:
    """Return what OpenAPI says of a form."""
    schema = kind.model_json_schema()
    content = {"multipart/form-data": {"schema": schema}}
    if also_json:
        content["application/json"] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}


@work.post("/images/generations")
async def images(request: Request, body: asked.ImagesAsked) -> Any:
    """Make pictures of words."""
    return await answer(request, making.images, body)


@work.post("/images/edits", openapi_extra=multipart(asked.EditAsked))
async def edits(request: Request) -> Any:
    """Make pictures of a picture and words."""
    return await answer(request, making.images, await filled(request, asked.EditAsked))


@work.post("/audio/generations")
async def sounds(request: Request, body: asked.SoundsAsked) -> Any:
    """Make sounds of words."""
    return await answer(request, making.sounds, body)


@work.post("/spectrograms/generations")
async def spectrograms(request: Request, body: asked.SpectrogramsAsked) -> Any:
    """Make images that sound."""
    return await answer(request, making.spectrograms, body)


@work.post("/stories")
async def stories(request: Request, body: asked.StoryAsked) -> Any:
    """Make a picture, a sound and a caption of one prompt, and a film of them."""
    return await answer(request, making.story, body)


@work.post("/captions", openapi_extra=multipart(asked.CaptionAsked))
async def captions(request: Request) -> Any:
    """Describe a picture."""
    return await answer(request, making.captions, await filled(request, asked.CaptionAsked))


@work.post("/embeddings")
async def embeddings(request: Request, body: asked.EmbeddingsAsked) -> Any:
    """Embed texts."""
    return await answer(request, understanding.embeddings, body)


@work.post("/audio/transcriptions", openapi_extra=multipart(asked.TranscriptionAsked))
async def transcriptions(request: Request) -> Any:
    """Write down what is said."""
    # What else OpenAI's clients may send is no matter of greedy decoding.
    body = await filled(request, asked.TranscriptionAsked)
    found = await answer(request, understanding.transcription, body)
    if body.response_format in ("text", "srt", "vtt") and found.status_code == 200:
        return PlainTextResponse(json.loads(found.body)["text"])
    return found


@work.post("/scores", openapi_extra=multipart(asked.ScoresAsked))
async def scores(request: Request) -> Any:
    """Say how well each label fits a picture or a sound."""
    return await answer(request, understanding.scores, await filled(request, asked.ScoresAsked, ("labels",)))


@work.post("/classifications", openapi_extra=multipart(asked.ClassificationAsked))
async def classifications(request: Request) -> Any:
    """Classify a video, a picture or a sound by a trained network."""
    return await answer(request, understanding.classification, await filled(request, asked.ClassificationAsked))


@work.post("/search", openapi_extra=multipart(asked.SearchAsked, also_json=True))
async def search(request: Request) -> Any:
    """Find the samples of the store that are nearest to a text, a picture, a sound or another sample."""
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            fields = json.loads(await request.body())
        except ValueError as error:
            raise wrong("body", f"the body is not JSON: {error}", "invalid_json") from error
        if not isinstance(fields, dict):
            raise wrong("body", "must be an object")
        if uploads := {"image", "audio"} & set(fields):
            raise wrong(min(uploads), "is a file: send a form (multipart/form-data)")
        body = form(asked.SearchAsked, **fields)
    else:
        body = await filled(request, asked.SearchAsked, ("where",))
    return await answer(request, understanding.search, body)


@work.get("/models")
async def models(request: Request) -> Any:
    """List what is served."""
    return {"object": "list", "data": list(endpoint(request).models.about.values())}


@work.get("/models/{name}")
async def model(request: Request, name: str) -> Any:
    """Describe one model."""
    about = endpoint(request).models.about.get(name)
    if about is None:
        raise Refusal(404, "model_not_found", f"there is no model {name!r}", "model")
    return about


@work.get("/limits")
async def limits(request: Request) -> Any:
    """Say how much a request may ask for."""
    return endpoint(request).limits.model_dump()


@work.get("/jobs")
async def jobs(request: Request) -> Any:
    """List the jobs of the caller, the newest first, without their results."""
    found = await told(endpoint(request).jobs.all.remote(_owner(request)))
    return {"object": "list", "data": found}


@work.get("/jobs/{number}")
async def job(request: Request, number: str) -> Any:
    """Say how far a job is, and what came of it."""
    return JSONResponse(await told(endpoint(request).jobs.one.remote(number, _owner(request))))


@work.delete("/jobs/{number}")
async def end(request: Request, number: str) -> Any:
    """Cancel a job, or forget one that is over."""
    return JSONResponse(await told(endpoint(request).jobs.end.remote(number, _owner(request))))


@work.get("/jobs/{number}/events")
async def events(request: Request, number: str) -> Any:
    """Tell how far a job is, whenever that changes (server-sent events), and at last the job."""
    server, owner = endpoint(request), _owner(request)
    await told(server.jobs.one.remote(number, owner))

    async def lines() -> AsyncIterator[str]:
        async for name, data in server.jobs.options(stream=True).events.remote(number, owner):
            yield f"event: {name}\ndata: {json.dumps(data)}\n\n" if name else ": still there\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _owner(request: Request) -> str:
    owner: str = request.scope["state"]["owner"]
    return owner


@state.get("/health")
async def health() -> Any:
    """Say that the endpoint answers."""
    return {"status": "ok"}


@state.get("/ready")
async def ready(request: Request) -> Any:
    """Say whether all models can be asked."""
    able, states = await endpoint(request).ready()
    return JSONResponse({"ready": able, "models": states}, 200 if able else 503)


@state.get("/metrics")
async def metrics(request: Request) -> Response:
    """Tell Prometheus what was answered."""
    return Response(generate_latest(endpoint(request).counts.registry), media_type=CONTENT_TYPE_LATEST)


@state.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Show the page for people."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})


@state.get("/page/{name}", include_in_schema=False)
async def part_of_page(name: Literal["app.js", "drawing.js", "forms.js", "style.css"]) -> FileResponse:
    """Give what the page is made of."""
    return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
