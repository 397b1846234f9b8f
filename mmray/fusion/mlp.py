"""Feature vectors of any extractor, encoded: standardised, narrowed layer by layer, pooled over windows."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmray.fusion.config import Part, Width
from mmray.fusion.encoder import AttentionPool, Encoder
from mmray.fusion.standard import Standard


class Mlp(Part):
    """``hidden``: widths of the layers, each usually narrower than the one before; the last is the encoder's width."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field((256, 128), min_length=1)
    dropout: float = Field(0.3, ge=0, lt=1)


class MlpEncoder(Encoder):
    """Standardise, then linear - LayerNorm - GELU - dropout for each width; attention where there are more windows."""

    def __init__(self, settings: Mlp, dim: int) -> None:
        super().__init__()
        self.width = settings.hidden[-1]
        self.standard = Standard(dim)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((dim, *settings.hidden), settings.hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(settings.dropout)]
        self.network, self.pool = nn.Sequential(*layers), AttentionPool(self.width)

    @property
    def deviation(self) -> Tensor:
        """Return the deviation of each number over the train part (dim,)."""
        return self.standard.deviation

    def fit(self, windows: Tensor, there: Tensor) -> None:
        """Take mean and deviation of each number over the windows that are there."""
        self.standard.fit(windows[there].cpu().numpy())

    def forward(self, windows: Tensor, there: Tensor) -> Tensor:
        """Encode (batch, windows, dim) into (batch, width)."""
        return torch.as_tensor(self.pool(self.network(self.standard(windows[there])), there))
