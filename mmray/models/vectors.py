"""What is made of a network's tokens and features: one vector of many, and vectors of unit length. Light to import."""

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def pooled(states: Any, how: str, mask: Any = None) -> Vectors:
    """Return one vector (n, dim) of each row of tokens (n, tokens, dim): token 0 (``cls``), ``mean`` or ``max``.

    Padding, 0 in ``mask`` (n, tokens), counts for nothing.
    """
    states = states.float()
    if how == "cls":
        vectors = states[:, 0]
    elif mask is None:
        vectors = states.mean(1) if how == "mean" else states.amax(1)
    elif how == "mean":
        vectors = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    else:
        vectors = states.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)
    found: Vectors = vectors.cpu().numpy()
    return found


def unit(features: Any) -> Vectors:
    """Return features (n, dim) as vectors of unit length."""
    import torch

    found: Vectors = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return found
