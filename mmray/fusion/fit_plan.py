"""What a configuration of fusion networks asks for: its data looked at, its fits and their keys."""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from mmray import storage
from mmray.errors import ConfigError
from mmray.fusion import encoders, examples, fits, fitting, material, network_files
from mmray.fusion.bench import Bench, seeded
from mmray.fusion.examples import Fold, Part
from mmray.fusion.fits import Fit, Plan
from mmray.fusion.material import Material
from mmray.fusion.training import Input, Network, TrainConfig
from mmray.provenance import fingerprint

VERSION = 1  # raised whenever the code changes what comes of a fit


def prepare(config: TrainConfig) -> Plan:
    """Read everything and look at every fold before any work; ConfigError, naming the key, where something is amiss.

    Notes count who is left out, and name classes that a part lacks.
    """
    if any(config.schedule_of(one).batch_size < 2 * config.workers for one in config.networks):
        raise ConfigError(f"schedule.batch_size: {config.workers} workers share a batch; give at least two each")
    found = material.load(config)
    _check_inputs(config, found)
    split = examples.split(found, config)
    bench = Bench(config, found.modalities, split.folds, split.classes, storage.absolute(config.out))
    made = enumerate_fits(bench, found.labels.identity)
    _check_starts(bench, made)
    labels = tuple(f"labels {config.labels.as_}: {count} samples {why}" for why, count in found.labels.excluded.items())
    notes = (*found.notes, *labels, *split.notes, *_lacking(bench))
    make = functools.partial(fitting.NetworkFitting, bench)
    return Plan(made, make, tuple(dict.fromkeys(notes)), split.leaks)


def enumerate_fits(bench: Bench, labels: str) -> tuple[Fit, ...]:
    """Return every network of every fold, after those it starts from; ``labels``: the identity of the labels."""
    made = []
    for fold in bench.folds:
        keys: dict[str, str] = {}
        for network in bench.config.in_order:
            keys[network.as_] = _key(bench, fold, network, labels, [keys[name] for name in network.start_from])
            epochs = 0 if network.fusion == "late" else bench.config.schedule_of(network).epochs
            made.append(Fit(fold.number, network.as_, keys[network.as_], epochs))
    return tuple(made)


def _key(bench: Bench, fold: Fold, network: Network, labels: str, starts: list[str]) -> str:
    """Return a key that changes with whatever decides the network's numbers, and with nothing else."""
    config, names = bench.config, bench.config.inputs_of(network)
    inputs = [[*_about(one), bench.modalities[one.as_].identity] for one in config.inputs if one.as_ in names]
    settings = network.model_dump(mode="json", exclude={"inputs", "start_from", "schedule"})
    # Who else takes part decides who is drawn, where not everybody is drawn once.
    drawn = config.pair_on or config.schedule_of(network).epoch_size
    columns = range(len(config.inputs)) if drawn else bench.columns(names)
    members = [_digest(part, columns) for part in (fold.train, fold.validation)]
    schedule = config.schedule_of(network).model_dump(mode="json")
    about = [VERSION, settings, list(names), inputs, labels, list(bench.classes), members, schedule, starts]
    return fingerprint([*about, config.labels.resample, config.pair_on, config.seed, fold.number], 16)


def _about(one: Input) -> list[object]:
    noise = one.noise.model_dump(mode="json", exclude={"sweep"}) if one.noise else None
    return [one.as_, one.encoder.model_dump(mode="json"), noise]


def _digest(part: Part, columns: "range | list[int]") -> str:
    digest = hashlib.sha256()
    for column in columns:
        members = part.members[column]
        digest.update(members.tobytes() + b"\0" + part.classes[members].tobytes() + b"\1")
    return digest.hexdigest()


def _check_inputs(config: TrainConfig, found: Material) -> None:
    """Refuse inputs that tell nothing or that their encoder cannot read, and fusions whose inputs no sample shares."""
    for place, one in enumerate(config.inputs):
        modality = found.modalities[one.as_]
        rows = modality.row[modality.present]
        if len(rows) > 1 and all(np.array_equal(modality.windows[row], modality.windows[rows[0]]) for row in rows[1:]):
            raise ConfigError(f"inputs[{place}]: {one.as_!r} is the same in all samples: it tells nothing")
        try:
            with seeded(torch.device("cpu"), config.seed):  # the caller's random numbers go on as before
                encoders.make(one.encoder, modality.dim)
        except ConfigError as error:
            raise ConfigError(f"inputs[{place}].encoder: {error}") from None
    for place, network in enumerate(config.networks):
        names = config.inputs_of(network)
        counts = np.sum([found.modalities[name].present for name in names], axis=0)
        if len(names) > 1 and not config.pair_on and counts.max() < 2:
            raise ConfigError(
                f"networks[{place}]: no sample has two of {', '.join(names)}; "
                "samples of different inputs can be drawn as pairs: `pair_on: label`"
            )


def _check_starts(bench: Bench, made: tuple[Fit, ...]) -> None:
    """Refuse a damaged network that another one is to start from, and parts too small for the workers."""
    known = {(fit.fold, fit.network): fit for fit in made}
    for fit in made:
        if fit.done(bench.out) is not None:
            continue
        network, fold = bench.settings(fit), bench.folds[fit.fold]
        columns = bench.columns(bench.config.inputs_of(network))
        count = len(np.unique(np.concatenate([fold.train.members[column] for column in columns])))
        if count < bench.config.workers:
            raise ConfigError(f"workers: {bench.config.workers} are more than the {count} samples of {fit.name}")
        for name in network.start_from:
            folder = fits.folder(bench.out, fit.fold, name)
            if known[fit.fold, name].done(bench.out) is not None:
                try:
                    network_files.load(folder)
                except ConfigError as error:
                    raise ConfigError(f"start_from: {error}; delete {folder} to train it anew") from None


def _lacking(bench: Bench) -> Iterator[str]:
    """Say which classes a part of a fold lacks, in all samples or in those that have an input: a note for each part."""
    for fold in bench.folds:
        for part, words in ((fold.train, "train"), (fold.validation, "validation"), (fold.test, "test")):
            held = [set(part.classes[members].tolist()) for members in part.members]
            found: dict[str, list[str]] = {}
            for number, name in enumerate(bench.classes):
                wanting = [one.as_ for one, own in zip(bench.config.inputs, held, strict=True) if number not in own]
                if wanting:
                    which = "" if len(wanting) == len(held) else f" with {' or '.join(map(repr, wanting))}"
                    found.setdefault(which, []).append(name)
            for which, names in found.items():
                many = f"{len(names)} of {len(bench.classes)} classes, such as" if len(names) > 1 else "class"
                yield f"fold {fold.number}: no sample of the {words} part{which} is of {many} {names[0]!r}"
