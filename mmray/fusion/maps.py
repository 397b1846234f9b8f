"""Maps from one embedding to another: linear, direct network, auto-encoder, and two towers trained by contrast.

A map puts both sides into one space, where the cosine says which target a source means. Regression under a squared
error answers an uncertain source with the average of all targets that it may mean, so that few targets become the
answer to many sources; contrast asks what tells a target from the others, and knows no such average.

Source: Hoerl & Kennard 1970 (ridge regression); Ngiam et al. 2011, Multimodal deep learning (one code for two
modalities); van den Oord et al. 2018, Representation learning with contrastive predictive coding (InfoNCE); Radford et
al. 2021, CLIP (both directions, learned temperature). Weights: trained here, see ``map_fit``.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from mmray.errors import ConfigError
from mmray.fusion.standard import Standard

Matrix = npt.NDArray[np.float32]
MapName = Literal["linear", "mlp", "autoencoder", "contrastive"]
NAMES: tuple[MapName, ...] = get_args(MapName)
TEMPERATURE = 0.07  # CLIP's to begin with; its inverse stays below 100 as there
MOST_SCALE = math.log(100)


class Training(BaseModel):
    """Sizes of the networks and how they are trained; ``linear`` needs none of it.

    ``hidden``: width of the one hidden layer of each network; ``code``: of the auto-encoder's code; ``space``: of the
    space of the two towers. ``validation``: the share of the pairs that says when to stop; ``patience``: how many
    epochs without progress on it are waited for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(256, ge=1, le=65_536)
    code: int = Field(64, ge=1, le=65_536)
    space: int = Field(128, ge=2, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(256, ge=2)
    epochs: int = Field(30, ge=1)
    patience: int = Field(8, ge=1)
    validation: float = Field(0.1, gt=0, le=0.5)


class Map(nn.Module):
    """What all maps share: ``ask`` puts sources, ``place`` puts targets into the space where cosines are taken.

    Here the space is that of the standardised targets.
    """

    name: ClassVar[MapName]

    def __init__(self, source_dim: int, target_dim: int, training: Training) -> None:
        super().__init__()
        self.source_dim, self.target_dim, self.settings = source_dim, target_dim, training
        self.source, self.target = Standard(source_dim), Standard(target_dim)

    def ask(self, source: Tensor) -> Tensor:
        """Put standardised sources (n, source_dim) into the space."""
        raise NotImplementedError

    def place(self, target: Tensor) -> Tensor:
        """Put standardised targets (n, target_dim) into the space."""
        return target

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Return what training makes small, for standardised pairs."""
        return functional.mse_loss(self.ask(source), target)

    def queries(self, sources: Matrix) -> Matrix:
        """Return where sources (n, source_dim) point: float32 (n, space), of length 1."""
        return self._into(self.ask, self.source, sources, "source")

    def places(self, targets: Matrix) -> Matrix:
        """Return where targets (n, target_dim) stand: float32 (n, space), of length 1."""
        return self._into(self.place, self.target, targets, "target")

    @torch.inference_mode()
    def _into(self, into: Callable[[Tensor], Tensor], standard: Standard, matrix: Matrix, side: str) -> Matrix:
        wanted = len(standard.mean)
        if matrix.ndim != 2 or matrix.shape[1] != wanted:
            raise ConfigError(f"{side}: the map takes vectors of {wanted} numbers (given: {matrix.shape[-1]})")
        given = torch.from_numpy(np.ascontiguousarray(matrix, np.float32)).to(standard.mean.device)
        found: Matrix = functional.normalize(into(standard(given)), dim=1).cpu().numpy()
        return found


def network(inputs: int, outputs: int, training: Training) -> nn.Sequential:
    """Return a network with one hidden layer."""
    return nn.Sequential(
        nn.Linear(inputs, training.hidden),
        nn.GELU(),
        nn.LayerNorm(training.hidden),
        nn.Dropout(training.dropout),
        nn.Linear(training.hidden, outputs),
    )


class Linear(Map):
    """Ridge regression, in closed form."""

    name = "linear"

    def __init__(self, source_dim: int, target_dim: int, training: Training) -> None:
        super().__init__(source_dim, target_dim, training)
        self.matrix = nn.Linear(source_dim, target_dim)

    def ask(self, source: Tensor) -> Tensor:
        """Put standardised sources into the space of the standardised targets."""
        return torch.as_tensor(self.matrix(source))


class Mlp(Map):
    """Direct regression by a network: the mean squared error of the standardised target."""

    name = "mlp"

    def __init__(self, source_dim: int, target_dim: int, training: Training) -> None:
        super().__init__(source_dim, target_dim, training)
        self.network = network(source_dim, target_dim, training)

    def ask(self, source: Tensor) -> Tensor:
        """Put standardised sources into the space of the standardised targets."""
        return torch.as_tensor(self.network(source))


class Autoencoder(Map):
    """Both sides are encoded into one narrow code, from which the target is rebuilt."""

    name = "autoencoder"

    def __init__(self, source_dim: int, target_dim: int, training: Training) -> None:
        super().__init__(source_dim, target_dim, training)
        self.encode_source = network(source_dim, training.code, training)
        self.encode_target = network(target_dim, training.code, training)
        self.decode = network(training.code, target_dim, training)

    def ask(self, source: Tensor) -> Tensor:
        """Put standardised sources into the space of the standardised targets."""
        return torch.as_tensor(self.decode(self.encode_source(source)))

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the squared errors of the target made from the source, and of the target made from itself."""
        return super().loss(source, target) + functional.mse_loss(self.decode(self.encode_target(target)), target)


class Contrastive(Map):
    """Two towers into a space of their own; InfoNCE in both directions over the pairs of a batch."""

    name = "contrastive"

    def __init__(self, source_dim: int, target_dim: int, training: Training) -> None:
        super().__init__(source_dim, target_dim, training)
        self.source_tower = network(source_dim, training.space, training)
        self.target_tower = network(target_dim, training.space, training)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))

    def ask(self, source: Tensor) -> Tensor:
        """Put standardised sources into the space of the towers."""
        return torch.as_tensor(self.source_tower(source))

    def place(self, target: Tensor) -> Tensor:
        """Put standardised targets into the space of the towers."""
        return torch.as_tensor(self.target_tower(target))

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the mean surprise at which target is whose, asked from both sides."""
        asked, placed = functional.normalize(self.ask(source)), functional.normalize(self.place(target))
        logits = self.log_scale.clamp(max=MOST_SCALE).exp() * asked @ placed.T
        right = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


MAPS: dict[MapName, type[Map]] = {kind.name: kind for kind in (Linear, Mlp, Autoencoder, Contrastive)}
