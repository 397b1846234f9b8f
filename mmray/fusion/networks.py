"""Fusion networks: an encoder for each input, a branch to one width, and a join that lives with missing inputs.

Source: Baltrusaitis, Ahuja & Morency 2019 (early, intermediate and late fusion); Arevalo et al. 2017 (gated units);
Vaswani et al. 2017 (attention); Neverova et al. 2016 (dropping whole modalities in training); Guo et al. 2017
(temperature scaling). Weights: trained here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmray.fusion import encoders
from mmray.fusion.encoder import Encoder
from mmray.fusion.encoders import EncoderSettings
from mmray.fusion.examples import Batch
from mmray.fusion.training import Join, Network

HEADS = 4  # of attention between modalities, where the width can be divided so


@dataclass(frozen=True)
class Shape:
    """What an input brings: the numbers of a window, and how it is encoded."""

    dim: int
    encoder: EncoderSettings


class Fusion(nn.Module):
    """What all joins share: encoders, a branch for each input, learned tokens for what is absent, temperature.

    ``forward`` gives logits (batch, classes), divided by the temperature, so that their softmax is calibrated.
    """

    def __init__(self, inputs: Mapping[str, Shape], settings: Network) -> None:
        super().__init__()
        self.names = tuple(inputs)
        self.settings = settings
        made = {name: encoders.make(one.encoder, one.dim) for name, one in inputs.items()}
        self.encoders: Mapping[str, Encoder] = nn.ModuleDict(made)  # type: ignore[assignment]
        self.branches = nn.ModuleDict({name: self.branch(made[name].width) for name in self.names})
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(self.width(name))) for name in self.names})
        self.log_temperature = nn.Parameter(torch.zeros(1), requires_grad=False)

    def branch(self, inputs: int) -> nn.Module:
        """Return what stands between an encoder and the join: one narrowing layer to the common width."""
        width = self.settings.width
        return nn.Sequential(
            nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(self.settings.dropout)
        )

    def width(self, name: str) -> int:
        """Return the numbers of a branch."""
        del name
        return self.settings.width

    def forward(self, batch: Batch) -> Tensor:
        """Return calibrated logits (batch, classes)."""
        return self.calibrated(*self.branched(batch))

    def logits(self, batch: Batch) -> Tensor:
        """Return logits before calibration, of which a network learns."""
        return self.join(*self.branched(batch))

    def branched(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return the branches, each (batch, width), and which inputs are present, bool (batch, inputs).

        In training a share of the samples loses an input.
        """
        present = self.present(batch)
        if self.training and self.settings.modality_dropout:
            present = dropped(present, self.settings.modality_dropout)
        return [self.encoded(batch, name, present[:, place]) for place, name in enumerate(self.names)], present

    def calibrated(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return logits of the branches, divided by the temperature."""
        return self.join(branches, present) / self.log_temperature.exp()

    def join(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return logits of the branches, each (batch, width); absent ones hold their token."""
        raise NotImplementedError

    def present(self, batch: Batch) -> Tensor:
        """Return which inputs samples have: bool (batch, inputs)."""
        return torch.stack([batch.there[name].any(1) for name in self.names], 1)

    def encoded(self, batch: Batch, name: str, there: Tensor) -> Tensor:
        """Return one branch (batch, width)."""
        result = self.missing[name].expand(len(there), -1)
        if there.any():
            found = self.branches[name](self.encoders[name](batch.windows[name][there], batch.there[name][there]))
            result = result.to(found.dtype).index_put((there.nonzero().squeeze(1),), found)
        return torch.as_tensor(result)


def dropped(present: Tensor, share: float) -> Tensor:
    """Take one input away from a share of the samples that have several."""
    chosen = torch.rand(present.shape, device=present.device).masked_fill(~present, -1).argmax(1)
    losing = (torch.rand(len(present), device=present.device) < share) & (present.sum(1) > 1)
    kept = present.clone()
    kept[losing, chosen[losing]] = False
    return kept


def head(inputs: int, classes: int, settings: Network) -> nn.Sequential:
    """Return the layers between what was joined and the classes."""
    layers: list[nn.Module] = []
    for width in settings.hidden:
        layers += [nn.Linear(inputs, width), nn.GELU(), nn.Dropout(settings.dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Intermediate(Fusion):
    """The branches, side by side, go into one head; with one input also the network of ``single``."""

    def __init__(self, inputs: Mapping[str, Shape], classes: int, settings: Network) -> None:
        super().__init__(inputs, settings)
        self.head = head(sum(map(self.width, self.names)), classes, settings)

    def join(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return logits of the branches."""
        del present  # the tokens tell what is absent
        return torch.as_tensor(self.head(torch.cat(branches, 1)))


class Early(Intermediate):
    """What the encoders give is joined as it is: no branches."""

    def branch(self, inputs: int) -> nn.Module:
        """Return nothing that changes anything."""
        del inputs
        return nn.Identity()

    def width(self, name: str) -> int:
        """Return what the encoder gives."""
        return self.encoders[name].width


class Gated(Fusion):
    """The branches are added up with weights that the network chooses for each sample; absent inputs weigh nothing."""

    def __init__(self, inputs: Mapping[str, Shape], classes: int, settings: Network) -> None:
        super().__init__(inputs, settings)
        self.gate = head(len(inputs) * settings.width, len(inputs), settings)
        self.head = head(settings.width, classes, settings)

    def weights(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return how much each input counts for each sample: (batch, inputs), adding up to 1; 0 where none is there."""
        worth = self.gate(torch.cat(branches, 1)).masked_fill(~present, float("-inf"))
        return torch.softmax(worth, 1).nan_to_num(0)

    def join(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return logits of the weighted branches."""
        weights = self.weights(branches, present)
        return torch.as_tensor(self.head((torch.stack(branches, 1) * weights[..., None]).sum(1)))


class Attention(Fusion):
    """Branches as tokens beside one for the answer, in one layer of self-attention; absent inputs are not looked at."""

    def __init__(self, inputs: Mapping[str, Shape], classes: int, settings: Network) -> None:
        super().__init__(inputs, settings)
        width = settings.width
        self.answer = nn.Parameter(torch.randn(width) / width**0.5)
        self.kind = nn.Parameter(torch.randn(len(inputs), width) / width**0.5)
        heads = HEADS if width % HEADS == 0 else 1
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, settings.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.head = head(width, classes, settings)

    def join(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return logits of the answer's token."""
        tokens = torch.stack(branches, 1) + self.kind
        tokens = torch.cat([self.answer.expand(len(tokens), 1, -1), tokens], 1)
        hidden = torch.cat([torch.zeros_like(present[:, :1]), ~present], 1)
        return torch.as_tensor(self.head(self.norm(self.layer(tokens, src_key_padding_mask=hidden)[:, 0])))


class Late(Fusion):
    """The product of what single networks say, each with a temperature of its own, over the prior once too often.

    Right where the inputs are independent given the class; nothing but the temperatures is fitted.
    """

    prior: Tensor

    def __init__(self, inputs: Mapping[str, Shape], classes: int, settings: Network) -> None:
        super().__init__(inputs, settings)
        self.heads = nn.ModuleDict({name: head(settings.width, classes, settings) for name in inputs})
        self.log_temperature = nn.Parameter(torch.zeros(len(inputs)), requires_grad=False)
        self.register_buffer("prior", torch.full((classes,), 1 / classes))

    def calibrated(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return the product of calibrated probabilities, as logits; the prior where no input is there."""
        return self._product(branches, present, self.log_temperature.exp())

    def join(self, branches: list[Tensor], present: Tensor) -> Tensor:
        """Return the product of what the single networks say as they are."""
        return self._product(branches, present, torch.ones_like(self.log_temperature))

    def _product(self, branches: list[Tensor], present: Tensor, temperatures: Tensor) -> Tensor:
        total = (1 - present.sum(1, keepdim=True)) * self.prior.log()
        for place, name in enumerate(self.names):
            own = self.heads[name](branches[place]) / temperatures[place]
            total = total + torch.where(present[:, place, None], own.log_softmax(1), 0)
        return total


JOINS: dict[Join, Callable[[Mapping[str, Shape], int, Network], Fusion]] = {
    "single": Intermediate, "early": Early, "intermediate": Intermediate, "gated": Gated, "attention": Attention,
    "late": Late,
}  # fmt: skip


def make(inputs: Mapping[str, Shape], classes: int, settings: Network) -> Fusion:
    """Build a network with random weights; ``inputs`` in the order of the network."""
    return JOINS[settings.fusion](inputs, classes, settings)


def begin(network: Fusion, singles: Sequence[Fusion]) -> None:
    """Take over the encoders of trained single networks; late fusion takes their branches and heads too."""
    for single in singles:
        (name,) = single.names
        network.encoders[name].load_state_dict(single.encoders[name].state_dict())
        if isinstance(network, Late):
            assert isinstance(single, Intermediate)
            network.branches[name].load_state_dict(single.branches[name].state_dict())
            network.heads[name].load_state_dict(single.head.state_dict())
