"""Fit a map on pairs: ridge regression in closed form, networks by AdamW until a validation part says stop."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from threadpoolctl import threadpool_limits
from torch import Tensor

from mmray.errors import ConfigError, MmrayError
from mmray.fusion.maps import MAPS, Linear, Map, MapName, Matrix, Training

PENALTIES = tuple(float(value) for value in np.logspace(-1, 5, 13))  # of ridge regression on standardised columns
FEWEST = 10  # pairs that a map is fitted on
FEWEST_VALIDATION = 4


def fit(
    name: MapName,
    sources: Matrix,
    targets: Matrix,
    seed: int = 0,
    training: Training | None = None,
    device: str = "cpu",
    cpus: int = 1,
) -> Map:
    """Fit a map on pairs: float32 (pairs, source_dim) and (pairs, target_dim), finite.

    On a CPU the same pairs, seed and ``cpus`` (threads) give the same numbers; torch's own random numbers and number
    of threads are afterwards as before. ConfigError, naming the side, where there is nothing to learn from.
    """
    _check(sources, targets)
    with _seeded(seed, device, cpus):
        model = MAPS[name](sources.shape[1], targets.shape[1], training or Training())
        for side, standard, matrix in (("source", model.source, sources), ("target", model.target, targets)):
            if standard.fit(matrix) == matrix.shape[1]:
                raise ConfigError(f"{side}: all {matrix.shape[1]} columns are constant over {len(matrix)} pairs")
        model.to(device)
        with torch.no_grad():
            source, target = model.source(_on(sources, device)), model.target(_on(targets, device))
        if isinstance(model, Linear):
            _solve(model, source, target)
        else:
            _train(model, source, target)
    return model.eval()


def _on(matrix: Matrix, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, np.float32)).to(device)


def _check(sources: Matrix, targets: Matrix) -> None:
    if len(sources) != len(targets):
        raise ConfigError(f"a map is fitted on pairs (given: {len(sources)} sources and {len(targets)} targets)")
    if len(sources) < FEWEST:
        raise ConfigError(f"{len(sources)} pairs are too few to fit a map on; at least {FEWEST} are needed")
    for side, matrix in (("source", sources), ("target", targets)):
        if wrong := int((~np.isfinite(matrix)).any(1).sum()):
            raise ConfigError(f"{side}: {wrong} of {len(matrix)} rows have NaN or infinite numbers")


@contextmanager
def _seeded(seed: int, device: str, cpus: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(cuda), threadpool_limits(cpus):
        torch.manual_seed(seed)
        torch.set_num_threads(cpus)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _solve(model: Linear, source: Tensor, target: Tensor) -> None:
    """Choose the penalty by the leave-one-out error over the pairs, which has a closed form too."""
    found = RidgeCV(PENALTIES).fit(source.double().cpu().numpy(), target.double().cpu().numpy())
    with torch.no_grad():
        model.matrix.weight.copy_(torch.from_numpy(found.coef_.reshape(model.matrix.weight.shape)))
        model.matrix.bias.copy_(torch.from_numpy(np.reshape(found.intercept_, -1)))


def _train(model: Map, source: Tensor, target: Tensor) -> None:
    """Keep the epoch with the least loss over the validation part; stop ``patience`` epochs after it."""
    training = model.settings
    order = torch.randperm(len(source)).to(source.device)
    held = max(round(training.validation * len(order)), FEWEST_VALIDATION)
    validation, rest = order[:held], order[held:]
    batches = max(1, len(rest) // training.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.epochs)
    least, best, waited = math.inf, copy.deepcopy(model.state_dict()), 0
    for _ in range(training.epochs):
        model.train()
        for batch in rest[torch.randperm(len(rest)).to(rest.device)].tensor_split(batches):
            optimiser.zero_grad()
            model.loss(source[batch], target[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            loss = float(model.loss(source[validation], target[validation]))
        waited += 1
        if loss < least:
            least, best, waited = loss, copy.deepcopy(model.state_dict()), 0
        if waited == training.patience:
            break
    if not math.isfinite(least):
        raise MmrayError(f"{model.name}: the loss is no number; lower training.learning_rate")
    model.load_state_dict(best)
