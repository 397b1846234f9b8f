"""How the endpoint says no: always {"error": {"message", "type", "param", "code"}}, naming the field at fault."""

import logging
from collections.abc import Sequence
from typing import Any

import ray
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

log = logging.getLogger(__name__)

WRONG, SERVER, RATE, KEY = "invalid_request_error", "server_error", "rate_limit_error", "authentication_error"
PLACES = ("body", "query", "path")  # where FastAPI found a field
AGAIN_S = 2  # when those may come again who found the queue full


class Said(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every answer that is not a success."""

    error: Said


class Refusal(Exception):  # noqa: N818 — it is an answer
    """An answer that is not a success."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, again_s: float | None = None
    ) -> None:
        super().__init__(status, code, message, param, again_s)
        self.status, self.code, self.message, self.param, self.again_s = status, code, message, param, again_s

    @property
    def body(self) -> dict[str, Any]:
        """Return what the client is told."""
        return {"message": self.message, "type": kind(self.status), "param": self.param, "code": self.code}

    @property
    def response(self) -> JSONResponse:
        """Return the answer itself."""
        headers = {} if self.again_s is None else {"Retry-After": str(max(1, round(self.again_s)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": self.body}, self.status, headers)


def kind(status: int) -> str:
    """Return OpenAI's name for the kind of an error."""
    return {401: KEY, 429: RATE}.get(status, WRONG if status < 500 else SERVER)


def wrong(param: str, message: str, code: str = "invalid_value") -> Refusal:
    """Return the refusal of a request for one of its fields; clients show the message alone, so it names the field."""
    return Refusal(400, code, message if message.startswith(param) else f"{param}: {message}", param)


def invalid(problems: Sequence[Any]) -> Refusal:
    """Return the refusal of what pydantic says is wrong with a request: all it says of the first field."""
    fields = [next((str(part)[:100] for part in one["loc"] if part not in PLACES), "body") for one in problems]
    if problems[0]["type"] == "extra_forbidden":
        return wrong(fields[0], "there is no such field", "unknown_field")
    if problems[0]["type"] == "missing":
        return wrong(fields[0], "is required", "missing_field")
    said = [one["msg"] for one, field in zip(problems, fields, strict=True) if field == fields[0]]
    words = [one.removeprefix("Value error, ").removeprefix("Input ") for one in dict.fromkeys(said)]
    return wrong(fields[0], ", or ".join(words[:4]))


def described(error: BaseException) -> Refusal:
    """Return what a client is told of an error: where its cause is the server's, nothing of the inside."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, BaseExceptionGroup):  # of work that went on side by side
        return described(error.exceptions[0])
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Refusal):
        return error.cause
    if isinstance(error, BackPressureError):
        return Refusal(503, "queue_full", "too many requests are waiting for this model; come again", None, AGAIN_S)
    if isinstance(error, DeploymentUnavailableError | ReplicaUnavailableError):
        return Refusal(503, "model_unavailable", "the model cannot be loaded; see /ready", None, 10 * AGAIN_S)
    if isinstance(error, ray.exceptions.RayActorError):
        return Refusal(503, "replica_died", "the process that worked on this died; come again", None, AGAIN_S)
    if isinstance(error, TimeoutError):
        return Refusal(504, "timeout", "it took too long; send it again with background: true")
    log.error("a request failed", exc_info=error)
    return Refusal(500, "internal_error", "this is a fault of the server; its log says more")


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Give all errors of an application this shape; ``routers``: all of its routes."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return error.response

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            return wrong("body", f"is not JSON: {problem['ctx']['error']}", "invalid_json").response
        if problem["type"] == "model_attributes_type":
            return wrong("body", "is no JSON object with Content-Type: application/json").response
        return invalid(error.errors()).response

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = {404: f"there is nothing at {request.url.path}"}.get(error.status_code, str(error.detail))
        answer = Refusal(error.status_code, code, message).response
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            routes = [one for router in routers for one in router.routes if isinstance(one, Route)]
            found = [one for one in routes if one.matches(request.scope)[0] is not Match.NONE]
            answer.headers["Allow"] = ", ".join(sorted({method for one in found for method in one.methods or ()}))
        return answer

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return described(error).response
