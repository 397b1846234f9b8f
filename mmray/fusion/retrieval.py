"""How well places are found: recall, rank, and how many different answers there are, beside what chance gives.

``queries`` and ``places`` are float32 (n, space), of length 1; the score of a place for a query is their cosine.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
AT = (1, 5, 10)
TIE = 1e-6  # cosines nearer than this are equal: float32 rounds them by as much
ROWS = 1024  # queries scored at once: 4 MB for every thousand candidates


class Found(NamedTuple):
    """What queries found: ``ranks`` of the right places (1 is best), ``answers`` (the best place) and their ``scores``.

    Places with the score of the right one share the mean of their ranks, so that a map that gives every place the same
    score has rank (candidates + 1) / 2. Of several best places the first is the answer.
    """

    ranks: npt.NDArray[np.float64]
    answers: Places
    scores: npt.NDArray[np.float32]


def retrieve(queries: Matrix, places: Matrix, right: Places) -> Found:
    """Look for ``right`` (one place for each query) among all places."""
    parts = [_scored(queries[i : i + ROWS] @ places.T, right[i : i + ROWS]) for i in range(0, len(queries), ROWS)]
    return joined(parts)


def joined(parts: list[Found]) -> Found:
    """Put what several queries found together."""
    return Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _scored(scores: npt.NDArray[np.float32], right: Places) -> Found:
    own = np.take_along_axis(scores, right[:, None], axis=1)
    better = (scores > own + TIE).sum(1)
    equal = (np.abs(scores - own) <= TIE).sum(1)  # itself among them
    answers = (scores >= scores.max(1, keepdims=True) - TIE).argmax(1)
    return Found(1 + better + (equal - 1) / 2, answers, np.take_along_axis(scores, answers[:, None], axis=1)[:, 0])


def twins(targets: Matrix) -> Places:
    """Number targets so that identical ones have one number: they are one answer."""
    _, numbers = np.unique(targets, axis=0, return_inverse=True)
    return numbers.reshape(-1)


def figures(found: Found, same: Places) -> dict[str, float]:
    """Return recall at 1, 5 and 10, the median rank, and how many different answers, as a number and per query.

    ``same``: the numbers that ``twins`` gives all targets that ``found.answers`` are places of.
    """
    different = len(np.unique(same[found.answers]))
    recalls = {f"recall_at_{k}": float((found.ranks <= k).mean()) for k in AT}
    return _rounded(recalls, float(np.median(found.ranks)), different, len(found.ranks))


def chance(asked: list[tuple[int, Places]]) -> dict[str, float]:
    """Return what is expected of ``figures`` where every candidate is equally likely to be the answer.

    ``asked``: for each set of candidates how many queries it was for, and the numbers of its targets (``twins``).
    """
    queries = sum(count for count, _ in asked)
    recalls = {f"recall_at_{k}": sum(count * min(k / len(same), 1) for count, same in asked) / queries for k in AT}
    unsaid = np.ones(1 + max(int(same.max()) for _, same in asked))  # how likely it is that nobody answers this
    for count, same in asked:
        unsaid *= (1 - np.bincount(same, minlength=len(unsaid)) / len(same)) ** count
    ranks = np.arange(1, 1 + max(len(same) for _, same in asked))
    within = sum(count * np.minimum(ranks / len(same), 1) for count, same in asked) / queries
    middle = [int(ranks[np.argmax(within > 0.5 + offset)]) for offset in (-1e-9, 1e-9)]
    return _rounded(recalls, sum(middle) / 2, float((1 - unsaid).sum()), queries)


def _rounded(recalls: dict[str, float], median_rank: float, different: float, queries: int) -> dict[str, float]:
    found = recalls | {
        "median_rank": median_rank,
        "different_answers": different,
        "different_share": different / queries,
    }
    return {name: round(value, 6) for name, value in found.items()}
