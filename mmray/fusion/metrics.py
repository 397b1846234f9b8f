"""How good answers are: counts of a confusion matrix, and how sure the figures are.

A confusion matrix is float64 (classes, classes): rows are the true classes, columns the answers.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Confusion = npt.NDArray[np.float64]
Z95 = 1.959964  # standard deviations of a two-sided 95 % interval
DRAWS = 1000  # of the bootstrap


def confusion(true: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], classes: int) -> Confusion:
    """Count answers by true class."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, answers), 1)
    return counts


def accuracy(counts: Confusion) -> npt.NDArray[np.float64]:
    """Return the share of right answers, of one matrix or of a stack of them."""
    right = np.trace(counts, axis1=-2, axis2=-1)
    return np.asarray(right / np.maximum(counts.sum((-2, -1)), 1e-12))


def macro_f1(counts: Confusion) -> npt.NDArray[np.float64]:
    """Return the mean F1 of the classes that occur, as truth or as answer."""
    return _macro_f1(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1) + counts.sum(-2))


def _macro_f1(right: npt.NDArray[np.float64], both: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``right``: how often each class was answered rightly; ``both``: how often it was true, and answered, together."""
    occurs = both > 0
    f1 = np.where(occurs, 2 * right / np.where(occurs, both, 1), 0)
    return np.asarray(f1.sum(-1) / np.maximum(occurs.sum(-1), 1))


def balanced_accuracy(counts: Confusion) -> npt.NDArray[np.float64]:
    """Return the mean recall of the classes that occur: what accuracy would be if all were equally frequent."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    members = counts.sum(-1)
    recall = np.where(members > 0, right / np.where(members > 0, members, 1), 0)
    return np.asarray(recall.sum(-1) / np.maximum((members > 0).sum(-1), 1))


def wilson(share: float, samples: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of so many samples."""
    if samples <= 0:
        return 0.0, 1.0
    z2 = Z95**2 / samples
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * float(np.sqrt(share * (1 - share) / samples + z2 / (4 * samples)))
    return max(0.0, middle - half), min(1.0, middle + half)


def macro_f1_interval(counts: Confusion, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro F1: samples are drawn again, as cells of the matrix."""
    total = round(float(counts.sum()))
    if total == 0:
        return 0.0, 1.0
    true, answers = np.nonzero(counts)  # most cells of many classes are empty: 700 classes took 8 GB with them
    shares = counts[true, answers] / counts.sum()
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=DRAWS).astype(np.float64)
    cells, (names, places) = np.arange(len(true)), np.unique([true, answers], return_inverse=True)
    sides = places.reshape(2, -1)
    rows, columns = (csr_array((np.ones(len(cells)), (cells, side)), (len(cells), len(names))) for side in sides)
    right = np.where(true == answers, drawn, 0) @ rows
    low, high = np.quantile(_macro_f1(right, drawn @ rows + drawn @ columns), [0.025, 0.975])
    return float(low), float(high)


def figures(counts: Confusion) -> dict[str, float]:
    """Return accuracy, macro F1 and balanced accuracy, the first two with their 95 % intervals."""
    right = float(accuracy(counts))
    low, high = wilson(right, float(counts.sum()))
    f1_low, f1_high = macro_f1_interval(counts)
    found = {
        "accuracy": right, "accuracy_low": low, "accuracy_high": high,
        "macro_f1": float(macro_f1(counts)), "macro_f1_low": f1_low, "macro_f1_high": f1_high,
        "balanced_accuracy": float(balanced_accuracy(counts)),
    }  # fmt: skip
    return {name: round(value, 6) for name, value in found.items()}
