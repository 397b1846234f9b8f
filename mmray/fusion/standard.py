"""Numbers that are learnt from the train part alone: mean and deviation of each column."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmray.fusion.dataset import FAR


class Standard(nn.Module):
    """Columns with mean 0 and deviation 1 over the rows it was fitted on; columns that are constant there become 0."""

    mean: Tensor
    rate: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("rate", torch.ones(dim))

    def fit(self, matrix: npt.NDArray[np.float32]) -> int:
        """Take mean and deviation, in float64, of a matrix (rows, dim); returns how many columns are constant."""
        mean, deviation = matrix.mean(0, dtype=np.float64), matrix.std(0, dtype=np.float64)
        varies = deviation > 1e-6 * np.abs(mean)  # below it is what rounding leaves of a constant
        self.mean.copy_(torch.from_numpy(mean))
        self.rate.copy_(torch.from_numpy(np.where(varies, 1 / np.where(varies, deviation, 1), 0)))
        return int((~varies).sum())

    @property
    def deviation(self) -> Tensor:
        """Return the deviation of each column (dim,); 0 where it is constant."""
        return torch.where(self.rate > 0, 1 / self.rate, 0)

    def forward(self, matrix: Tensor) -> Tensor:
        """Standardise (n, dim); what is farther out than FAR stands there."""
        return ((matrix - self.mean) * self.rate).clamp(-FAR, FAR)
