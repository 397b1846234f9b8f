"""What a trained network answers: on the test part as it is, with an input taken away, and with an input disturbed."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from mmray.fusion import network_files
from mmray.fusion.examples import Batch, Examples, batches
from mmray.fusion.fits import Fit
from mmray.fusion.material import Modality
from mmray.fusion.networks import Fusion, Gated
from mmray.fusion.splits import Places
from mmray.fusion.training import TrainConfig
from mmray.provenance import fingerprint

VERSION = 1  # raised whenever the code changes an answer
TEST = 3  # what random numbers are for; the others: see fitting.py
JOINED = 4096  # examples at a time, of what encoders gave
Probabilities = npt.NDArray[np.float32]
SCHEMA: dict[str, Any] = {
    "condition": pl.String, "input": pl.String, "level": pl.Float64, "example": pl.Int32, "class": pl.Int32,
    "answer": pl.Int32, "confidence": pl.Float32, "probability": pl.Float32, "brier": pl.Float32,
    "raw_answer": pl.Int32, "raw_confidence": pl.Float32, "raw_probability": pl.Float32, "raw_brier": pl.Float32,
    "weights": pl.List(pl.Float32),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """What is done to the test part: nothing, an input taken away from all examples, or one with noise of a level."""

    kind: Literal["clean", "removed", "noise"] = "clean"
    input: str | None = None
    level: float | None = None


CLEAN = Condition()


def conditions(config: TrainConfig, names: tuple[str, ...]) -> list[Condition]:
    """Return all conditions of a network over these inputs."""
    found = [CLEAN]
    if len(names) > 1:
        found += [Condition("removed", name) for name in names]
    for one in config.inputs:
        if one.noise and one.as_ in names:
            found += [Condition("noise", one.as_, level) for level in dict.fromkeys(one.noise.sweep)]
    return found


@dataclass(frozen=True)
class Asking:
    """What all networks of a training are asked; it is called for each fit, in any process.

    ``tested``: the examples of each fold's test part, with a column for each input of the configuration.
    """

    config: TrainConfig
    modalities: Mapping[str, Modality]
    tested: tuple[Examples, ...]
    out: str

    def key(self, fit: Fit) -> str:
        """Return the name of a fit's answers: another one whenever anything that decides them is another.

        The key of a fit holds the identity of what it reads.
        """
        network = next(one for one in self.config.networks if one.as_ == fit.network)
        names, tested = self.config.inputs_of(network), self.tested[fit.fold]
        noise = {
            column: one.noise and one.noise.model_dump(mode="json")
            for column, one in enumerate(self.config.inputs)
            if one.as_ in names
        }
        asked = digest(Examples(tested.places[:, list(noise)], tested.classes))
        return fingerprint([VERSION, fit.key, fit.fold, self.config.seed, asked, list(noise.items())], 16)

    def __call__(self, fit: Fit) -> pl.DataFrame:
        """Load a network and ask it."""
        network, _ = network_files.load(fit.folder(self.out))
        return answer(network, fit.fold, self.tested[fit.fold], self.config, self.modalities)


def digest(asked: Examples) -> str:
    """Return a fingerprint of examples: which places of the data set, and what is right."""
    return hashlib.sha256(asked.places.tobytes() + asked.classes.tobytes()).hexdigest()


@torch.inference_mode()
def answer(
    network: Fusion, fold: int, examples: Examples, config: TrainConfig, modalities: Mapping[str, Modality]
) -> pl.DataFrame:
    """Ask a network all examples under all conditions; ``examples`` have a column for each input of the configuration.

    Returns a row of SCHEMA for each condition and example of which the network sees anything; ``example`` counts in
    the fold, ``raw_*`` is what it says at temperature 1. An input is encoded once as it is, and once for each level.
    """
    network.eval()
    every = [one.as_ for one in config.inputs]
    places = {name: examples.places[:, every.index(name)] for name in network.names}
    there = torch.from_numpy(np.stack([own >= 0 for own in places.values()], 1))
    size = config.schedule.batch_size
    clean = {name: _branch(network, name, own, modalities, size) for name, own in places.items()}
    frames = []
    for condition in conditions(config, network.names):
        branches, present = dict(clean), there.clone()
        if condition.kind == "removed":
            assert condition.input is not None
            branches[condition.input] = network.missing[condition.input].expand(len(examples), -1)
            present[:, network.names.index(condition.input)] = False
        elif condition.kind == "noise":
            assert condition.input is not None
            noise = Noisy(config, fold, condition)
            branches[condition.input] = _branch(
                network, condition.input, places[condition.input], modalities, size, noise
            )
        frames += list(_joined(network, condition, list(branches.values()), present, examples.classes))
    return pl.concat(frames)


class Noisy:
    """The noise of one condition: the same whichever network is asked, as each encodes all examples with the input."""

    def __init__(self, config: TrainConfig, fold: int, condition: Condition) -> None:
        column, about = next((n, one) for n, one in enumerate(config.inputs) if one.as_ == condition.input)
        assert about.noise is not None
        assert condition.level is not None
        place = about.noise.sweep.index(condition.level)
        seed = np.random.SeedSequence((config.seed, fold, TEST, column, place)).generate_state(1)
        self.kind, self.level = about.noise.kind, condition.level
        self.generator = torch.Generator().manual_seed(int(seed[0]))


def _branch(
    network: Fusion, name: str, places: Places, modalities: Mapping[str, Modality], size: int,
    noise: Noisy | None = None,
) -> Tensor:  # fmt: skip
    """Return the branch of one input (examples, width), its token where it is absent; noise is new in each example."""
    result: Tensor = network.missing[name].expand(len(places), -1).clone()
    there = places >= 0
    if not there.any():
        return result
    read, back = (places[there], np.arange(there.sum())) if noise else np.unique(places[there], return_inverse=True)
    found = []
    for own in batches(Examples(read[:, None], np.zeros(len(read), np.int64)), (name,), modalities, size):
        windows, real = own.windows[name], own.there[name]
        if noise:
            level = torch.full((len(windows),), noise.level)
            windows = network.encoders[name].disturbed(windows, real, noise.kind, level, noise.generator)
        found.append(network.encoded(Batch({name: windows}, own.there, own.classes), name, real.any(1)))
    result[torch.from_numpy(there)] = torch.cat(found)[torch.from_numpy(back)]
    return result


def _joined(
    network: Fusion, condition: Condition, branches: list[Tensor], present: Tensor, classes: Places
) -> Iterator[pl.DataFrame]:
    """Join what encoders gave; examples with nothing left are answered by nobody."""
    asked = present.any(1).nonzero().squeeze(1)
    for chosen in torch.split(asked, JOINED) if len(asked) else ():
        own, there = [branch[chosen] for branch in branches], present[chosen]
        weights = network.weights(own, there).numpy() if isinstance(network, Gated) else None
        sure, raw = (one.softmax(1).numpy() for one in (network.calibrated(own, there), network.join(own, there)))
        yield answered(condition, chosen.numpy(), classes[chosen.numpy()], sure, raw, weights)


def answered(
    condition: Condition,
    numbers: Places,
    classes: Places,
    probabilities: Probabilities,
    raw: Probabilities,
    weights: Probabilities | None = None,
) -> pl.DataFrame:
    """Return rows of SCHEMA for examples: their numbers in the fold, right classes and the probabilities given."""
    columns: dict[str, Any] = {
        "condition": [condition.kind] * len(numbers), "input": [condition.input] * len(numbers),
        "level": [condition.level] * len(numbers), "example": numbers, "class": classes,
    }  # fmt: skip
    for prefix, given in (("", probabilities), ("raw_", raw)):
        right = given[np.arange(len(classes)), classes]
        columns[f"{prefix}answer"] = given.argmax(1)
        columns[f"{prefix}confidence"] = given.max(1)
        columns[f"{prefix}probability"] = right
        columns[f"{prefix}brier"] = np.square(given).sum(1) - 2 * right + 1
    columns["weights"] = [None] * len(numbers) if weights is None else weights.tolist()
    return pl.DataFrame({name: pl.Series(name, columns[name], dtype, strict=False) for name, dtype in SCHEMA.items()})
