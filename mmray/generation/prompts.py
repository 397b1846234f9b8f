"""What is asked of every network that is guided by words."""

import inspect
from typing import Annotated, Any

from pydantic import Field

from mmray.generation.base import Generator, Request, RequestError

Steps = Annotated[int | None, Field(ge=1, le=1000)]
Guidance = Annotated[float | None, Field(ge=0, le=100)]


class Prompt(Request):
    """What to make, and what not; steps and guidance that are None are as the generator says."""

    prompt: str
    negative_prompt: str = ""
    steps: Steps = None
    guidance: Guidance = None


class Prompted(Generator):
    """``steps`` and ``guidance`` of requests that leave them out; None: as the pipeline of the folder has them."""

    steps: Steps = None
    guidance: Guidance = None


def defaults(pipeline: Any, settings: Prompted) -> tuple[int, float]:
    """Return the steps and the guidance of requests that leave them out."""
    own = inspect.signature(pipeline.__call__).parameters
    guidance = own["guidance_scale"].default if settings.guidance is None else settings.guidance
    return settings.steps or own["num_inference_steps"].default, guidance


def guided(folder: Any, request: Prompt, steps: int, guidance: float) -> tuple[int, float]:
    """Return the steps and the guidance of a request; RequestError where its words cannot be followed.

    ``folder``: a mmray.models.diffusion.Folder.
    """
    for field in ("prompt", "negative_prompt"):
        if problem := folder.too_long(getattr(request, field)):
            raise RequestError(field, problem)
    steps = request.steps or steps
    # With a step for each moment some schedulers reach for one more (PNDM; an offset of 1).
    moments = folder.pipeline.scheduler.config.num_train_timesteps
    if steps >= moments:
        raise RequestError("steps", f"are {steps}; the scheduler of this folder takes fewer than {moments}")
    guidance = guidance if request.guidance is None else request.guidance
    if request.negative_prompt and guidance <= 1:
        raise RequestError("negative_prompt", f"does nothing with a guidance of {guidance:g}; it must be above 1")
    return steps, guidance
