"""``mmray evaluate``: what trained networks answer on the test parts, as Ray tasks of one thread each, and its figures.

What is done is one file per network and fold, OUT/evaluation/KEY.parquet: its answers under every condition. KEY
changes with whatever decides them; an evaluation that is stopped goes on with what has no file.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from mmray import provenance, storage
from mmray.errors import ConfigError, MmrayError
from mmray.fusion import evaluation, examples, fit_plan, material, network_files, text_fits, text_material
from mmray.fusion.answers import TEST, Asking
from mmray.fusion.bench import Bench
from mmray.fusion.dataset import Dataset
from mmray.fusion.evaluation import Answers
from mmray.fusion.examples import AnyConfig, Examples, Part, Split
from mmray.fusion.fits import Fit
from mmray.fusion.labels import Labels, resampled
from mmray.fusion.text_answers import TextAsking
from mmray.fusion.text_training import TextConfig
from mmray.fusion.training import TrainConfig
from mmray.fusion.views import View, views
from mmray.pipelines import cluster, report_training
from mmray.pipelines.console import Progress
from mmray.report import training as report
from mmray.tables import lease, ledger
from mmray.tables.lease import Lease
from mmray.tables.store import Store, open_store, write_parquet

log = logging.getLogger(__name__)

Record = dict[str, Any]
NAMED = 8  # fits that a message names


@dataclass(frozen=True)
class Job:
    """What is to be evaluated; ``ask`` gives the answers of a fit."""

    config: AnyConfig
    networks: Mapping[str, tuple[str, ...]]  # the inputs of each
    material: material.Material | text_material.TextMaterial
    split: Split
    fits: tuple[Fit, ...]
    tested: tuple[Examples, ...]
    ask: Asking | TextAsking
    notes: tuple[str, ...]

    @property
    def dataset(self) -> Dataset:
        """Return the samples."""
        return self.material.dataset

    @property
    def labels(self) -> Labels:
        """Return their labels."""
        return self.material.labels

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of all inputs."""
        return tuple(one.as_ for one in self.config.inputs)


def run(config: AnyConfig, file: str = "configuration") -> Record:
    """Ask the trained networks of a configuration what was not asked yet; returns the account, also in OUT.

    ConfigError, naming them, where networks are not trained, or by another configuration.
    """
    began = time.monotonic()
    out = Store(storage.absolute(config.out))
    try:
        job = prepare(config, out.uri)
        check_trained(job.fits, out.uri)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if job.split.leaks and config.leaks == "error":
        raise ConfigError(f"{file}: leaks: {job.split.leaks[0]}")
    for leak in job.split.leaks:
        log.warning("LEAK: %s", leak)
    for note in job.notes:
        log.info("left out: %s", note)
    with lease.hold(out, provenance.new_run_id()) as held:
        if held.note:
            log.warning("%s", held.note)
        files = {fit: out.path("evaluation", f"{job.ask.key(fit)}.parquet") for fit in job.fits}
        pending = [fit for fit, file in files.items() if not storage.exists(file)]
        log.info("%d networks: %d evaluated before, %d to do", len(files), len(files) - len(pending), len(pending))
        if pending:
            _ask(job, pending, files, held, file)
        held.check()
        answers = pl.concat([_read(files[fit], fit) for fit in job.fits])
        account = {
            "evaluation": out.uri, "kind": config.kind, "fits": len(files), "computed": len(pending),
            **_measured(job, answers, out), "warnings": list(job.split.leaks), "notes": list(job.notes),
            "seconds": round(time.monotonic() - began, 3), "report": out.path("evaluation.html"),
        }  # fmt: skip
        page = report.page(account, _epochs(job, out), _views(job, out.uri), _thumbnails(job, account["errors"]))
        storage.put(out.path("evaluation.html"), page.encode())
        storage.put(out.path("evaluation.json"), json.dumps(account, ensure_ascii=False).encode())
        return account


def prepare(config: AnyConfig, out: str) -> Job:
    """Read everything that networks are asked; ConfigError where something is not there."""
    return _texts(config, out) if isinstance(config, TextConfig) else _fusions(config, out)


