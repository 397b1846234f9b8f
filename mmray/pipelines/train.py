"""``mmray train``: networks on Ray Train, one Trainer for all that is to do, one network of one fold after the other.

What is done is a folder per network and fold, OUT/networks/fold-K/NAME, written when it is trained and calibrated. A
training that is stopped goes on with what has no folder; the network that was under way goes on from its last
checkpoint (OUT/train, removed at the end), also where a worker dies.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import polars as pl
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from mmray import provenance, storage
from mmray.errors import ConfigError, MmrayError
from mmray.fusion import fit_plan
from mmray.fusion.fits import Fit, Plan
from mmray.fusion.text_training import TextConfig
from mmray.fusion.training import TrainConfig, Training
from mmray.pipelines import cluster, epochs
from mmray.pipelines.console import Progress
from mmray.pipelines.train_worker import Job, work
from mmray.tables import lease
from mmray.tables.store import Store, open_out

log = logging.getLogger(__name__)

Record = dict[str, Any]
LOOK_S = 0.5  # between looks at what the workers have written
STALE = ("evaluation.json", "evaluation.html", "predictions.parquet")  # what was said of networks that are replaced
POLL_S = "0.25"  # Ray's default is 2 s, and it takes one report at a time


def run(config: TrainConfig | TextConfig, file: str = "configuration") -> Record:
    """Train what of a configuration is not done; returns the account, which also stands in OUT/train.json."""
    try:
        if isinstance(config, TextConfig):
            from mmray.fusion import text_fits  # transformers take seconds to import

            found = text_fits.prepare(config)
            plan = Plan(found.fits, found.make, found.notes, found.leaks)
        else:
            plan = fit_plan.prepare(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return drive(config, plan, file)


def drive(config: Training, plan: Plan, file: str) -> Record:
    """Do the fits of a plan that are not done; ConfigError before any work."""
    began, fits = time.monotonic(), plan.fits
    if plan.leaks and config.leaks == "error":
        raise ConfigError(f"{file}: leaks: {plan.leaks[0]}")
    for leak in plan.leaks:
        log.warning("LEAK: %s", leak)
    for note in plan.notes:
        log.info("note: %s", note)
    out = open_out(config.out, "train.json", file)
    with lease.hold(out, provenance.new_run_id()) as held:
        if held.note:
            log.warning("%s", held.note)
        pending = [fit for fit in fits if fit.done(out.uri) is None]
        log.info("%d networks: %d done before, %d to do", len(fits), len(fits) - len(pending), len(pending))
        try:
            if pending:
                with cluster.connected() as connection:
                    check_workers(connection, config, file)
                    cluster.check_shared(connection, config.out, out.path("lock.json"), "out")
                    storage.delete(out.path(name) for name in STALE)
                    _train(connection, config, Job(out.uri, plan, max(1, int(config.cpus_per_worker))), pending)
        finally:
            held.check()
            told = epochs.gather(out, fits)
        storage.delete_folder(out.path("train"))
        return _finish(config, out, fits, pending, told, {
            "notes": list(plan.notes), "warnings": list(plan.leaks), "seconds": round(time.monotonic() - began, 3),
        })  # fmt: skip


def check_workers(connection: Any, config: Training, file: str) -> None:
    """Refuse more workers than there is room for: Ray would wait for ever, and say nothing."""
    cpus, gpus = config.cpus_per_worker, config.gpus_per_worker
    if cluster.room(connection, cpus, gpus, f"{file}: gpus_per_worker") >= config.workers:
        return
    need = f"{config.workers} worker(s) with {cpus:g} CPU and {gpus:g} GPU each"
    have = cluster.described(connection)
    if not os.environ.get("RAY_ADDRESS"):
        mend = "lower workers, cpus_per_worker or gpus_per_worker"
        raise ConfigError(f"{file}: workers: {need} do not fit: this machine has {have}; {mend}")
    log.warning("%s do not fit yet: the cluster has %s; waiting for it to grow", need, have)


def _train(connection: Any, config: Training, job: Job, pending: Sequence[Fit]) -> None:
    """Start one Trainer, and show what its workers write until it ends."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": connection.put(job)},
        # Workers that share a GPU cannot use NCCL.
        torch_config=TorchConfig(backend="gloo" if config.gpus_per_worker < 1 else "nccl"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker},
        ),
        run_config=_run_config(config, job),
    )
    # In a thread of its own: in the main one Ray would take Ctrl-C for itself, and exit with 0.
    pool = ThreadPoolExecutor(1, thread_name_prefix="train")
    try:
        _watch(pool.submit(trainer.fit), job, pending)
    except ray.train.TrainingFailedError as error:
        raise MmrayError(_said(error)) from error
    finally:
        pool.shutdown(wait=False)


