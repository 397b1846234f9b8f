"""One canvas that two models paint: what ``spectrogram`` loads in the worker."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmray.errors import ConfigError
from mmray.generation import imprint, joint, weighting
from mmray.generation.base import RequestError, Result
from mmray.generation.spectrogram import PADDING_PX, SpectrogramRequest
from mmray.models import hifigan, mel_image
from mmray.models.diffusion import finite, hushed, rescheduled
from mmray.models.latent import LATENT_PX, LatentDiffusion

HEIGHT_PX = mel_image.BANDS
# Of the noise, what the two models must agree on.
SHARED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


class Plan(NamedTuple):
    """What the canvases of one batch have in common; ``work`` is how many steps of the scheduler are done."""

    steps: int
    skipped: int
    width_px: int
    crop: str
    work: int


class Canvas:
    """Both models and the vocoder, on one device; ``plan`` and ``make`` are for ``in_batches``."""

    def __init__(self, model: str, sound_model: str, precision: str, device: str, scheduler: str | None) -> None:
        """Load two folders; ConfigError, naming file and tensor, where they are not what they seem or do not agree."""
        picture = LatentDiffusion(model, precision, device)
        sound = LatentDiffusion(sound_model, precision, device)
        vocoder = hifigan.load(Path(sound_model) / "vocoder").to(device)
        self._picture, self._sound, self._vocoder, self._device = picture, sound, vocoder, device
        for key in SHARED:
            ours, theirs = picture.scheduler.config.get(key), sound.scheduler.config.get(key)
            if ours != theirs:
                raise ConfigError(
                    f"{sound.path}/scheduler/scheduler_config.json: {key} is {theirs!r}, and that of {picture.path} "
                    f"{ours!r}: the two models cannot share a canvas"
                )
        if picture.channels != sound.channels:
            raise ConfigError(f"{sound.path}: its latents have {sound.channels} channels, not {picture.channels}")
        if (vocoder.settings.mels, vocoder.settings.hop) != (mel_image.BANDS, mel_image.HOP):
            raise ConfigError(
                f"{sound.path}/vocoder/config.json: num_mels must be {mel_image.BANDS} and the upsample_rates' product "
                f"{mel_image.HOP}, not {vocoder.settings.mels} and {vocoder.settings.hop}"
            )
        own = picture.scheduler
        self._scheduler = own if scheduler is None else rescheduled(own, scheduler, picture.path)

    def plan(self, request: SpectrogramRequest) -> Plan:
        """Count the steps; RequestError where the request cannot be done."""
        for model, fields in (
            (self._picture, ("prompt", "negative_prompt")),
            (self._sound, ("sound_prompt", "negative_sound_prompt")),
        ):
            for field in fields:
                if problem := model.too_long(getattr(request, field)):
                    raise RequestError(field, problem)
        try:
            _, timesteps = self._timesteps(request.steps, request.skipped)
        except ValueError as error:
            raise RequestError("steps", str(error)) from error
        try:
            self._weights(request, timesteps)
        except ValueError as error:  # a scheduler that begins later than the strength says
            raise RequestError("sound_from", f"{error}; let one begin earlier or last longer") from error
        return Plan(request.steps, request.skipped, request.width_px, request.crop, len(timesteps))

    @torch.inference_mode()
    def make(self, plan: Plan, requests: list[SpectrogramRequest], progress: Callable[[int], None]) -> list[Result]:
        """Paint the canvases of one batch."""
        scheduler, timesteps = self._timesteps(plan.steps, plan.skipped)
        random = [torch.Generator().manual_seed(request.seed) for request in requests]
        latents = self._first(plan, requests, scheduler, timesteps, random)
        modalities = self._modalities(requests, timesteps)
        for step, after in enumerate(joint.denoised(scheduler, timesteps, latents, modalities, random), start=1):
            progress(step)
            latents = after
        return self._finished(latents, plan.crop)

    def _timesteps(self, steps: int, skipped: int) -> tuple[Any, Tensor]:
        """Return a fresh scheduler and the steps that are to be done, as diffusers counts those of img2img."""
        with hushed():
            scheduler = self._scheduler.from_config(self._scheduler.config)
        scheduler.set_timesteps(steps, device=self._device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped * scheduler.order)
        left = scheduler.timesteps[skipped * scheduler.order :]
        return scheduler, left if skipped < steps else left[:0]  # PNDM has more timesteps than steps

    def _weights(self, request: SpectrogramRequest, timesteps: Tensor) -> npt.NDArray[np.float32]:
        times = timesteps.cpu().numpy() / self._scheduler.config.num_train_timesteps
        return weighting.weights(times, request.picture_span, request.sound_span, request.sound_weight)

    def _first(
        self,
        plan: Plan,
        requests: list[SpectrogramRequest],
        scheduler: Any,
        timesteps: Tensor,
        random: list[torch.Generator],
    ) -> Any:
        """Return noise or, where steps are skipped, the imprints with as much noise as belongs to the first step."""
        shape = self._picture.channels, HEIGHT_PX // LATENT_PX, plan.width_px // LATENT_PX
        noise = torch.stack([torch.randn(shape, generator=seeded) for seeded in random]).to(self._device)
        if not plan.skipped:
            return scheduler.init_noise_sigma * noise
        imprints = self._sound.encoded(torch.stack([_imprint(request) for request in requests]).to(self._device))
        if not plan.work:
            return imprints
        return scheduler.add_noise(imprints, noise, timesteps[:1].repeat(len(requests)))

    def _modalities(self, requests: list[SpectrogramRequest], timesteps: Tensor) -> list[joint.Modality]:
        shares = np.stack([self._weights(request, timesteps) for request in requests], axis=1)
        weights = torch.from_numpy(shares).to(self._device)
        words = "prompt", "negative_prompt", "guidance"
        sounding = "sound_prompt", "negative_sound_prompt", "sound_guidance"
        made = []
        for place, (model, fields) in enumerate(((self._picture, words), (self._sound, sounding))):
            prompts, negatives, guidance = ([getattr(request, field) for request in requests] for field in fields)
            noise = partial(_estimates, model, model.embedded(negatives), model.embedded(prompts))
            scales = torch.tensor(guidance, dtype=torch.float32, device=self._device)
            made.append(joint.Modality(noise, scales, weights[:, :, place]))
        return made

    def _finished(self, latents: Tensor, crop: str) -> list[Result]:
        """Return what the latents look and sound like."""
        if crop == "latents":
            latents = latents[..., : -PADDING_PX // LATENT_PX]
        pictures, images = self._picture.decoded(latents), self._sound.decoded(latents)
        sounds = finite(self._vocoder(mel_image.spectra(images)), self._sound.path, self._sound.precision)
        if crop == "pixels":
            pictures, images = pictures[..., :-PADDING_PX], images[..., :-PADDING_PX]
            sounds = sounds[..., : -PADDING_PX * mel_image.HOP]
        coloured, grey = _pixels(pictures.permute(0, 2, 3, 1)), _pixels(images.mean(1))
        return [
            Result(picture=picture, sound=sound, rate_hz=mel_image.RATE_HZ, spectrum=spectrum)
            for picture, sound, spectrum in zip(coloured, sounds.cpu().numpy(), grey, strict=True)
        ]


def _estimates(
    model: LatentDiffusion, without: Tensor, words: Tensor, latents: Tensor, time: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the estimates of some rows without and with their words, in one pass."""
    both = model.noise(torch.cat([latents, latents]), time, torch.cat([without[rows], words[rows]]))
    return both[: len(rows)], both[len(rows) :]


def _imprint(request: SpectrogramRequest) -> Tensor:
    """Return the imprint in the canvas's size: (3, height, width) from 0 to 1."""
    picture = request.imprint
    if request.imprint_text is not None:
        picture = imprint.of_text(request.imprint_text, request.width_px, HEIGHT_PX)
    found = torch.from_numpy(np.array(picture)).float() / 255  # one that Ray hands over is read-only
    channels = found.permute(2, 0, 1) if found.ndim == 3 else found.expand(3, *found.shape)
    size = (HEIGHT_PX, request.width_px)
    return interpolate(channels[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _pixels(values: Tensor) -> npt.NDArray[np.uint8]:
    return (values * 255).round().to(torch.uint8).cpu().numpy()
