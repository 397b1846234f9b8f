"""What an encoder is: the windows of one modality of a sample become one vector."""

import torch
from torch import Tensor, nn

from mmray.fusion import noise


class Encoder(nn.Module):
    """A network over windows, float32 (batch, windows, dim); ``there``, bool (batch, windows), says which are real.

    Every sample has a window that is there; what stands in the others never changes a result. ``width``: size of what
    it gives. ``picture``: height, width and channels of a window that is a picture.
    """

    width: int
    picture: noise.Shape | None = None

    @property
    def deviation(self) -> Tensor | None:
        """Return the deviation of each number of a window over the train part (dim,); None: a signal of its own."""
        return None

    def fit(self, windows: Tensor, there: Tensor) -> None:
        """Learn from the train part what is no weight: means and deviations; called once, before training."""

    def disturbed(
        self, windows: Tensor, there: Tensor, kind: noise.Kind, level: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the windows with noise as this modality has it, see ``noise.disturb``."""
        return noise.disturb(windows, there, kind, level, generator, self.picture, self.deviation)


class AttentionPool(nn.Module):
    """The mean of a sample's windows, weighted by what each window says about its own worth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.worth = nn.Linear(width, 1)

    def forward(self, encoded: Tensor, there: Tensor) -> Tensor:
        """Pool the encoded windows that are there (n, width), sample after sample, into (batch, width)."""
        worth = encoded.new_full(there.shape, -torch.inf)
        worth[there] = self.worth(encoded).squeeze(1)
        weight = worth.softmax(1)[there].unsqueeze(1)
        owner = there.nonzero()[:, 0]
        return encoded.new_zeros(len(there), encoded.shape[1]).index_add(0, owner, weight * encoded)
