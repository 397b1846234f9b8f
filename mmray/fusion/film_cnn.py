"""Short films, encoded: a mouth while a word is said; a window is one frame.

What stands still is taken away and what moves is kept: a film is brought to a fixed number of frames, less their mean,
and these are the channels of one picture, so that the first convolution sees how each place changes in time.

Source: Chung & Zisserman 2016, Lip reading in the wild (early fusion: frames as channels). Weights: trained here.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.fusion.config import Part, Width
from mmray.fusion.encoder import Encoder
from mmray.fusion.image_cnn import moved


class FilmCnn(Part):
    """Grey films as the extractor ``pixels`` writes them, frames in the order of time.

    ``frames``: to how many each film is brought, evenly over its length. ``filters``: of the convolutions; the picture
    halves after each. In training each film is as a whole turned by up to ``turn_deg``, scaled by up to ``scale`` (a
    share) and shifted by up to ``shift_px``; it begins and ends up to ``stretch`` (a share of its length) later or
    earlier, or stands still for as long before its first or behind its last frame.
    """

    name: Literal["film_cnn"] = "film_cnn"
    side_px: int = Field(16, ge=2, le=512)
    frames: int = Field(8, ge=2, le=256)
    filters: tuple[Width, ...] = Field((32, 64, 64), min_length=1)
    width: Width = 64
    dropout: float = Field(0.4, ge=0, lt=1)
    turn_deg: float = Field(4, ge=0, le=180)
    scale: float = Field(0.08, ge=0, lt=1)
    shift_px: float = Field(1, ge=0)
    stretch: float = Field(0.15, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.side_px >> len(self.filters):
            raise ValueError(f"filters: a film of {self.side_px} pixels cannot halve {len(self.filters)} times")
        return self


class FilmEncoder(Encoder):
    """Convolutions over what moves in each film."""

    rate: Tensor

    def __init__(self, settings: FilmCnn, dim: int) -> None:
        super().__init__()
        side = settings.side_px
        if dim != side * side:
            raise ConfigError(
                f"film_cnn: a grey frame of side_px {side} is {side * side} numbers; the windows have {dim}"
            )
        self.settings, self.width, self.picture = settings, settings.width, (side, side, 1)
        self.register_buffer("rate", torch.ones(()))
        layers: list[nn.Module] = []
        for inputs, outputs in zip((settings.frames, *settings.filters), settings.filters, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        left = (side >> len(settings.filters)) ** 2 * settings.filters[-1]
        layers += [nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(left, self.width), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Dropout(settings.dropout))

    def fit(self, windows: Tensor, there: Tensor) -> None:
        """Take the deviation of what moves."""
        deviation = movement(windows, there, self.settings.frames).std()
        self.rate.copy_(1 / deviation if deviation > 0 else torch.ones(()))

    def forward(self, windows: Tensor, there: Tensor) -> Tensor:
        """Encode films (batch, windows, side x side) into (batch, width)."""
        own = self.settings
        found = movement(windows, there, own.frames, own.stretch if self.training else 0) * self.rate
        pictures = found.reshape(-1, own.frames, own.side_px, own.side_px)
        if self.training:
            pictures = moved(pictures, own.turn_deg, own.scale, own.shift_px)
        return torch.as_tensor(self.network(pictures))


def movement(windows: Tensor, there: Tensor, frames: int, stretch: float = 0) -> Tensor:
    """Bring each film to ``frames`` frames, mixed from their neighbours, less their mean: (batch, frames, dim).

    ``stretch``: the largest share of its length by which a film begins and ends elsewhere.
    """
    count = there.sum(1, keepdim=True)
    order = (~there).long().argsort(dim=1, stable=True)  # frames that are there come first
    at = torch.linspace(0, 1, frames, device=windows.device)
    begin, end = stretch * (2 * torch.rand(2, len(windows), 1, device=windows.device) - 1)
    place = (begin + (1 + end - begin) * at).clamp(0, 1) * (count - 1)
    before = place.long()
    first, second = (
        windows.gather(1, order.gather(1, one)[..., None].expand(-1, -1, windows.shape[2]))
        for one in (before, torch.minimum(before + 1, count - 1))
    )
    film = first + (place - before).unsqueeze(2) * (second - first)
    return torch.as_tensor(film - film.mean(1, keepdim=True))
