"""How far confidence can be believed: temperatures fitted on the validation part, and figures of calibration.

Source: Guo et al. 2017, On calibration of modern neural networks; Naeini et al. 2015 (expected calibration error);
Brier 1950. Probabilities are float (examples, classes), classes int64 (examples,).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mmray.fusion.examples import Batch
from mmray.fusion.networks import Fusion
from mmray.fusion.splits import Places

Probabilities = npt.NDArray[np.floating]
STEPS = 100  # of the fit, at most
BINS = 15  # of confidence
LEAST = 1e-12  # a probability that is smaller costs no more


def fit_temperature(network: Fusion, batches: Iterable[Batch]) -> tuple[float, float]:
    """Fit ``network.log_temperature`` to the validation part; returns the mean NLL at temperature 1 and at this one.

    The second is never above the first. Temperature 1 is preferred as by one more example (a normal distribution of its
    logarithm): a validation part that is answered rightly throughout would ask for temperature 0.
    """
    training = network.training
    network.eval()
    branches, present, classes = _encoded(network, batches)
    wanted = network.log_temperature
    with torch.no_grad():
        wanted.zero_()
    if not len(classes):
        network.train(training)
        return 0.0, 0.0

    def cost() -> Tensor:
        return functional.cross_entropy(network.calibrated(branches, present), classes)

    def closure() -> float:
        optimizer.zero_grad()
        total = cost() + wanted.square().sum() / (2 * len(classes))
        (wanted.grad,) = torch.autograd.grad(total, [wanted])  # no other weight gets a gradient
        return float(total.detach())

    with torch.no_grad():
        before = float(cost())
    wanted.requires_grad_(True)
    optimizer = torch.optim.LBFGS([wanted], max_iter=STEPS, line_search_fn="strong_wolfe")
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    wanted.requires_grad_(False)
    wanted.grad = None
    with torch.no_grad():
        after = float(cost())
        if not after <= before:
            wanted.zero_()
            after = before
    network.train(training)
    return before, after


@torch.no_grad()
def _encoded(network: Fusion, batches: Iterable[Batch]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return branches, presence and classes of all batches; encoders run once."""
    device = network.log_temperature.device
    found = [(*network.branched(batch), batch.classes) for batch in (one.to(device) for one in batches)]
    if not found:
        return [], torch.zeros(0), torch.zeros(0)
    branches = [torch.cat([own[place] for own, _, _ in found]) for place in range(len(network.names))]
    return branches, torch.cat([present for _, present, _ in found]), torch.cat([classes for *_, classes in found])


@dataclass(frozen=True)
class Bins:
    """Answers by confidence, in bins of one width: how many, how many of them right, their confidence added up."""

    count: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean distance of accuracy and confidence, over all answers."""
        return float(np.abs(self.right - self.confidence).sum() / max(1, self.count.sum()))

    def rows(self) -> list[dict[str, float]]:
        """Return the bins that hold answers: bounds, how many, their accuracy and mean confidence."""
        width = 1 / len(self.count)
        return [
            {
                "low": round(place * width, 6), "high": round((place + 1) * width, 6), "examples": int(count),
                "accuracy": round(float(self.right[place] / count), 6),
                "confidence": round(float(self.confidence[place] / count), 6),
            }
            for place, count in enumerate(self.count) if count
        ]  # fmt: skip


def reliability(probabilities: Probabilities, classes: Places, bins: int = BINS) -> Bins:
    """Sort answers into bins by their confidence."""
    return binned(probabilities.max(axis=1, initial=0), probabilities.argmax(axis=1) == classes, bins)


def binned(confidence: Probabilities, right: npt.NDArray[np.bool_], bins: int = BINS) -> Bins:
    """Sort answers into bins; both arguments are (answers,)."""
    sure = confidence.astype(np.float64)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    sums = np.bincount(place, sure, bins).astype(np.float64)
    return Bins(np.bincount(place, minlength=bins), np.bincount(place[right], minlength=bins), sums)


def expected_calibration_error(probabilities: Probabilities, classes: Places, bins: int = BINS) -> float:
    """Return the mean distance of accuracy and confidence over bins of confidence."""
    return reliability(probabilities, classes, bins).error


def nll(probabilities: Probabilities, classes: Places) -> float:
    """Return the mean negative log of what the right class got."""
    given = probabilities[np.arange(len(classes)), classes].astype(np.float64)
    return float(-np.log(np.maximum(given, LEAST)).sum() / max(1, len(classes)))


def brier(probabilities: Probabilities, classes: Places) -> float:
    """Return the mean squared distance of the probabilities from the right answer: 0 to 2."""
    distance = probabilities.astype(np.float64)
    distance[np.arange(len(classes)), classes] -= 1
    return float(np.square(distance).sum() / max(1, len(classes)))
