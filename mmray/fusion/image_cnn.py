"""Small pictures, encoded: digits, mouths; a window is one picture."""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from mmray.errors import ConfigError
from mmray.fusion.config import Part, Width
from mmray.fusion.encoder import AttentionPool, Encoder


class ImageCnn(Part):
    """Pictures as the extractor ``pixels`` writes them; in training each is turned, scaled and shifted at random.

    ``filters``: of the convolutions; the picture halves after each. ``turn_deg``, ``scale`` (a share), ``shift_px``:
    the most that a picture is turned, scaled and shifted by.
    """

    name: Literal["image_cnn"] = "image_cnn"
    side_px: int = Field(28, ge=2, le=512)
    channels: Literal[1, 3] = 1
    filters: tuple[Width, ...] = Field((16, 32, 64), min_length=1)
    width: Width = 128
    dropout: float = Field(0.2, ge=0, lt=1)
    turn_deg: float = Field(10, ge=0, le=180)
    scale: float = Field(0.1, ge=0, lt=1)
    shift_px: float = Field(2, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.side_px >> len(self.filters):
            raise ValueError(f"filters: a picture of {self.side_px} pixels cannot halve {len(self.filters)} times")
        return self


class ImageEncoder(Encoder):
    """Convolutions over each picture, attention over the pictures of a sample."""

    def __init__(self, settings: ImageCnn, dim: int) -> None:
        super().__init__()
        side, channels = settings.side_px, settings.channels
        if dim != side * side * channels:
            raise ConfigError(
                f"image_cnn: a picture of side_px {side} and {channels} channel(s) is {side * side * channels} "
                f"numbers; the windows have {dim}"
            )
        self.settings, self.width, self.picture = settings, settings.width, (side, side, channels)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *settings.filters), settings.filters, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        left = (side >> len(settings.filters)) ** 2 * settings.filters[-1]
        layers += [nn.Flatten(), nn.Linear(left, self.width), nn.ReLU(), nn.Dropout(settings.dropout)]
        # Channels last: a third less time on a CPU.
        self.network = nn.Sequential(*layers)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pool = AttentionPool(self.width)

    def forward(self, windows: Tensor, there: Tensor) -> Tensor:
        """Encode pictures (batch, windows, side x side x channels) into (batch, width)."""
        side, channels = self.settings.side_px, self.settings.channels
        pictures = windows[there].reshape(-1, side, side, channels).permute(0, 3, 1, 2)
        if self.training:
            pictures = moved(pictures, self.settings.turn_deg, self.settings.scale, self.settings.shift_px)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return torch.as_tensor(self.pool(self.network(pictures), there))


def moved(pictures: Tensor, turn_deg: float, scale: float, shift_px: float) -> Tensor:
    """Turn, scale and shift each picture (n, channels, side, side) at random; what comes in from outside is 0."""
    turns, scales, across, down = (2 * torch.rand(4, len(pictures), device=pictures.device) - 1).unbind()
    turns, scales = turns * math.radians(turn_deg), 1 + scales * scale
    shift = 2 * shift_px / pictures.shape[-1]  # grids go from -1 to 1
    cos, sin = turns.cos() * scales, turns.sin() * scales
    matrix = torch.stack([cos, -sin, across * shift, sin, cos, down * shift], 1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False)
