"""Sounds from words: AudioLDM (s-full, s-full-v2, m-full, l-full) and AudioLDM2.

Source: Liu et al. 2023, AudioLDM and AudioLDM 2, through diffusers. Weights: cvssp/audioldm-s-full-v2 (CC-BY-NC-SA-4.0:
no commercial use) unless another is named.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import ceil, prod
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from mmray.errors import ConfigError
from mmray.generation.base import GenerateFn, Progress, Request, RequestError, Result
from mmray.generation.batches import in_batches
from mmray.generation.prompts import Prompt, Prompted, defaults, guided

KINDS = ("AudioLDMPipeline", "AudioLDM2Pipeline")
# Published folders of AudioLDM2 name GPT2Model, which diffusers cannot let write (huggingface/diffusers#12630).
INSTEAD = {"language_model": "GPT2LMHeadModel"}
Length = Annotated[float | None, Field(gt=0, le=120)]


class AudioRequest(Prompt):
    """What is None is as the generator says."""

    length_s: Length = None


class _Plan(NamedTuple):
    """What the sounds of one batch have in common."""

    work: int
    guidance: float
    samples: int


class Audio(Prompted):
    """One seed gives one sound, alone or in a batch (float32: within about 1e-5).

    A sound has exactly ``length_s`` times the vocoder's rate samples, rounded; None: the length that the networks were
    trained on (AudioLDM 5.12 s or 10.24 s). Guidance of 1 and less is none: a negative prompt would do nothing and is
    refused. So are prompts longer than the text towers read: nothing is cut off.
    """

    name: ClassVar[str] = "audio"
    request: ClassVar[type[Request]] = AudioRequest

    model: str = "cvssp/audioldm-s-full-v2"
    length_s: Length = None

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load a folder of an AudioLDM pipeline, offline."""
        sounds = _Sounds(self, device, paths["model"])

        def generate(requests: Sequence[AudioRequest], progress: Progress) -> list[Any]:
            return in_batches(requests, self.batch_size, sounds.plan, sounds.make, progress)

        return generate


class _Sounds:
    """The loaded pipeline."""

    def __init__(self, settings: Audio, device: str, path: str) -> None:
        from mmray.models.diffusion import Folder

        self._folder = Folder(path, KINDS, settings.precision, device, INSTEAD)
        self._pipeline: Any = self._folder.pipeline
        self._settings = settings
        self._steps, self._guidance = defaults(self._pipeline, settings)
        self._second = hasattr(self._pipeline, "language_model")
        if self._second and self._pipeline.text_encoder_2.config.model_type != "t5":
            raise ConfigError(f"{path}: speaks a text, and is none for sounds: its text_encoder_2 is not T5")
        vocoder = self._pipeline.vocoder.config
        self._rate_hz: int = vocoder.sampling_rate
        self._hop = prod(vocoder.upsample_rates)  # samples a frame
        self._frames: int = self._pipeline.unet.config.sample_size * self._pipeline.vae_scale_factor
        self._length_s = settings.length_s or self._frames * self._hop / self._rate_hz

    def plan(self, request: AudioRequest) -> _Plan:
        """Fill in what a request leaves out; RequestError where it cannot be done."""
        steps, guidance = guided(self._folder, request, self._steps, self._guidance)
        length_s = request.length_s or self._length_s
        samples = round(length_s * self._rate_hz)
        if samples < 1:
            raise RequestError("length_s", f"{length_s:g} s is no sample at {self._rate_hz} Hz")
        return _Plan(steps, guidance, samples)

    def make(self, plan: _Plan, requests: list[AudioRequest], progress: Callable[[int], None]) -> list[Result]:
        """Make the sounds of one batch."""
        import torch

        from mmray.models.diffusion import finite

        steps = count(1)
        whole = self._pipeline.vae_scale_factor
        frames = ceil(plan.samples / self._hop / whole) * whole
        words = self._thoughts(plan, requests) if self._second else _words(requests)
        found = self._pipeline(
            **words,
            # Half a frame more, which diffusers rounds away: 0.29 s would be 28 frames to it.
            audio_length_in_s=(frames + 0.5) * self._hop / self._rate_hz,
            num_inference_steps=plan.work,
            guidance_scale=plan.guidance,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
            callback=lambda *_: progress(min(next(steps), plan.work)),
        )
        waves = finite(found.audios, self._folder.path, self._settings.precision).astype(np.float32)
        assert waves.shape[1] >= plan.samples
        return [Result(sound=wave[: plan.samples], rate_hz=self._rate_hz) for wave in np.clip(waves, -1, 1)]

    def _thoughts(self, plan: _Plan, requests: list[AudioRequest]) -> dict[str, Any]:
        """Return what AudioLDM2's towers and language model make of the words, each request by itself.

        In a batch its GPT-2 would begin behind the padding of the longest prompt, and think something else.
        """
        import torch

        found: list[list[Any]] = []
        for request in requests:
            parts = self._pipeline.encode_prompt(
                [request.prompt],
                self._pipeline.device,
                num_waveforms_per_prompt=1,
                do_classifier_free_guidance=plan.guidance > 1,
                negative_prompt=[request.negative_prompt],
            )
            found.append([part for whole in parts for part in whole.flip(0)])  # words before negative words
        halves = zip(*found, strict=True)
        return {name: _padded(rows, torch) for name, rows in zip(_names(plan.guidance > 1), halves, strict=True)}


def _names(both: bool) -> list[str]:
    """Return the pipeline's names for what ``encode_prompt`` gives, for words and (``both``) negative words."""
    names = ["prompt_embeds", "attention_mask", "generated_prompt_embeds"]
    return [half + name for name in names for half in (("", "negative_") if both else ("",))]


def _padded(rows: Sequence[Any], torch: Any) -> Any:
    """Stack rows of different numbers of tokens; a mask is 0 where nothing is."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _words(requests: list[AudioRequest]) -> dict[str, Any]:
    return {
        "prompt": [request.prompt for request in requests],
        "negative_prompt": [request.negative_prompt for request in requests],
    }
