"""What each worker of a training does: the pending fits one after the other, with checkpoints between epochs."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import collective

from mmray.fusion.fits import Fit, Fitting, Plan
from mmray.models.torch_setup import whole_float32
from mmray.pipelines import epochs

CHECKPOINT_S = 1.0  # epochs that are over sooner share a checkpoint
STATE = "state.pt"


@dataclass(frozen=True)
class Job:
    """What all workers read, once per node from the object store."""

    out: str
    plan: Plan
    threads: int


def work(config: dict[str, Any]) -> None:
    """Be a worker: do the fits that are not done; the one under way goes on from the last checkpoint."""
    job: Job = ray.get(config["job"])
    _settle(job.threads)
    first = ray.train.get_context().get_world_rank() == 0
    # One worker looks: others would look later, when a fit may have just been finished.
    pending = [place for place, fit in enumerate(job.plan.fits) if fit.done(job.out) is None] if first else None
    saved = _saved()
    for place in collective.broadcast_from_rank_zero(pending):
        fit = job.plan.fits[place]
        fitting = job.plan.make(fit, ray.train.torch.get_device())
        rows: list[epochs.Row] = []
        if saved and saved["fit"] == asdict(fit):
            fitting.restore(saved["state"])
            rows = saved["rows"]
        _finish(job, fit, fitting, rows, first)


def _settle(threads: int) -> None:
    """Make the same numbers everywhere: so many threads, whole float32."""
    torch.set_num_threads(threads)
    whole_float32()


def _finish(job: Job, fit: Fit, fitting: Fitting, rows: list[epochs.Row], first: bool) -> None:
    """Do the epochs that are left, and export."""
    workers = ray.train.get_context().get_world_size()
    kept_at = time.monotonic()
    while not fitting.over:
        began = time.monotonic()
        metrics = fitting.epoch()
        about = {"fold": fit.fold, "network": fit.network, "epoch": len(rows) + 1, **metrics}
        rows.append({**about, "seconds": round(time.monotonic() - began, 3), "workers": workers, "key": fit.key})
        if collective.broadcast_from_rank_zero(time.monotonic() - kept_at >= CHECKPOINT_S):
            if first:
                epochs.put(job.out, fit, rows, over=False)
            _keep({"fit": asdict(fit), "rows": rows, "state": fitting.state()} if first else None, rows[-1])
            kept_at = time.monotonic()
    if first:
        epochs.put(job.out, fit, rows, over=True)
    fitting.export(fit.folder(job.out))


def _keep(saved: dict[str, Any] | None, metrics: epochs.Row) -> None:
    """Report a checkpoint: all workers call it, one has something to keep."""
    if saved is None:
        ray.train.report(metrics)
        return
    with TemporaryDirectory() as folder:
        torch.save(saved, Path(folder, STATE))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _saved() -> dict[str, Any] | None:
    """Return what the last checkpoint holds: the fit that was under way, its rows and its state."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder, STATE), map_location="cpu", weights_only=True))