def _run_config(config: Training, job: Job) -> ray.train.RunConfig:
    """Name the run after its work: the same command finds its checkpoints."""
    name = provenance.fingerprint([ray.__version__, [fit.key for fit in job.plan.fits]], 16)
    snapshot = storage.join(job.out, "train", name, "checkpoint_manager_snapshot.json")
    try:
        json.loads(storage.read_bytes(snapshot))
    except FileNotFoundError:
        pass
    except ValueError:
        log.warning("%s was cut off; the network that was under way begins anew", snapshot)
        storage.delete_folder(storage.parent(snapshot))
    system, path = storage.arrow(storage.join(job.out, "train"))
    return ray.train.RunConfig(
        name=name,
        storage_path=path,
        storage_filesystem=system,
        failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
    )


def _watch(training: "Future[Any]", job: Job, pending: Sequence[Fit]) -> None:
    """Show each epoch until the training ends; raises what it raised."""
    board, shown = epochs.Board(job.out), dict.fromkeys(pending, 0)
    with Progress("train", sum(fit.epochs for fit in pending)) as progress:
        ended = False
        while not ended:
            ended = bool(wait([training], timeout=LOOK_S).done)
            for fit, rows, over in board.news():
                if fit not in shown:  # of a run that was killed
                    continue
                done = fit.epochs if over else len(rows)
                progress.advance(done - shown[fit], f"{fit.name}: {_told(rows)}")
                shown[fit] = done
                if over:
                    progress.say(f"{fit.name} is done: {_told(rows)}")
        training.result()


def _told(rows: Sequence[epochs.Row]) -> str:
    if not rows:
        return "nothing to train"
    last = rows[-1]
    return (
        f"epoch {last['epoch']}, loss {last['train_loss']:.4f}, validation loss {last['validation_loss']:.4f}, "
        f"accuracy {last['validation_accuracy']:.4f}"
    )


def _said(error: Exception) -> str:
    """Return the last words of the worker that failed, which stand at the end of its traceback."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    words = [line for line in str(next(iter(failures.values()))).splitlines() if line.strip()]
    return f"the training failed: {words[-1] if words else type(error).__name__}; the same command goes on"


def _finish(
    config: Training, out: Store, fits: Sequence[Fit], pending: Sequence[Fit], told: pl.DataFrame, account: Record
) -> Record:
    """Write the account and the provenance."""
    by = ["fold", "network"]
    spent = (
        {row[:2]: row[2] for row in told.group_by(by).agg(pl.col("seconds").sum()).iter_rows()} if told.height else {}
    )
    networks = []
    for fit in fits:
        about = fit.done(out.uri)
        if about is None:
            raise MmrayError(f"{fit.folder(out.uri)}: was not written; this is a bug")
        networks.append(
            {"fold": fit.fold, "network": fit.network, **about["figures"]}
            | {"seconds": round(spent.get((fit.fold, fit.network), 0.0), 3)}
        )
    account = {
        "out": out.uri, "fits": len(fits), "done_before": len(fits) - len(pending), "computed": len(pending),
        "workers": config.workers, "networks": networks, **account,
    }  # fmt: skip
    storage.put(out.path("train.json"), json.dumps(account, ensure_ascii=False, indent=1).encode())
    out.write_json({
        "config": config.model_dump(mode="json", by_alias=True), "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }, "provenance.json")  # fmt: skip
    return account
