"""What noise means: the same in training, where it teaches a network whom to trust, and in evaluation.

``snr_db``: white Gaussian noise so many decibels below the signal.

- A waveform or a picture has a power of its own: the mean square of its samples, without the zeros after the last
  sample that is none, or of its pixels. The zeros stay.
- A number of any other vector (an embedding, a log-mel window) is measured by its deviation over the train part: 0 dB
  is noise of that deviation.

``hidden``: that share is set to 0: of a picture one rectangle at a random place, the same in all pictures of a sample;
of a waveform one stretch; of any other vector so many numbers at random, the same in all windows.
"""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mmray.fusion.config import Part

Kind = Literal["snr_db", "hidden"]
Shape = tuple[int, int, int]
CLEAN: dict[Kind, float] = {"snr_db": math.inf, "hidden": 0.0}


class Noise(Part):
    """The noise of one modality: in training a level at random within ``train`` for a ``share`` of the samples."""

    kind: Kind
    share: float = Field(0.5, ge=0, le=1)
    train: tuple[float, float]
    sweep: tuple[float, ...] = Field(min_length=1)  # levels of the evaluation, in the order of its table

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.train[0] <= self.train[1]:
            raise ValueError("train: the lower level comes first")
        levels = (*self.train, *self.sweep)
        if not all(map(math.isfinite, levels)):
            raise ValueError("levels are finite; samples without noise are in every training and evaluation")
        if self.kind == "hidden" and not all(0 <= level <= 1 for level in levels):
            raise ValueError("levels of hidden are shares, from 0 to 1")
        return self

    def levels(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the levels of a batch of training samples: float32 (batch,); those that stay clean have CLEAN."""
        drawn = torch.rand(batch, 2, generator=generator)
        low, high = self.train
        return torch.where(drawn[:, 0] < self.share, low + (high - low) * drawn[:, 1], CLEAN[self.kind])


def disturb(
    windows: Tensor,
    there: Tensor,
    kind: Kind,
    level: Tensor,
    generator: torch.Generator,
    picture: Shape | None = None,
    deviation: Tensor | None = None,
) -> Tensor:
    """Return float32 windows (batch, windows, dim) with noise; ``level`` (batch,): decibels, or shares.

    ``picture``: height, width, channels of a window; ``deviation`` (dim,): of a vector; neither: windows are a
    waveform. ``generator``, on the CPU, gives each sample one seed: the noise of a sample is the same in any batch in
    which as many samples came before it, at any level, whatever its padding.
    """
    disturbed = windows.clone()
    seeds = torch.randint(2**62, (len(windows),), generator=generator)
    for place, (seed, one) in enumerate(zip(seeds.tolist(), level.tolist(), strict=True)):
        if one == CLEAN[kind]:
            continue
        own, real = torch.Generator().manual_seed(seed), there[place]
        given = windows[place, real].cpu()
        if kind == "hidden":
            made = _hidden(given, one, own, picture, deviation is None)
        else:
            made = _noisy(given, one, own, picture, deviation)
        disturbed[place, real] = made.to(windows.device)
    return disturbed


def length(wave: Tensor) -> int:
    """Return how many samples a waveform (n,) has without the zeros at its end."""
    sounds = wave.nonzero()
    return int(sounds[-1]) + 1 if len(sounds) else 0


def _noisy(
    given: Tensor, snr_db: float, own: torch.Generator, picture: Shape | None, deviation: Tensor | None
) -> Tensor:
    rate = 10 ** (-snr_db / 20)
    if deviation is not None:
        return given + rate * deviation.cpu() * torch.randn(given.shape, generator=own)
    made = given.flatten().clone()
    end = len(made) if picture else length(made)
    if end:
        power = made[:end].square().mean()
        made[:end] += rate * power.sqrt() * torch.randn(end, generator=own)
    return made.reshape(given.shape)


def _hidden(given: Tensor, share: float, own: torch.Generator, picture: Shape | None, wave: bool) -> Tensor:
    if picture:
        top, bottom, left, right = _rectangle(share, picture, own)
        made = given.clone().reshape(-1, *picture)
        made[:, top:bottom, left:right] = 0
    elif wave:
        made = given.flatten().clone()
        end = length(made)
        count = round(share * end)
        start = int(torch.randint(end - count + 1, (1,), generator=own))
        made[start : start + count] = 0
    else:
        made = given.clone()
        made[:, torch.randperm(given.shape[1], generator=own)[: round(share * given.shape[1])]] = 0
    return made.reshape(given.shape)


def _rectangle(share: float, picture: Shape, own: torch.Generator) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of a rectangle with that share of the area, of any proportions that fit."""
    height_px, width_px, _ = picture
    form, down, across = torch.rand(3, generator=own).tolist()
    high = max(1, round(height_px * share**form), math.ceil(height_px * share))
    wide = min(width_px, round(share * height_px * width_px / high))
    top, left = int(down * (height_px - high + 1)), int(across * (width_px - wide + 1))
    return top, top + high, left, left + wide
