"""Images that sound: one canvas that two models paint, a picture to look at and a spectrogram to listen to.

Source: Chen, Geng, Owens 2024, Images that Sound (IFICL/images-that-sound, MIT), rebuilt from its published numbers;
sound model and vocoder: Xue et al. 2024, Auffusion (CC-BY-NC-SA-4.0). A column of pixels is 10 ms of sound.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from mmray.generation import imprint, weighting
from mmray.generation.base import GenerateFn, Generator, Progress, Request
from mmray.generation.batches import in_batches

PADDING_PX = 32  # Auffusion learnt 10 s of sound as 10.24 s: the last 32 columns are silence
LATENT_PX = 8


class SpectrogramRequest(Request):
    """A picture that sounds; the defaults are the authors'.

    ``picture_from``, ``picture_until``, ``sound_from``, ``sound_until``: when each model paints, as fractions of the
    diffusion from 1 (noise) to 0 (the end); where both do, the sound's estimate has ``sound_weight``. ``imprint``: a
    picture (uint8, grey or RGB, of any size) to begin with, of which ``strength`` 0 leaves all and 1 nothing;
    ``imprint_text``: words in its place, drawn across the canvas. ``crop``: how the last 0.32 s, which the sound model
    fills with silence, are cut: off the picture, off the latents, or not.
    """

    prompt: str = Field(min_length=1)
    sound_prompt: str = Field(min_length=1)
    negative_prompt: str = ""
    negative_sound_prompt: str = ""
    guidance: float = Field(10.0, ge=0, le=100)
    sound_guidance: float = Field(10.0, ge=0, le=100)
    sound_weight: float = Field(0.5, ge=0, le=1)
    picture_from: float = Field(0.9, ge=0, le=1)
    picture_until: float = Field(0.0, ge=0, le=1)
    sound_from: float = Field(1.0, ge=0, le=1)
    sound_until: float = Field(0.0, ge=0, le=1)
    steps: int = Field(100, ge=1, le=1000)
    width_px: int = Field(imprint.WIDTH_PX, ge=2 * PADDING_PX, le=8192, multiple_of=LATENT_PX)
    crop: Literal["pixels", "latents", "none"] = "pixels"
    imprint: npt.NDArray[np.uint8] | None = Field(None, repr=False)
    imprint_text: str | None = Field(None, min_length=1, max_length=1000)
    strength: float = Field(0.8, ge=0, le=1)

    @field_validator("imprint")
    @classmethod
    def _a_picture(cls, imprint: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8] | None:
        if imprint is not None:
            shape = imprint.shape
            if imprint.dtype != np.uint8 or 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
                raise ValueError(f"must be uint8 (height, width) or (height, width, 3), not {imprint.dtype} {shape}")
        return imprint

    @model_validator(mode="after")
    def _strength_of_something(self) -> "SpectrogramRequest":
        if not self.imprinted and "strength" in self.model_fields_set:
            raise ValueError("strength: goes with an imprint, and there is none")
        return self

    @model_validator(mode="after")
    def _words_that_can_be_drawn(self) -> "SpectrogramRequest":
        if self.imprint_text is not None:
            if self.imprint is not None:
                raise ValueError("imprint_text: there is an imprint too; give one of them")
            try:
                imprint.of_text(self.imprint_text, LATENT_PX, LATENT_PX)
            except ValueError as error:
                raise ValueError(f"imprint_text: {error}") from error
        return self

    @model_validator(mode="after")
    def _never_idle(self) -> "SpectrogramRequest":
        idle = weighting.gap(self.picture_span, self.sound_span, self.strength if self.imprinted else 1.0)
        if idle is not None:
            raise ValueError(
                f"picture_from, picture_until, sound_from, sound_until: below the time {idle:g} neither picture nor "
                "sound would be painted; let one of them last"
            )
        return self

    @property
    def picture_span(self) -> weighting.Span:
        """Return when the picture is painted."""
        return self.picture_from, self.picture_until

    @property
    def sound_span(self) -> weighting.Span:
        """Return when the sound is painted."""
        return self.sound_from, self.sound_until

    @property
    def imprinted(self) -> bool:
        """Tell whether there is something to begin with."""
        return self.imprint is not None or self.imprint_text is not None

    @property
    def skipped(self) -> int:
        """Return how many of the first steps the imprint stands for."""
        return self.steps - int(self.steps * self.strength + weighting.CLOSE) if self.imprinted else 0


class Spectrogram(Generator):
    """``model``: a Stable Diffusion folder; ``sound_model``: one beside which lies a ``vocoder`` (Auffusion).

    ``scheduler``: a class of diffusers (DDIMScheduler, EulerDiscreteScheduler ...), None for the folder's own.
    """

    name: ClassVar[str] = "spectrogram"
    request: ClassVar[type[Request]] = SpectrogramRequest
    checkpoints: ClassVar[tuple[str, ...]] = ("model", "sound_model")

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    sound_model: str = "auffusion/auffusion-full-no-adapter"
    scheduler: str | None = "DDIMScheduler"

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load both models and the vocoder; ConfigError, naming file and tensor, where they are not what they seem."""
        from mmray.generation.canvas import Canvas

        canvas = Canvas(paths["model"], paths["sound_model"], self.precision, device, self.scheduler)

        def generate(requests: Sequence[SpectrogramRequest], progress: Progress) -> list[Any]:
            return in_batches(requests, self.batch_size, canvas.plan, canvas.make, progress)

        return generate
