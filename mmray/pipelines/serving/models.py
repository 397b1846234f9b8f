"""The models as those see them who ask them: by name, whole results or none."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from mmray.config import nearest
from mmray.generation.base import Result
from mmray.pipelines.serving.counts import Asking
from mmray.pipelines.serving.refusals import Refusal, described
from mmray.pipelines.serving.replica import first_refusal
from mmray.pipelines.serving.served import Kind

Tell = Callable[[int, int], None]  # steps done, steps in all


class Models:
    """Handles of all models; ``about`` is what /v1/models says of each."""

    def __init__(
        self, about: Mapping[str, Mapping[str, Any]], handles: Mapping[str, DeploymentHandle[Any]], asking: Asking
    ) -> None:
        self.about = about
        self._handles, self._asking = handles, asking

    def serves(self, kind: Kind) -> bool:
        """Tell whether there is a model of a kind."""
        return any(about["kind"] == kind for about in self.about.values())

    def name(self, kind: Kind, asked: str | None, field: str = "model") -> str:
        """Return the model to use: that which is named, else the first of its kind; a Refusal where there is none."""
        able = [name for name, about in self.about.items() if about["kind"] == kind]
        if asked is None and able:
            return able[0]
        if asked in able:
            return asked
        if asked is None:
            raise Refusal(404, "model_not_found", f"this server serves no model for this ({kind})", field)
        if asked in self.about:
            raise Refusal(400, "invalid_value", f"{asked!r} is for {self.about[asked]['kind']}", field)
        raise Refusal(404, "model_not_found", f"there is no model {asked!r}{nearest(asked, able)}", field)

    async def ask(self, name: str, requests: Sequence[Any], tell: Tell | None = None) -> list[Any]:
        """Return the results of all requests, or raise the Refusal that says why not; ``tell`` hears how far it is."""
        handle = self._handles[name]
        if self.about[name]["pool"] is not None:
            handle = handle.options(multiplexed_model_id=name)
        with self._asking.one(name):
            try:
                found = await (_got(handle, requests) if tell is None else _told(handle, requests, tell))
            except (RayError, RayServeException) as error:
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise described(error) from error
            first_refusal(found)
        return found

    async def made(self, name: str, requests: Sequence[Any], tell: Tell | None = None) -> list[Result]:
        """Return what a generator makes of all requests."""
        return await self.ask(name, requests, tell)


async def _got(handle: DeploymentHandle[Any], requests: Sequence[Any]) -> list[Any]:
    call: Any = handle.remote(requests)
    try:
        return list(await call)
    finally:
        call.cancel()  # Serve does so by itself where a client goes away, not where its time is up


async def _told(handle: DeploymentHandle[Any], requests: Sequence[Any], tell: Tell) -> list[Any]:
    found: list[Any] = []
    parts: Any = handle.options(stream=True).stream.remote(requests)
    try:
        async for part in parts:
            if isinstance(part, tuple):
                tell(*part)
            else:
                found = part
    finally:
        parts.cancel()
    return found
