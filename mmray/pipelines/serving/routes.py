"""The routes: what comes in is checked here, made or understood elsewhere, at once or as a job."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from mmray.pipelines.serving import answers, asked, forms, making, understanding
from mmray.pipelines.serving.asked import Asked
from mmray.pipelines.serving.forms import filled, multipart
from mmray.pipelines.serving.making import Maker
from mmray.pipelines.serving.refusals import Failure, Refusal, described, wrong
from mmray.pipelines.serving.settings import Limits

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("drawing", "forms", "asking", "snippets", "results", "cards", "panels", "app")  # in this order, sent as one
# The page runs its own code alone, and shows what it has made.
POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src blob:; base-uri 'none'; frame-ancestors 'none'"
PART = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
Answers = dict[int | str, dict[str, Any]]
REFUSED: Answers = {
    "4XX": {"model": Failure, "description": "Refused: `param` names the field; 429 says when to come again"},
    "5XX": {"model": Failure, "description": "Not now (503 says when to come again), or a fault of the server"},
}
work = APIRouter(prefix="/v1", responses=REFUSED)
inside = APIRouter(responses=REFUSED)
outside = APIRouter(responses=REFUSED)
KEYED, OPEN = (work, inside), (outside,)  # with and without a key, where keys are wanted


def endpoint(request: Request) -> Any:
    """Return the deployment that answers."""
    return request.app.state.endpoint


def gives(kind: Any = None, text: str | None = None, later: bool = False) -> Answers:
    """Return what OpenAPI says of the answers of a route: JSON, text of a kind, or later, a job."""
    said = {"model": kind} if kind is not None else {}
    said |= {"content": {text: {"schema": {"type": "string"}}}} if text is not None else {}
    job = {"model": answers.Job, "description": "A job: `background` is true"}
    return {200: {"description": "What was asked for", **said}, **({202: job} if later else {})}


async def answer(request: Request, maker: Maker, body: Asked) -> JSONResponse:
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
    """Return what another deployment says, or raise the Refusal that it gives."""
    try:
        found = await call
    except (RayError, RayServeException) as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        raise described(error) from error
    if isinstance(found, Refusal):
        raise found
    return found


@work.post("/images/generations", responses=gives(answers.Pictures, later=True))
async def images(request: Request, body: asked.ImagesAsked) -> Response:
    """Make pictures of words."""
    return await answer(request, making.images, body)


@work.post("/images/edits", responses=gives(answers.Pictures, later=True), openapi_extra=multipart(asked.EditAsked))
async def edits(request: Request) -> Response:
    """Make pictures of a picture and words."""
    return await answer(request, making.images, await filled(request, asked.EditAsked))


@work.post("/audio/generations", responses=gives(answers.Sounds, later=True))
async def sounds(request: Request, body: asked.SoundsAsked) -> Response:
    """Make sounds of words."""
    return await answer(request, making.sounds, body)


@work.post("/spectrograms/generations", responses=gives(answers.SoundingPictures, later=True))
async def spectrograms(request: Request, body: asked.SpectrogramsAsked) -> Response:
    """Make images that sound."""
    return await answer(request, making.spectrograms, body)


@work.post("/stories", responses=gives(answers.Stories, later=True))
async def stories(request: Request, body: asked.StoryAsked) -> Response:
    """Make a picture, a sound and a caption of one prompt, and a film of them."""
    return await answer(request, making.story, body)


@work.post("/captions", responses=gives(answers.Captions, later=True), openapi_extra=multipart(asked.CaptionAsked))
async def captions(request: Request) -> Response:
    """Describe a picture."""
    return await answer(request, making.captions, await filled(request, asked.CaptionAsked))


@work.post("/embeddings", responses=gives(answers.Embeddings, later=True))
async def embeddings(request: Request, body: asked.EmbeddingsAsked) -> Response:
    """Embed texts."""
    return await answer(request, understanding.embeddings, body)


@work.post(
    "/audio/transcriptions",
    responses=gives(answers.Transcript, "text/plain", later=True),
    openapi_extra=multipart(asked.TranscriptionAsked),
)
async def transcriptions(request: Request) -> Response:
    """Write down what is said."""
    body = await filled(request, asked.TranscriptionAsked, ("timestamp_granularities",))
    found = await answer(request, understanding.transcription, body)
    if body.response_format in ("text", "srt", "vtt") and found.status_code == 200:
        return PlainTextResponse(json.loads(bytes(found.body))["text"])
    return found


@work.post("/scores", responses=gives(answers.Shares, later=True), openapi_extra=multipart(asked.ScoresAsked))
async def scores(request: Request) -> Response:
    """Say how well each label fits a picture or a sound."""
    return await answer(request, understanding.scores, await filled(request, asked.ScoresAsked, ("labels",)))


@work.post(
    "/classifications", responses=gives(answers.Classes, later=True), openapi_extra=multipart(asked.ClassificationAsked)
)
async def classifications(request: Request) -> Response:
    """Classify a video, a picture or a sound by a trained network."""
    return await answer(request, understanding.classification, await filled(request, asked.ClassificationAsked))


@work.post(
    "/search",
    responses=gives(answers.Hits, later=True),
    openapi_extra=multipart(asked.SearchAsked, or_json=asked.TextSearchAsked),
)
async def search(request: Request) -> Response:
    """Find the samples of the store that are nearest to a text, a picture, a sound or another sample."""
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            fields = json.loads(await request.body())
        except ValueError as error:
            raise wrong("body", f"is not JSON: {error}", "invalid_json") from error
        if not isinstance(fields, dict):
            raise wrong("body", "must be an object")
        if uploads := {"image", "audio"} & set(fields):
            raise wrong(min(uploads), "is a file: send a form (multipart/form-data)")
        body = forms.body(asked.SearchAsked, **fields)
    else:
        body = await filled(request, asked.SearchAsked, ("where",))
    return await answer(request, understanding.search, body)


@work.get("/models", responses=gives(answers.Models))
async def models(request: Request) -> Response:
    """List what is served."""
    return JSONResponse({"object": "list", "data": list(endpoint(request).models.about.values())})


@work.get("/models/{name}", responses=gives(answers.Model))
async def model(request: Request, name: str) -> Response:
    """Describe one model."""
    about = endpoint(request).models.about.get(name)
    if about is None:
        raise Refusal(404, "model_not_found", f"there is no model {name!r}", "model")
    return JSONResponse(about)


@work.get("/limits", responses=gives(Limits))
async def limits(request: Request) -> Response:
    """Say how much a request may ask for."""
    return JSONResponse(endpoint(request).limits.model_dump())


@work.get("/jobs", responses=gives(answers.Jobs))
async def jobs(request: Request) -> Response:
    """List the jobs of the caller, the newest first, without their results."""
    found = await told(endpoint(request).jobs.all.remote(_owner(request)))
    return JSONResponse({"object": "list", "data": found})


@work.get("/jobs/{number}", responses=gives(answers.Job))
async def job(request: Request, number: str) -> Response:
    """Say how far a job is, and what came of it."""
    return JSONResponse(await told(endpoint(request).jobs.one.remote(number, _owner(request))))


@work.delete("/jobs/{number}", responses=gives(answers.Job))
async def end(request: Request, number: str) -> Response:
    """Cancel a job, or forget one that is over."""
    return JSONResponse(await told(endpoint(request).jobs.end.remote(number, _owner(request))))


@work.get("/jobs/{number}/events", response_class=StreamingResponse, responses=gives(text="text/event-stream"))
async def events(request: Request, number: str) -> Response:
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


@outside.get("/health", responses=gives(answers.Health))
async def health() -> Response:
    """Say that the endpoint answers."""
    return JSONResponse({"status": "ok"})


@outside.get("/ready", responses=gives(answers.Readiness) | {503: {"model": answers.Readiness}})
async def ready(request: Request) -> Response:
    """Say whether all models can be asked."""
    able, states = await endpoint(request).ready()
    return JSONResponse({"ready": able, "models": states}, 200 if able else 503)


@inside.get("/metrics", response_class=Response, responses=gives(text="text/plain"))
async def metrics(request: Request) -> Response:
    """Tell Prometheus what was answered, and how models and jobs fare."""
    server = endpoint(request)
    return Response(
        generate_latest(server.registry) + await told(server.jobs.figures.remote()), media_type=CONTENT_TYPE_LATEST
    )


@outside.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Show the page for people."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})


@outside.get("/page/{name}", include_in_schema=False)
async def part_of_page(name: Literal["script.js", "style.css"]) -> Response:
    """Give what the page is made of."""
    if name == "style.css":
        return FileResponse(PAGE / name, headers=PART)
    return Response(
        "".join((PAGE / f"{one}.js").read_text() for one in SCRIPTS), headers=PART, media_type="text/javascript"
    )
