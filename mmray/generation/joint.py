"""Several noise estimates on one latent: the steps from noise to picture.

Source: Chen, Geng, Owens 2024, Images that Sound, rebuilt from its published numbers. Parity:
tests/generation/test_joint.py.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Latents (rows, ...), time step and the numbers of the rows; out come two estimates, without and with the words.
NoiseFn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Modality:
    """What one model says of the noise in n latents; ``guidance`` (n,), ``weights`` (steps, n)."""

    noise: NoiseFn
    guidance: Tensor
    weights: Tensor

    def estimate(self, step: int, latents: Tensor, time: Tensor) -> Tensor:
        """Return the guided estimate times its weight; rows that weigh nothing are not computed."""
        weight = self.weights[step].to(latents.device)
        rows = weight.nonzero()[:, 0]
        joined = torch.zeros_like(latents)
        if rows.numel():
            without, with_words = self.noise(latents[rows], time, rows)
            guided = without + _column(self.guidance.to(latents.device)[rows], latents) * (with_words - without)
            joined[rows] = _column(weight[rows], latents) * guided
        return joined


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def denoised(
    scheduler: Any,
    timesteps: Tensor,
    latents: Tensor,
    modalities: Sequence[Modality],
    random: list[torch.Generator] | None = None,
) -> Iterator[Tensor]:
    """Yield the latents (n, ...) after each of ``timesteps``, which ``scheduler`` has set.

    ``random``: what each latent draws from, where the scheduler draws.
    """
    draws = "generator" in inspect.signature(scheduler.step).parameters
    settings = {"generator": random} if draws else {}
    for step, time in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, time)
        noise = torch.stack([modality.estimate(step, scaled, time) for modality in modalities]).sum(0)
        latents = scheduler.step(noise, time, latents, return_dict=False, **settings)[0]
        yield latents
