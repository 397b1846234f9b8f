"""Pictures from words, or from a picture and words: Stable Diffusion 1.5, 2.1, XL and their turbo checkpoints.

Source: Rombach et al. 2022, through diffusers: the same numbers as its own pipelines. Weights:
stable-diffusion-v1-5/stable-diffusion-v1-5 (CreativeML OpenRAIL-M) unless another is named.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from mmray.generation.base import GenerateFn, Progress, Request, RequestError, Result
from mmray.generation.batches import in_batches
from mmray.generation.prompts import Prompt, Prompted, defaults, guided

Picture = npt.NDArray[np.uint8]
MULTIPLE_PX = 8  # of sides: a latent of every checkpoint stands for 8 x 8 px
SMALLEST_PX, LARGEST_PX = 64, 4096
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
Side = Annotated[int | None, Field(ge=SMALLEST_PX, le=LARGEST_PX, multiple_of=MULTIPLE_PX)]


def _coloured(picture: Any) -> Any:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError("must be a picture: uint8 of (height, width, 3)")
    return picture


Pixels = Annotated[npt.NDArray[Any], AfterValidator(_coloured)]


class ImageRequest(Prompt):
    """``image``: start from this picture, scaled to the size, noised by ``strength`` (1: nothing of it is left).

    What is None is as the generator says; the size, with an ``image``, as the image's.
    """

    width_px: Side = None
    height_px: Side = None
    image: Pixels | None = None
    strength: float = Field(0.8, gt=0, le=1)


class _Plan(NamedTuple):
    """What the pictures of one batch have in common."""

    steps: int
    guidance: float
    width_px: int
    height_px: int
    negative: bool
    strength: float | None

    @property
    def work(self) -> int:
        return self.steps if self.strength is None else int(self.steps * self.strength)


class Image(Prompted):
    """One seed gives one picture, alone or in a batch (float32: within one grey level).

    ``steps``, ``guidance`` and size are those of requests that leave them out; None: as the pipeline of the folder has
    them. Turbo checkpoints want ``steps: 1, guidance: 0``. ``scheduler``: the class of diffusers to use in place of the
    folder's. Guidance of 1 and less is none: a negative prompt would do nothing and is refused. So are prompts longer
    than the text towers read (77 tokens): nothing is cut off. Where the folder has a ``safety_checker``, pictures that
    it flags come black, with a score ``flagged`` of 1; ``safety_checker: false`` leaves it out.
    """

    name: ClassVar[str] = "image"
    request: ClassVar[type[Request]] = ImageRequest

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    width_px: Side = None
    height_px: Side = None
    scheduler: str | None = None
    safety_checker: bool = True

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load a folder of a text-to-image pipeline, offline."""
        pictures = _Pictures(self, device, paths["model"])

        def generate(requests: Sequence[ImageRequest], progress: Progress) -> list[Any]:
            return in_batches(requests, self.batch_size, pictures.plan, pictures.make, progress)

        return generate


class _Pictures:
    """The loaded pipeline, and the same networks as one that starts from a picture."""

    def __init__(self, settings: Image, device: str, path: str) -> None:
        from mmray.models.diffusion import Folder, from_picture

        instead = {} if settings.safety_checker else {"safety_checker": None}
        self._folder = Folder(path, KINDS, settings.precision, device, instead)
        if settings.scheduler is not None:
            self._folder.reschedule(settings.scheduler)
        self._words: Any = self._folder.pipeline
        self._picture: Any = from_picture(self._words)
        self._settings = settings
        self._steps, self._guidance = defaults(self._words, settings)
        side_px: int = self._words.unet.config.sample_size * self._words.vae_scale_factor
        self._size_px = settings.width_px or side_px, settings.height_px or side_px

    def plan(self, request: ImageRequest) -> _Plan:
        """Fill in what a request leaves out; RequestError where it cannot be done."""
        steps, guidance = guided(self._folder, request, self._steps, self._guidance)
        strength, size_px = None, self._size_px
        if request.image is not None:
            strength = request.strength
            if int(steps * strength) < 1:
                raise RequestError("strength", f"is {strength:g}, of {steps} steps not one; give more steps")
            height_px, width_px = request.image.shape[:2]
            size_px = _whole(width_px), _whole(height_px)
        elif "strength" in request.model_fields_set:
            raise RequestError("strength", "goes with an image, and there is none")
        width_px, height_px = request.width_px or size_px[0], request.height_px or size_px[1]
        if max(width_px, height_px) > LARGEST_PX:
            raise RequestError(
                "image", f"is {width_px} x {height_px} px; give a width_px and height_px it is scaled to"
            )
        return _Plan(steps, guidance, width_px, height_px, bool(request.negative_prompt), strength)

    def make(self, plan: _Plan, requests: list[ImageRequest], progress: Callable[[int], None]) -> list[Result]:
        """Make the pictures of one batch."""
        import torch

        from mmray.models.diffusion import finite

        pipeline = self._words if plan.strength is None else self._picture

        def after_step(_: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            progress(plan.work * (step + 1) // pipeline.num_timesteps)  # some schedulers take more steps than asked for
            return tensors

        if plan.strength is None:
            start: dict[str, Any] = {"width": plan.width_px, "height": plan.height_px}
        else:
            start = {"image": [_scaled(request.image, plan) for request in requests], "strength": plan.strength}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`upcast_vae`", FutureWarning)  # XL in float16: diffusers warns of itself
            found = pipeline(
                prompt=[request.prompt for request in requests],
                # None is not "" to XL, which then takes zeros.
                negative_prompt=[request.negative_prompt for request in requests] if plan.negative else None,
                num_inference_steps=plan.steps,
                guidance_scale=plan.guidance,
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
                callback_on_step_end=after_step,
                output_type="np",
                **start,
            )
        values = finite(found.images, self._folder.path, self._settings.precision)
        flagged = getattr(found, "nsfw_content_detected", None) or [None] * len(requests)
        return [
            Result(picture=picture, scores={} if flag is None else {"flagged": float(flag)})
            for picture, flag in zip((values * 255).round().astype(np.uint8), flagged, strict=True)
        ]


def _whole(side_px: int) -> int:
    """Return the nearest side that latents fill."""
    return max(SMALLEST_PX, round(side_px / MULTIPLE_PX) * MULTIPLE_PX)


def _scaled(image: Any, plan: _Plan) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(image).resize((plan.width_px, plan.height_px), Pillow.Resampling.LANCZOS)
