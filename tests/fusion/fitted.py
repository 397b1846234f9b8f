"""Trainings made in a moment: a store of clusters, a configuration over it, and its fits done in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.config import validate
from mmray.fusion import fit_plan
from mmray.fusion.fits import Fit, Plan
from mmray.fusion.training import TrainConfig
from tests.fusion import making

SMALL = {"name": "mlp", "hidden": [16], "dropout": 0.1}
INPUTS = [{"extractor": "a", "encoder": SMALL}, {"extractor": "b", "encoder": SMALL}]


def store(folder: Path, count: int = 120, have: dict[str, Sequence[int]] | None = None, **columns: Any) -> str:
    """Make three classes, of which `a` and `b` each tell something: together they tell more."""
    classes = np.arange(count) % 3
    given = {"label": [f"class {one}" for one in classes], "group": [str(place // 6) for place in range(count)]}
    matrices = {"a": making.clusters(classes, 8, 1.5, 3), "b": making.clusters(classes, 6, 1.5, 4)}
    return making.store(folder, given | columns, matrices, have)


def about(store: str, out: Path, **keys: Any) -> dict[str, Any]:
    """Return a configuration as a file would hold it: one random split, one network over both inputs."""
    small = {"store": store, "out": str(out), "inputs": INPUTS, "networks": [{"fusion": "intermediate", "width": 16}]}
    small |= {"test_fraction": 0.25, "schedule": {"epochs": 8, "batch_size": 16, "learning_rate": 0.01}}
    return small | keys


def config(store: str, out: Path, **keys: Any) -> TrainConfig:
    """Return a configuration."""
    return validate(TrainConfig, about(store, out, **keys), "", "train.yaml")


def fit_all(config: TrainConfig, device: str = "cpu") -> tuple[Plan, dict[str, Any]]:
    """Do all fits, here, without Ray Train: the same numbers; returns the figures of fold 0 by network."""
    plan = fit_plan.prepare(config)
    for fit in plan.fits:
        epochs(plan, fit, device=device).export(fit.folder(config.out))
    return plan, {fit.network: figures(fit, config) for fit in plan.fits if fit.fold == 0}


def epochs(plan: Plan, fit: Fit, most: int = 10_000, device: str = "cpu") -> Any:
    """Begin a fit and do epochs until it is over."""
    fitting = plan.make(fit, torch.device(device))
    while not fitting.over and most:
        fitting.epoch()
        most -= 1
    return fitting


def figures(fit: Fit, config: TrainConfig) -> dict[str, Any]:
    """Return the figures that a trained network carries."""
    found = fit.done(config.out)
    assert found is not None
    return dict(found["figures"])
