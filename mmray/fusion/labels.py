"""What a sample's class is: as given, as zero-shot scores have it, merged; and how often each class is trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.fusion.config import LabelSet
from mmray.fusion.dataset import Dataset, joined
from mmray.provenance import fingerprint
from mmray.tables import features
from mmray.tables.store import open_store

Places = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
BELOW_MARGIN, NO_LABEL, NO_SCORES, DROPPED = (
    "below the margin",
    "without a label",
    "without scores",
    "of a dropped label",
)


@dataclass(frozen=True)
class Labels:
    """One label per sample (None: left out); ``excluded`` counts why; ``identity`` is that of samples and labels."""

    values: tuple[str | None, ...]
    excluded: dict[str, int]
    identity: str

    @property
    def counts(self) -> dict[str, int]:
        """Return the samples of each class, the most frequent first."""
        return dict(Counter(value for value in self.values if value is not None).most_common())


def apply(rules: LabelSet, dataset: Dataset, store: str) -> Labels:
    """Label every sample of a dataset by the rules; ConfigError where no two classes come of it."""
    try:
        if rules.scores is None:
            values, excluded = _given(dataset.column(rules.column, "column"), rules.drop)
        else:
            names, scores = zero_shot(store, rules.scores, rules.pooling, dataset.ids)
            values, excluded = rank(names, scores, rules.drop, rules.margin)
    except ConfigError as error:
        raise ConfigError(f"labels {rules.as_!r}: {error}") from None
    taken = {old: new for new, olds in rules.merge.items() for old in olds}
    there = {value for value in values if value is not None}
    for old in taken:
        if old not in there:
            raise ConfigError(f"labels {rules.as_!r}: merge: no sample is labelled {old!r}{nearest(old, there)}")
    merged = tuple(value if value is None else taken.get(value, value) for value in values)
    if len({value for value in merged if value is not None}) < 2:
        why = ", ".join(f"{count} {words}" for words, count in excluded.items())
        raise ConfigError(
            f"labels {rules.as_!r}: fewer than two classes among {len(merged)} samples ({why or 'as given'})"
        )
    return Labels(merged, excluded, fingerprint([list(dataset.ids), list(merged)], 16))


def _given(column: Sequence[object], drop: Sequence[str]) -> tuple[list[str | None], dict[str, int]]:
    if nested := next((value for value in column if isinstance(value, list | dict | bytes)), None):
        raise ConfigError(f"column: holds {type(nested).__name__}s, {nested!r:.40}; a label is a word or a number")
    values = [None if value is None else str(value) for value in column]
    excluded = _counted({NO_LABEL: values.count(None), DROPPED: sum(value in drop for value in values)})
    if missing := [name for name in drop if name not in values]:
        raise ConfigError(f"drop: no sample is labelled {missing[0]!r}{nearest(missing[0], {v for v in values if v})}")
    return [None if value in drop else value for value in values], excluded


def zero_shot(store: str, extractor: str, pooling: str, ids: Sequence[str]) -> tuple[list[str], Scores]:
    """Return label names and float32 scores (samples, labels) of a partition of scores; NaN where it has no sample."""
    opened = open_store(store)
    number = features.extractor_id(opened, extractor)
    about = opened.read_json("provenance", f"{number}.json") or {}
    found = features.load(store, number, pooling)
    names = [str(name) for name in about.get("labels", [])]
    if about.get("kind") != "scores" or len(names) != found.matrix.shape[1]:
        raise ConfigError(f"scores: {number} does not hold one score per label; name a zero_shot extractor")
    block, _ = joined(ids, found, number)
    assert block.matrix is not None
    return names, block.matrix


def rank(
    names: Sequence[str], scores: Scores, drop: Sequence[str] = (), margin: float = 0.0
) -> tuple[list[str | None], dict[str, int]]:
    """Take each sample's best label without the dropped ones; None where it is not ``margin`` above the second.

    ``scores``: float32 (samples, labels), NaN where there are none. Probabilities that add up to 1 are scaled to do so
    again without the dropped labels, so that the margin means the same.
    """
    if unknown := [name for name in drop if name not in names]:
        raise ConfigError(f"drop: there is no label {unknown[0]!r}{nearest(unknown[0], names)}")
    kept = [place for place, name in enumerate(names) if name not in drop]
    if len(kept) < 2:
        raise ConfigError("drop: leaves fewer than two labels")
    there = np.asarray(np.isfinite(scores).all(axis=1))
    left = np.where(there[:, None], scores, 0)[:, kept].astype(np.float64)
    if there.any() and np.allclose(scores[there].sum(axis=1), 1, atol=1e-3):
        left /= np.maximum(left.sum(axis=1, keepdims=True), 1e-12)
    ordered = np.sort(left, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] >= margin
    best = left.argmax(axis=1)
    values = [names[kept[best[place]]] if there[place] and sure[place] else None for place in range(len(there))]
    return values, _counted({NO_SCORES: int((~there).sum()), BELOW_MARGIN: int((there & ~sure).sum())})


def _counted(counts: dict[str, int]) -> dict[str, int]:
    return {words: count for words, count in counts.items() if count}


def resampled(classes: Places, how: str, seed: int) -> Places:
    """Return places in ``classes``, so drawn that classes come near to total / number of classes.

    ``over``: members of smaller classes stand several times, none is lost; ``under``: larger classes are drawn from
    without replacement; ``both``; ``none``: as they are. The order is that of the places.
    """
    if how == "none":
        return np.arange(len(classes), dtype=np.int64)
    random = np.random.default_rng(seed)
    present = np.unique(classes)
    target = max(1, round(len(classes) / len(present)))
    chosen = []
    for one in present:
        members = np.flatnonzero(classes == one)
        size = target if (len(members) < target and how != "under") or (len(members) > target and how != "over") else 0
        if size:
            whole, rest = divmod(size, len(members))
            members = np.concatenate([np.tile(members, whole), random.choice(members, rest, replace=False)])
        chosen.append(members)
    return np.sort(np.concatenate(chosen)).astype(np.int64)
