"""The cells of a study: which there are, on whom each is trained and tested, and what comes of one."""

import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mmray.fusion import baselines, metrics, sides, splits
from mmray.fusion.config import Row, StudyConfig
from mmray.fusion.dataset import Dataset
from mmray.fusion.labels import resampled
from mmray.provenance import fingerprint

VERSION = 4  # raised whenever the code changes a result
# Seconds of a fit, roughly: of any, and for each 1,000 columns more. The long cells are begun first.
COST = {
    "boosting": (1.3, 0.1), "mlp": (1.5, 1.2), "rbf_svc": (0.1, 7.5), "linear_svc": (0.1, 2.5), "logistic": (0.1, 0.9),
    "naive_bayes": (0.02, 0.1), "majority": (0.01, 0.04),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One fit and test: embeddings, how they are joined, a classifier for all or one for each, labels, seed."""

    embeddings: tuple[str, ...]
    fusion: str
    classifiers: tuple[str, ...]
    labels: str
    seed: int

    @property
    def about(self) -> dict[str, Any]:
        """Return what a leaderboard says of it, without the seed."""
        return {
            "embeddings": " + ".join(self.embeddings), "fusion": self.fusion,
            "classifier": " + ".join(self.classifiers if len(set(self.classifiers)) > 1 else self.classifiers[:1]),
            "labels": self.labels,
        }  # fmt: skip


def named(row: Row, config: StudyConfig, seed: int) -> Cell:
    """Return the cell of a row of the configuration."""
    classifiers = row.classifier if isinstance(row.classifier, tuple) else (row.classifier,) * _many(row)
    return Cell(row.embeddings, row.fusion, classifiers, row.labels or config.labels[0].as_, seed)


def _many(row: Row) -> int:
    return len(row.embeddings) if row.fusion == "late" else 1


def enumerate_cells(config: StudyConfig) -> list[Cell]:
    """Return every combination, and the rows asked for by name, each once, the longest to compute first."""
    modality = {one.as_: one.modality for one in config.embeddings}
    found: dict[Cell, None] = {}
    for seed, labels in itertools.product(config.seeds, config.labels):
        for fusion in config.fusions:
            sizes = [1] if fusion == "single" else range(2, config.at_most + 1)
            for size, name in itertools.product(sizes, config.classifiers):
                for chosen in itertools.combinations(modality, size):
                    if len({modality[one] for one in chosen}) == size:
                        many = size if fusion == "late" else 1
                        found[Cell(chosen, fusion, (name,) * many, labels.as_, seed)] = None
    for seed, row in itertools.product(config.seeds, config.rows):
        found[named(row, config, seed)] = None
    return list(found)


def cost(cell: Cell, config: StudyConfig, dataset: Dataset) -> float:
    """Return how long a cell takes against others."""
    columns = [dataset.blocks[name].dim or 2000 for name in cell.embeddings]
    if cell.fusion != "late":
        return _fit_s(cell.classifiers[0], sum(columns))
    # Beside the fit to the whole train part there are inner_folds fits, each to all of it but one inner fold.
    return config.inner_folds * sum(map(_fit_s, cell.classifiers, columns))


def _fit_s(classifier: str, columns: int) -> float:
    least, more = COST[classifier]
    return least + more * columns / 1000


def key(cell: Cell, config: StudyConfig, material: sides.Material) -> str:
    """Return the name of a cell's result: another one whenever anything that decides its figures is another."""
    blocks = {name: [block.identity, int(block.present.sum())] for name, block in material.dataset.blocks.items()}
    used = {name: blocks[name] for name in (blocks if config.missing == "common" else cell.embeddings)}
    rule: dict[str, Any] = {
        "split": config.split,
        "missing": config.missing,
        "folds": config.folds,
        "inner": config.inner_folds,
    }
    column = {"given": config.split_column, "group": config.group_column}.get(config.split)
    if column:
        rule["column"] = fingerprint([str(value) for value in material.dataset.columns.get(column, ())])
    rule["test_fraction"] = config.test_fraction
    resample = next(one.resample for one in config.labels if one.as_ == cell.labels)
    about = [VERSION, cell.about, list(cell.classifiers), cell.seed, used, material.labels[cell.labels].identity, rule]
    return fingerprint([*about, resample], 16)


def evaluate(cell: Cell, config: StudyConfig, material: sides.Material) -> dict[str, Any]:
    """Fit and test one cell in one thread; returns its figures, confusion matrix, class counts, answers and notes."""
    began, used_s = time.perf_counter(), time.process_time()
    found = sides.sides(cell.embeddings, cell.labels, cell.seed, config, material)
    resample = next(one.resample for one in config.labels if one.as_ == cell.labels)
    embeddings = {one.as_: one for one in config.embeddings}
    blocks = [(material.dataset.blocks[name], embeddings[name]) for name in cell.embeddings]
    answers = np.full(len(found.places), -1, np.int64)
    counts = []
    # A class per place of the data set; -1 is never read, as parts hold only places that take part.
    classes = np.full(len(material.dataset.ids), -1, np.int64)
    classes[found.places] = found.classes
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        for train, test in splits.parts(found.numbers):
            answers[test] = _fold(cell, config, material.dataset, blocks, classes, found, train, test, resample)
            drawn = train[resampled(found.classes[train], resample, cell.seed)]
            sizes = {"train": train, "resampled": drawn, "test": test}
            counts.append({side: _class_counts(found, part) for side, part in sizes.items()})
    notes = list(found.notes)
    if "mlp" not in cell.classifiers and any(issubclass(one.category, ConvergenceWarning) for one in caught):
        notes.append("a fit stopped before it converged")
    tested = np.flatnonzero(answers >= 0)
    confusion = metrics.confusion(found.classes[tested], answers[tested], len(found.names))
    return {
        **metrics.figures(confusion), "samples": len(found.places), "classes": list(found.names),
        "confusion": confusion.astype(int).tolist(), "counts": counts, "notes": notes,
        "answers": {
            "ids": [material.dataset.ids[place] for place in found.places[tested]],
            "true": [found.names[one] for one in found.classes[tested]],
            "classes": [found.names[one] for one in answers[tested]],
        },
        "seconds": round(time.perf_counter() - began, 3), "cpu_s": round(time.process_time() - used_s, 3),
    }  # fmt: skip


def _class_counts(found: sides.Sides, part: npt.NDArray[np.int64]) -> dict[str, int]:
    counts = np.bincount(found.classes[part], minlength=len(found.names))
    return {name: int(count) for name, count in zip(found.names, counts, strict=True)}


def _fold(
    cell: Cell, config: StudyConfig, dataset: Dataset, blocks: Sequence[Any], classes: splits.Places,
    found: sides.Sides, train: splits.Places, test: splits.Places, resample: str,
) -> splits.Places:  # fmt: skip
    """Return the answers of the test part; ``train`` and ``test`` are places among those who take part."""
    trained, tested = found.places[train], found.places[test]
    if cell.fusion == "late":
        numbers = sides.inner(found, train, cell.seed, config, dataset)
        inner = [(trained[part], trained[held]) for part, held in splits.parts(numbers)]
        seed, count = cell.seed, len(found.names)
        return baselines.late(blocks, cell.classifiers, classes, trained, tested, inner, seed, resample, count)
    words_only = all(about.vectoriser for _, about in blocks)
    read = baselines.early(blocks, trained)
    model = baselines.Model(cell.classifiers[0], read, classes, trained, cell.seed, resample, words_only)
    return model.answers(tested)
