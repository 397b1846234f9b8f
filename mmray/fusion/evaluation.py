"""What answers say of networks: how good each is, alone and without an input, under noise, how sure, and who was right.

All figures are of the test parts of all folds together, each with the number of examples it stands on.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmray.fusion import calibration, metrics
from mmray.fusion.answers import CLEAN, Condition
from mmray.fusion.examples import Examples

Record = dict[str, Any]
Right = npt.NDArray[np.int8]
SHOWN_ERRORS = 20
FIGURES = (
    "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high", "balanced_accuracy",
)  # fmt: skip
TOLERATED = 0.005  # of accuracy, below the best single network


class Answers:
    """The answers of all networks; ``networks``: the inputs of each, ``sizes``: examples of the test part of each fold.

    ``frame``: ``answers.SCHEMA`` with ``network`` and ``fold``.
    """

    def __init__(self, frame: pl.DataFrame, networks: Mapping[str, tuple[str, ...]], sizes: Sequence[int]) -> None:
        starts = np.cumsum([0, *sizes])[:-1]
        place = starts[frame["fold"].to_numpy()] + frame["example"].to_numpy()
        self.networks, self.total = networks, sum(sizes)
        self.singles = [name for name, inputs in networks.items() if len(inputs) == 1]
        frame = frame.with_columns(pl.Series("place", place))
        parts = frame.partition_by("network", "condition", "input", "level", as_dict=True)
        self._parts = {(str(key[0]), Condition(*key[1:])): part for key, part in parts.items()}
        self._nothing = frame.clear()
        found = dict.fromkeys(condition for _, condition in self._parts)
        self.noise = [condition for condition in found if condition.kind == "noise"]

    def of(self, network: str, condition: Condition) -> pl.DataFrame:
        """Return what a network answered; noise of an input that it does not read leaves it as it was."""
        if condition.kind == "noise" and condition.input not in self.networks[network]:
            condition = CLEAN
        return self._parts.get((network, condition), self._nothing)

    def noise_of(self, network: str) -> list[Condition]:
        """Return the levels of the inputs that a network reads."""
        return [condition for condition in self.noise if condition.input in self.networks[network]]

    def rights(self, network: str, condition: Condition) -> Right:
        """Return for each example of all folds: 1 where it was answered rightly, 0 wrongly, -1 not at all."""
        return self._spread(network, condition, (pl.col("answer") == pl.col("class")).cast(pl.Int8), np.int8)

    def answers(self, network: str, condition: Condition) -> npt.NDArray[np.int32]:
        """Return the answer to each example of all folds, -1 where there is none."""
        return self._spread(network, condition, pl.col("answer"), np.int32)

    def _spread(self, network: str, condition: Condition, column: pl.Expr, dtype: Any) -> npt.NDArray[Any]:
        part = self.of(network, condition).select("place", value=column)
        found = np.full(self.total, -1, dtype)
        found[part["place"].to_numpy()] = part["value"].to_numpy()
        return found


def measure(found: Answers, classes: Sequence[str]) -> dict[str, Record]:
    """Return the figures of each network."""
    return {network: _network(found, network, classes) for network in found.networks}


def leaderboard(figures: Mapping[str, Record]) -> list[Record]:
    """Return a row for each network, the best first: what a table in a terminal has room for."""
    rows = []
    for network, about in figures.items():
        sure = about["calibration"]["clean"]
        gap = about["worst_gap"]
        rows.append({
            "network": network, "inputs": about["inputs"], "examples": about["examples"],
            "unanswered": about["unanswered"], **{name: about[name] for name in FIGURES},
            "ece_before": sure["before"]["ece"], "ece_after": sure["after"]["ece"],
            "removed": {one["input"]: one["accuracy"] for one in about["removed"]},
            "worst_gap": gap and gap["gap"], "worst_gap_at": gap and _words(gap["input"], gap["level"]),
        })  # fmt: skip
    rows.sort(key=lambda row: -(row["accuracy"] or 0))
    return [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]


def below(figures: Mapping[str, Record]) -> list[str]:
    """Say where a fusion stands clearly below the best single network of its inputs."""
    return [
        f"{network}: {gap['gap']:.4f} below {gap['single']} ({_words(gap['input'], gap['level'])}, "
        f"{gap['examples']} examples)"
        for network, about in figures.items()
        for gap in about["gaps"]
        if gap["gap"] > TOLERATED
    ]


def _words(name: str | None, level: float | None) -> str:
    return "clean" if name is None else f"{name} at {level:g}"


def _network(found: Answers, network: str, classes: Sequence[str]) -> Record:
    clean = found.of(network, CLEAN)
    folds = [
        {"fold": int(part["fold"][0]), **figures(part, classes)}
        for part in clean.partition_by("fold", maintain_order=True)
    ]
    inputs, noisy = found.networks[network], found.noise_of(network)
    removed = {name: found.of(network, Condition("removed", name)) for name in inputs if len(inputs) > 1}
    noise = [{"input": one.input, "level": one.level, **figures(found.of(network, one), classes)} for one in noisy]
    compared = gaps(found, network)
    return {
        "inputs": list(inputs),
        "unanswered": found.total - clean.height,
        **figures(clean, classes),
        "confusion": _confusion(clean, classes).astype(int).tolist(),
        "folds": folds,
        "removed": [
            {"input": name, "unanswered": found.total - part.height, **figures(part, classes)}
            for name, part in removed.items()
        ],
        "noise": noise,
        "gaps": compared,
        "worst_gap": max(compared, key=lambda gap: gap["gap"], default=None),
        "calibration": {
            "clean": _calibration(clean),
            "noise": _calibration(pl.concat([found.of(network, one) for one in noisy])) if noisy else None,
        },
        "weights": [means for one in [CLEAN, *noisy] if (means := _weights(found.of(network, one), one, inputs))],
    }


def _confusion(part: pl.DataFrame, classes: Sequence[str]) -> metrics.Confusion:
    return metrics.confusion(part["class"].to_numpy(), part["answer"].to_numpy(), len(classes))


def figures(part: pl.DataFrame, classes: Sequence[str]) -> Record:
    """Return how many examples were answered, and how well; only None where none was."""
    found = metrics.figures(_confusion(part, classes))
    return {"examples": part.height, **(found if part.height else dict.fromkeys(found))}


def gaps(found: Answers, network: str) -> list[Record]:
    """Return how far a fusion stands below the best single network of its inputs: clean, and at each level.

    ``gap`` is negative where it is better. Compared on the examples that all of them answered; empty where there is
    nothing to compare with.
    """
    inputs = found.networks[network]
    singles = [name for name in found.singles if found.networks[name][0] in inputs]
    if len(inputs) == 1 or not singles:
        return []
    rows = []
    for condition in (CLEAN, *found.noise_of(network)):
        rights = np.stack([found.rights(name, condition) for name in (network, *singles)])
        common = (rights >= 0).all(axis=0)
        own, *theirs = rights[:, common].mean(axis=1) if common.any() else np.zeros(len(rights))
        best = int(np.argmax(theirs))
        rows.append({
            "gap": round(float(theirs[best] - own), 6), "input": condition.input, "level": condition.level,
            "single": singles[best], "examples": int(common.sum()),
        })  # fmt: skip
    return rows


def _calibration(part: pl.DataFrame) -> Record:
    return {"examples": part.height, "before": _sureness(part, "raw_"), "after": _sureness(part, "")}


def _sureness(part: pl.DataFrame, prefix: str) -> Record:
    right = (part[f"{prefix}answer"] == part["class"]).to_numpy()
    bins = calibration.binned(part[f"{prefix}confidence"].to_numpy(), right)
    given = np.maximum(part[f"{prefix}probability"].to_numpy().astype(np.float64), calibration.LEAST)
    return {
        "ece": round(bins.error, 6), "nll": round(float(-np.log(given).sum()) / max(1, part.height), 6),
        "brier": round(float(part[f"{prefix}brier"].cast(pl.Float64).sum()) / max(1, part.height), 6),
        "bins": bins.rows(),
    }  # fmt: skip


def _weights(part: pl.DataFrame, condition: Condition, inputs: Sequence[str]) -> Record | None:
    """Return the mean weight of each input; None where the network has no weights."""
    weighed = part["weights"].drop_nulls()
    if weighed.is_empty():
        return None
    means = np.array(weighed.to_list()).mean(axis=0)
    shares = {name: round(float(mean), 6) for name, mean in zip(inputs, means, strict=True)}
    return {"input": condition.input, "level": condition.level, "weights": shares}


def disagreements(found: Answers) -> list[Record]:
    """Return, for each two single networks, who was right where they differ, and what each fusion made of it.

    Over the clean examples, and over those of all levels of noise of their inputs.
    """
    rows = []
    for one, other in itertools.combinations(found.singles, 2):
        inputs = {found.networks[one][0], found.networks[other][0]}
        fusions = [name for name, own in found.networks.items() if inputs <= set(own)]
        noisy = [condition for condition in found.noise if condition.input in inputs]
        if len(inputs) == 2:
            rows += [
                _who(found, one, other, fusions, name, conditions)
                for name, conditions in (("clean", [CLEAN]), ("noise", noisy))
                if conditions
            ]
    return rows


def _who(
    found: Answers, one: str, other: str, fusions: Sequence[str], name: str, conditions: Sequence[Condition]
) -> Record:
    answers, rights = (
        {each: np.concatenate([look(each, condition) for condition in conditions]) for each in (one, other, *fusions)}
        for look in (found.answers, found.rights)
    )
    both = (answers[one] >= 0) & (answers[other] >= 0)
    differ = both & (answers[one] != answers[other])
    cases = {
        "only_first": differ & (rights[one] == 1),
        "only_second": differ & (rights[other] == 1),
        "neither": differ & (rights[one] == 0) & (rights[other] == 0),
    }
    return {
        "networks": [one, other], "condition": name, "examples": int(both.sum()),
        **{case: int(mask.sum()) for case, mask in cases.items()},
        "answered_rightly": {
            fusion: {case: int((rights[fusion][mask] == 1).sum()) for case, mask in cases.items()} for fusion in fusions
        },
    }  # fmt: skip


def predictions(
    frame: pl.DataFrame, tested: Sequence[Examples], ids: Sequence[str], inputs: Sequence[str], classes: Sequence[str]
) -> pl.DataFrame:
    """Return a row for each answer with names for numbers, and the sample of each input (null where it has none)."""
    places = np.concatenate([one.places for one in tested])
    starts = np.cumsum([0, *map(len, tested)])[:-1]
    rows = starts[frame["fold"].to_numpy()] + frame["example"].to_numpy()
    named = pl.Series([*ids, None], dtype=pl.String)  # place -1 is none
    labels = pl.Series(classes, dtype=pl.String)
    return frame.select(
        "network", "fold", "condition", "input", "level",
        *(pl.Series(f"sample_id_{name}", named.gather(places[rows, n] % len(named))) for n, name in enumerate(inputs)),
        pl.Series("label", labels.gather(frame["class"])), pl.Series("answer", labels.gather(frame["answer"])),
        "confidence", "probability",
    )  # fmt: skip


def worst_errors(answered: pl.DataFrame) -> dict[str, list[Record]]:
    """Return the most confident wrong answers of each network to clean examples; ``answered``: see ``predictions``."""
    wrong = answered.filter(pl.col("condition") == "clean", pl.col("label") != pl.col("answer"))
    wrong = wrong.sort("confidence", descending=True, maintain_order=True).drop("condition", "input", "level")
    return {
        str(name): part.head(SHOWN_ERRORS).drop("network").to_dicts()
        for (name,), part in wrong.partition_by("network", as_dict=True).items()
    }