def _fusions(config: TrainConfig, out: str) -> Job:
    networks = {one.as_: config.inputs_of(one) for one in config.networks}
    found = material.load(config)
    split = examples.split(found, config)
    bench = Bench(config, found.modalities, split.folds, split.classes, out)
    fits = fit_plan.enumerate_fits(bench, found.labels.identity)
    tested = tuple(fold.test.examples(config.test_size, (config.seed, fold.number, TEST)) for fold in split.folds)
    labels = (f"labels {config.labels.as_}: {count} samples {why}" for why, count in found.labels.excluded.items())
    notes = tuple(dict.fromkeys((*found.notes, *labels, *split.notes)))
    return Job(config, networks, found, split, fits, tested, Asking(config, found.modalities, tested, out), notes)


def _texts(config: TextConfig, out: str) -> Job:
    networks = {one.as_: config.inputs_of(one) for one in config.networks}
    planned, found = text_fits.prepare(config), text_material.load(config)
    tested = tuple(fold.test.examples() for fold in planned.split.folds)
    texts = {name: block.texts or () for name, block in found.dataset.blocks.items()}
    ask = TextAsking(config, texts, tested, out)
    return Job(config, networks, found, planned.split, planned.fits, tested, ask, planned.notes)


def check_trained(fits: Sequence[Fit], out: str) -> None:
    """Refuse to evaluate what is not trained, or was trained by what is another configuration now."""
    pending = [fit for fit in fits if fit.done(out) is None]
    stale = [fit for fit in pending if storage.exists(storage.join(fit.folder(out), "config.json"))]
    missing = [fit for fit in pending if fit not in stale]
    said = []
    if missing:
        said.append(f"{len(missing)} of {len(fits)} networks are not trained ({_named(missing)})")
    if stale:
        said.append(
            f"{len(stale)} were trained by another configuration or on other data ({_named(stale)}); they are refused"
        )
    if said:
        raise ConfigError(f"{' and '.join(said)}: run `mmray train` with this configuration first")


def _named(fits: Sequence[Fit]) -> str:
    names = "; ".join(fit.name for fit in fits[:NAMED])
    return names + (f"; and {len(fits) - NAMED} more" if len(fits) > NAMED else "")


def _answers(ask: Asking | TextAsking, fit: Fit) -> pl.DataFrame:
    """Be one task."""
    torch.set_num_threads(1)
    return ask(fit)


