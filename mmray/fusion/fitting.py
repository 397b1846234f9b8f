"""Fit fusion networks: AdamW with warm-up and cosine, noise in training, the epoch with the least validation loss.

In several processes (torch.distributed) each takes its share of a batch, and gradients are those of the whole batch.
On a CPU the same configuration, workers and threads give the same numbers.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mmray import provenance
from mmray.errors import MmrayError
from mmray.fusion import calibration, fits, network_files
from mmray.fusion.bench import Bench, seed_of, seeded
from mmray.fusion.examples import Batch, Examples, Part, batch
from mmray.fusion.fits import Fit, State
from mmray.fusion.labels import resampled
from mmray.fusion.network_files import InputFile, NetworkFile
from mmray.fusion.networks import Late
from mmray.fusion.noise import CLEAN

TRAIN, VALIDATION = 1, 2  # what random numbers are for


class NetworkFitting:
    """One network of one fold under way; see ``fits.Fitting``."""

    def __init__(self, bench: Bench, fit: Fit, device: torch.device) -> None:
        self._bench, self._fit, self._device = bench, fit, device
        self._schedule = bench.config.schedule_of(bench.settings(fit))
        self._fold = bench.folds[fit.fold]
        self.network = bench.begun(fit).to(device)
        self._names = self.network.names
        self._columns = bench.columns(self._names)
        self._epoch = self._waited = self._best_epoch = 0
        self._least = math.inf
        self._validation = self._examples(self._fold.validation, None, VALIDATION, 0)
        if isinstance(self.network, Late):
            self._set_prior(self.network)
        self._weights = [one for one in self.network.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._weights, self._schedule.learning_rate, weight_decay=self._schedule.weight_decay
        )
        shared = fit.epochs and fits.world() > 1
        # A batch may lack an input, whose encoder then has no gradient. Running means are added up once per epoch.
        self._shared: nn.Module = (
            DistributedDataParallel(self.network, find_unused_parameters=True, broadcast_buffers=False)
            if shared
            else self.network
        )
        self._best: dict[str, Tensor] = _copied(self.network)

    @property
    def over(self) -> bool:
        """Tell whether all epochs are done, or patience has run out."""
        return self._epoch >= self._fit.epochs or self._waited >= self._schedule.patience

    def epoch(self) -> dict[str, float]:
        """Train one epoch and validate."""
        schedule, seed = self._schedule, self._bench.config.seed
        drawn = self._drawn()
        order = np.random.default_rng((seed, self._fit.fold, TRAIN, self._epoch)).permutation(len(drawn))
        steps = -(-len(drawn) // schedule.batch_size)
        spent = torch.zeros((), dtype=torch.float64, device=self._device)
        self._shared.train()
        with seeded(self._device, seed, self._fit.fold, TRAIN, self._epoch, fits.rank()):
            noise = torch.Generator().manual_seed(seed_of(seed, self._fit.fold, TRAIN, self._epoch, fits.rank()))
            for step, chosen in enumerate(np.array_split(order, steps)):
                rate = self._set_rate(step, steps)
                own = self._batch(drawn, chosen[fits.rank() :: fits.world()], noise)
                spent += self._step(own, len(chosen))
        self._share_means()
        self._epoch += 1
        loss, accuracy = self.validate()
        self._weigh(loss)
        return {
            "train_loss": float(fits.summed(spent)) / len(drawn), "validation_loss": loss,
            "validation_accuracy": accuracy, "learning_rate": rate,
        }  # fmt: skip

    def _step(self, own: Batch, size: int) -> Tensor:
        """Learn from this worker's share of a batch of ``size``; returns its loss, added up."""
        self._optimizer.zero_grad()
        smoothing = self._schedule.label_smoothing
        loss = functional.cross_entropy(self._shared(own), own.classes, reduction="sum", label_smoothing=smoothing)
        # Gradients are averaged over workers: times their number they are those of the whole batch.
        (loss * fits.world() / size).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights, self._schedule.clip)
        self._optimizer.step()
        return loss.detach().double()

    def _set_rate(self, step: int, steps: int) -> float:
        """Set the learning rate of a step: up in a line, then down along a cosine."""
        schedule = self._schedule
        way = (self._epoch + (step + 0.5) / steps) / schedule.epochs
        if way < schedule.warmup:
            share = way / schedule.warmup
        else:
            share = (1 + math.cos(math.pi * (way - schedule.warmup) / (1 - schedule.warmup))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = share * schedule.learning_rate
        return share * schedule.learning_rate

    def _share_means(self) -> None:
        """Average what the workers' batches have left in running means."""
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                for running in (module.running_mean, module.running_var):
                    assert running is not None
                    running.copy_(fits.summed(running) / fits.world())

    def _weigh(self, loss: float) -> None:
        """Keep the epoch if it is the best so far; weights that are no numbers any more end the training."""
        self._waited += 1
        if loss < self._least:
            self._least, self._best_epoch, self._waited = loss, self._epoch, 0
            self._best = _copied(self.network)
        elif not math.isfinite(loss):
            if not self._best_epoch:
                raise MmrayError(f"{self._fit.name}: the loss is no number; lower schedule.learning_rate")
            self._waited = self._schedule.patience

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Return mean loss and accuracy over the validation part, the same in all workers."""
        self.network.eval()
        found = torch.zeros(3, dtype=torch.float64, device=self._device)
        for own in self._validating(fits.rank(), fits.world()):
            logits = self.network(own)
            loss = functional.cross_entropy(logits, own.classes, reduction="sum")
            right = (logits.argmax(1) == own.classes).sum()
            found += torch.stack([loss.double(), right.double(), torch.ones_like(loss).double() * len(logits)])
        loss_sum, right_sum, count = fits.summed(found).tolist()
        return loss_sum / count, right_sum / count

    def _validating(self, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """Yield batches of the validation part, with noise that is always the same."""
        size = self._schedule.batch_size
        for place in range(first, -(-len(self._validation) // size), every):
            noise = torch.Generator().manual_seed(seed_of(self._bench.config.seed, self._fit.fold, VALIDATION, place))
            chosen = np.arange(place * size, min((place + 1) * size, len(self._validation)))
            yield self._batch(self._validation, chosen, noise)

    def _examples(self, part: Part, size: int | None, what: int, epoch: int) -> Examples:
        return part.examples(size, (self._bench.config.seed, self._fit.fold, what, epoch)).of(self._columns)

    def _batch(self, drawn: Examples, chosen: np.ndarray[Any, Any], generator: torch.Generator) -> Batch:
        """Read examples, with noise as in training, onto the device."""
        made = batch(drawn, self._names, self._bench.modalities, chosen)
        windows = dict(made.windows)
        for one in self._bench.config.inputs:
            if one.noise and one.as_ in self._names:
                there, kind = made.there[one.as_], one.noise.kind
                level = one.noise.levels(len(chosen), generator)
                level = torch.where(there.any(1), level, CLEAN[kind])
                disturbed = self.network.encoders[one.as_].disturbed
                windows[one.as_] = disturbed(windows[one.as_], there, kind, level, generator)
        return Batch(windows, made.there, made.classes).to(self._device)

    def _drawn(self) -> Examples:
        """Return the examples of an epoch, resampled where the labels' rules say so."""
        drawn = self._examples(self._fold.train, self._schedule.epoch_size, TRAIN, self._epoch)
        seed = seed_of(self._bench.config.seed, self._fit.fold, TRAIN, self._epoch)
        kept = resampled(drawn.classes, self._bench.config.labels.resample, seed)
        return Examples(drawn.places[kept], drawn.classes[kept])

    def _set_prior(self, network: Late) -> None:
        """Take the shares of the classes in the train part."""
        counts = np.maximum(np.bincount(self._drawn().classes, minlength=len(self._bench.classes)), 0.5)
        network.prior.copy_(torch.from_numpy(counts / counts.sum()))

    def state(self) -> State:
        """Return what the next epochs need."""
        return {
            "epoch": self._epoch, "waited": self._waited, "best_epoch": self._best_epoch, "least": self._least,
            "network": self.network.state_dict(), "best": self._best, "optimizer": self._optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._epoch, self._waited = state["epoch"], state["waited"]
        self._best_epoch, self._least, self._best = state["best_epoch"], state["least"], state["best"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

    def export(self, folder: str) -> None:
        """Write the best epoch, its temperature fitted to the validation part by the first worker."""
        self.network.load_state_dict(self._best)
        if fits.rank() == 0:
            calibration.fit_temperature(self.network, self._validating())
        if fits.world() > 1:
            distributed.broadcast(self.network.log_temperature.data, 0)
        loss, accuracy = self.validate()
        if fits.rank() == 0:
            temperatures = [round(one, 6) for one in self.network.log_temperature.exp().tolist()]
            figures = {
                "epochs": self._epoch, "best_epoch": self._best_epoch,
                "validation_loss": round(loss, 6), "validation_accuracy": round(accuracy, 6),
                "temperature": temperatures[0] if len(temperatures) == 1 else temperatures,
                "parameters": sum(one.numel() for one in self._weights),
            }  # fmt: skip
            network_files.save(self.network, folder, self._about(figures))
        fits.together()

    def _about(self, figures: dict[str, Any]) -> NetworkFile:
        config, inputs = self._bench.config, {one.as_: one for one in self._bench.config.inputs}
        return NetworkFile(
            network=self.network.settings,
            inputs=tuple(
                InputFile(
                    **{"as": name},
                    extractor=self._bench.modalities[name].extractor,
                    pooling=None if inputs[name].windows else inputs[name].pooling,
                    windows=inputs[name].windows,
                    dim=self._bench.modalities[name].dim,
                    encoder=inputs[name].encoder,
                )
                for name in self._names
            ),
            classes=self._bench.classes,
            provenance={
                "key": self._fit.key,
                "fold": self._fit.fold,
                "figures": figures,
                "config": config.model_dump(mode="json", by_alias=True),
                "versions": provenance.versions(),
                "git_commit": provenance.git_commit(),
            },
        )


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(one.detach()).cpu() for name, one in network.state_dict().items()}