def _ask(job: Job, pending: Sequence[Fit], files: Mapping[Fit, str], held: Lease, file: str) -> None:
    """Ask networks on all cores, the material being put there once; each one's answers are kept as they come."""
    failed: dict[str, str] = {}
    with cluster.connected() as ray, Progress("evaluate", len(pending)) as progress:
        cluster.check_shared(ray, job.config.out, held.store.path(lease.FILE), "out")
        shared = ray.put(job.ask)
        task = ray.remote(num_cpus=1)(_answers)
        running = {task.remote(shared, fit): fit for fit in pending}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            fit = running.pop(ready)
            try:
                answers = ray.get(ready).to_arrow()
            except ray.exceptions.RayTaskError as error:
                failed[fit.name] = f"{type(error.cause).__name__}: {error.cause}"
            except ray.exceptions.RayError as error:  # out of memory, a lost node
                failed[fit.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            else:
                held.check()
                write_parquet(answers, files[fit])
            progress.advance(1)
    if failed:
        name, words = next(iter(failed.items()))
        raise MmrayError(
            f"{file}: {len(failed)} of {len(pending)} networks could not be evaluated; {name}: {words}; what the "
            "others answered is kept, and the same command goes on (where a network's own file is damaged: delete its "
            "folder and run `mmray train` first)"
        )


def _read(file: str, fit: Fit) -> pl.DataFrame:
    try:
        with storage.open_read(file) as opened:
            found = pl.read_parquet(opened)
    except pl.exceptions.ComputeError as error:
        raise ConfigError(f"{file}: is damaged; delete it, and {fit.name} is asked again: {error}") from None
    return found.with_columns(network=pl.lit(fit.network), fold=pl.lit(fit.fold, pl.Int32))


def _measured(job: Job, frame: pl.DataFrame, out: Store) -> Record:
    """Write OUT/predictions.parquet; returns all figures."""
    classes, inputs = job.split.classes, job.inputs
    answered = evaluation.predictions(frame, job.tested, job.dataset.ids, inputs, classes)
    write_parquet(answered.to_arrow(), out.path("predictions.parquet"))
    found = Answers(frame, job.networks, [len(one) for one in job.tested])
    figures = evaluation.measure(found, classes)
    return {
        "networks": len(figures), "folds": _folds(job), "examples": found.total,
        "pairs": bool(job.config.pair_on), "classes": list(classes), "leaderboard": evaluation.leaderboard(figures),
        "below": evaluation.below(figures),
        "noise": _noise(job.config), "figures": figures, "disagreements": evaluation.disagreements(found),
        "errors": evaluation.worst_errors(answered), "predictions": out.path("predictions.parquet"),
    }  # fmt: skip


def _noise(config: AnyConfig) -> dict[str, str]:
    """Return the kind of noise of each input that has some."""
    if isinstance(config, TextConfig):
        return {}
    return {one.as_: one.noise.kind for one in config.inputs if one.noise}


def _folds(job: Job) -> list[Record]:
    """Return of each fold: the groups that only its test part has, how many examples it asks, and class counts."""
    return [
        {
            "fold": fold.number,
            "held_out": _held_out(job, fold.test),
            "examples": len(asked),
            "counts": {
                "train": _counts(job, fold.train),
                **_resampled(job, fold.train),
                "validation": _counts(job, fold.validation),
                "test": _counts(job, fold.test),
            },
        }
        for fold, asked in zip(job.split.folds, job.tested, strict=True)
    ]


def _held_out(job: Job, test: Part) -> list[str]:
    """Return the groups of a test part, of the inputs that are split by them."""
    config = job.config
    split_by = [getattr(one, "split", None) or config.split for one in config.inputs]
    parts = [members for by, members in zip(split_by, test.members, strict=True) if by == "group"]
    groups = job.dataset.columns[config.group_column] if parts else ()
    found = {str(groups[place]) for members in parts for place in members if groups[place] is not None}
    return sorted(found)


def _counts(job: Job, part: Part) -> Record:
    """Return class -> how many samples, for each input where they are drawn as pairs, else of all of them."""
    members = dict(zip(job.inputs, part.members, strict=True))
    if not part.paired:
        members = {"": np.unique(np.concatenate(part.members))}
    counted = {name: Counter(part.classes[places].tolist()) for name, places in members.items()}
    return {
        name: {label: counts.get(number, 0) for number, label in enumerate(job.split.classes)}
        for name, counts in counted.items()
    }


def _resampled(job: Job, train: Part) -> Record:
    """Return the class counts of what an epoch draws, where the labels' rules resample."""
    how = job.config.labels.resample
    if how == "none":
        return {}
    classes = train.examples().classes
    counts = np.bincount(classes[resampled(classes, how, job.config.seed)], minlength=len(job.split.classes))
    return {"resampled": {"": dict(zip(job.split.classes, counts.tolist(), strict=True))}}


def _epochs(job: Job, out: Store) -> list[Record]:
    """Return the epochs of these fits, as far as they were written down."""
    told = out.read("epochs.parquet")
    if told is None:
        return []
    return ledger.as_polars(told).filter(pl.col("key").is_in([fit.key for fit in job.fits])).to_dicts()


def _thumbnails(job: Job, errors: Record) -> dict[tuple[str, str], str]:
    if isinstance(job.config, TextConfig):
        return {}
    assert isinstance(job.material, material.Material)
    return report_training.thumbnails(errors, job.config, job.material)


def _views(job: Job, out: str) -> list[View]:
    if isinstance(job.config, TextConfig):
        return []
    assert isinstance(job.material, material.Material)
    loaded = [network_files.load(fit.folder(out))[0] for fit in job.fits if fit.fold == job.fits[0].fold]
    loaded.sort(key=lambda network: len(network.names))
    return views(loaded, job.config, job.material, job.tested[job.fits[0].fold], open_store(job.config.store))
