"""Fine-tuning one classifier of texts on one fold, epoch by epoch, alone or on several ranks.

Source: Devlin et al. 2019, BERT (how encoders are tuned); Guo et al. 2017 (temperature scaling).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmray import provenance
from mmray.errors import MmrayError
from mmray.fusion import labels, text_model
from mmray.fusion.bench import seed_of, seeded
from mmray.fusion.examples import Split
from mmray.fusion.fits import Fit, State, rank, summed, world
from mmray.fusion.splits import Places
from mmray.fusion.text_model import TextFile
from mmray.fusion.text_tokens import Chunks, Joiner
from mmray.fusion.text_training import TextConfig, TextNetwork, TextSchedule
from mmray.models import weights
from mmray.models.tokenizer import Tokenizer
from mmray.models.weights import Weights

VERSION = 1  # raised whenever this code changes the numbers
AT_ONCE = 4096  # tokens that go forward and back together: 3 GB with a network of DistilBERT's size
SORTED = 50  # batches that are sorted by length together: little padding, and still in random order


@dataclass(frozen=True)
class Source:
    """What a network starts from: its encoder, and the texts of all samples as that reads them."""

    encoder: Weights
    chunks: Chunks


class TextFitting:
    """One network of one fold. Every chunk of a sample with k chunks counts 1/k in the loss.

    Order and dropout are drawn by seed, fold, epoch and rank.
    """

    def __init__(
        self, fit: Fit, network: TextNetwork, split: Split, source: Source, config: TextConfig,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self._fit, self._network, self._config, self._source = fit, network, config, source
        self._classes, self._schedule, self._chunks = split.classes, config.schedule, source.chunks
        self._inputs = config.inputs_of(network)
        fold = next(one for one in split.folds if one.number == fit.fold)
        columns = [[one.as_ for one in config.inputs].index(name) for name in self._inputs]
        train, validation = (part.examples().of(columns) for part in (fold.train, fold.validation))
        # A place of the data set is in every column that has it.
        self._train = train.places.max(1)
        self._held, self._held_classes = validation.places.max(1), torch.from_numpy(validation.classes)
        begin = seed_of(config.seed, fit.fold)
        drawn = labels.resampled(train.classes, config.labels.resample, begin)
        self._drawn, owner = self._chunks.of(self._train[drawn])
        self._right, self._weights = train.classes[drawn][owner], 1 / self._chunks.counts[self._train[drawn]][owner]
        self._device = torch.device(device)
        self._load(begin)
        self._done, self._waited, self._best_epoch, self._best_loss = 0, 0, 0, math.inf
        self._best: dict[str, Tensor] = {}
        self._best_logits = torch.zeros(0, len(split.classes))

    def _load(self, seed: int) -> None:
        found = weights.resolve(self._network.model)
        if found.identity != self._source.encoder.identity:
            raise MmrayError(f"{found.path}: this node holds other weights than the driver found")
        self._model = text_model.begin(str(found.path), self._classes, seed).to(self._device)
        self._tokenizer = Tokenizer(str(found.path), self._model.config, self._device)
        self._joiner = Joiner(self._tokenizer, len(self._inputs), self._network.tokens, self._network.chunks)
        self._optimizer = optimizer(self._model, self._schedule)

    @property
    def over(self) -> bool:
        """Tell whether all epochs are done, or the last ones brought nothing."""
        return self._done >= self._fit.epochs or self._waited >= self._schedule.patience

    def epoch(self) -> dict[str, float]:
        """Train on this rank's share of one epoch, and validate; returns the same metrics on all ranks."""
        with seeded(self._device, self._config.seed, self._fit.fold, self._done, rank()):
            trained, rate = self._trained()
        logits = self._logits(self._held).cpu()
        loss = float(functional.cross_entropy(logits, self._held_classes))
        self._done, self._waited = self._done + 1, self._waited + 1
        if loss < self._best_loss:
            self._waited, self._best_epoch, self._best_loss, self._best_logits = 0, self._done, loss, logits
            self._best = {name: one.detach().cpu().clone() for name, one in self._model.state_dict().items()}
        elif not math.isfinite(loss):
            if not self._best_epoch:
                raise MmrayError(f"{self._fit.name}: the loss is no number; lower schedule.learning_rate")
            self._waited = self._schedule.patience
        accuracy = float((logits.argmax(1) == self._held_classes).double().mean())
        return {
            "train_loss": trained, "validation_loss": loss, "validation_accuracy": accuracy, "learning_rate": rate,
        }  # fmt: skip

    def state(self) -> State:
        """Return what the next epochs need."""
        return {
            "done": self._done, "waited": self._waited, "best_epoch": self._best_epoch, "best_loss": self._best_loss,
            "best_logits": self._best_logits, "best": self._best, "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._done, self._waited = state["done"], state["waited"]
        self._best_epoch, self._best_loss = state["best_epoch"], state["best_loss"]
        self._best, self._best_logits = state["best"], state["best_logits"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def export(self, folder: str) -> None:
        """Write the best epoch, calibrated on the validation part; rank 0 does."""
        if rank():
            return
        right, found = self._held_classes, temperature(self._best_logits, self._held_classes)
        figures = {
            "epochs": self._done,
            "best_epoch": self._best_epoch,
            "validation_loss": round(float(functional.cross_entropy(self._best_logits / found, right)), 6),
            "validation_accuracy": round(float((self._best_logits.argmax(1) == right).double().mean()), 6),
            "temperature": round(found, 6),
            "parameters": sum(one.numel() for one in self._model.parameters()),
            "trained_on": len(self._train),
        }
        about = TextFile(
            inputs=self._inputs, classes=self._classes, tokens=self._network.tokens, chunks=self._network.chunks,
            temperature=found,
        )  # fmt: skip
        self._model.load_state_dict(self._best)
        text_model.save(self._model, self._tokenizer, about, self._provenance() | {"figures": figures}, folder)

    def _provenance(self) -> dict[str, Any]:
        return {
            "key": self._fit.key,
            "version": VERSION,
            "fold": self._fit.fold,
            "model": self._network.model,
            "weights": self._source.encoder.fingerprint,
            "sources": {one.as_: one.source for one in self._config.inputs if one.as_ in self._inputs},
            "schedule": self._schedule.model_dump(mode="json"),
            "seed": self._config.seed,
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
        }

    def _batches(self) -> Iterator[Places]:
        """Yield places of drawn chunks in random batches of about equal lengths, the same on all ranks."""
        random = np.random.default_rng([self._config.seed, self._fit.fold, self._done])
        order, size = random.permutation(len(self._drawn)), self._schedule.batch_size
        lengths = self._chunks.lengths[self._drawn]
        pools = [order[start : start + SORTED * size] for start in range(0, len(order), SORTED * size)]
        sorts = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
        batches = [pool[start : start + size] for pool in sorts for start in range(0, len(pool), size)]
        for place in random.permutation(len(batches)):
            yield batches[place]

    def _trained(self) -> tuple[float, float]:
        """Do one epoch; returns its mean loss and last learning rate."""
        self._model.train()
        steps = -(-len(self._drawn) // self._schedule.batch_size)
        losses = torch.zeros(2, dtype=torch.float64, device=self._device)  # their sum, and that of weights
        rate = 0.0
        for step, batch in enumerate(self._batches(), self._done * steps):
            rate = self._schedule.learning_rate * share(step, self._fit.epochs * steps, self._schedule)
            own = batch[rank() :: world()]
            self._optimizer.zero_grad()
            for piece in self._pieces(own):
                loss = self._loss(piece)
                (loss / float(self._weights[batch].sum())).backward()  # type: ignore[no-untyped-call]
                losses += torch.stack([loss.detach().double(), losses.new_tensor(self._weights[piece].sum())])
            self._share_gradients()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._schedule.clip)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        total, weight = summed(losses).tolist()
        return total / weight, rate

    def _pieces(self, places: Places) -> Iterator[Places]:
        """Cut this rank's share of a batch, so that its memory does not grow with the batch."""
        size = max(1, AT_ONCE // int(self._chunks.lengths[self._drawn[places]].max(initial=1)))
        for start in range(0, len(places), size):
            yield places[start : start + size]

    def _loss(self, places: Places) -> Tensor:
        """Return the weighted sum of the losses of some drawn chunks."""
        right = torch.from_numpy(self._right[places]).to(self._device)
        weight = torch.from_numpy(self._weights[places]).to(self._device, torch.float32)
        logits = self._model(**self._joiner.inputs(self._chunks, self._drawn[places], self._device)).logits.float()
        smooth = self._schedule.label_smoothing
        return (functional.cross_entropy(logits, right, reduction="none", label_smoothing=smooth) * weight).sum()

    def _share_gradients(self) -> None:
        if world() == 1:
            return
        wanted = [one for one in self._model.parameters() if one.requires_grad]
        flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in wanted])
        for one, grad in zip(wanted, torch.split(summed(flat), [one.numel() for one in wanted]), strict=True):
            one.grad = grad.view_as(one)

    def _logits(self, samples: Places) -> Tensor:
        return text_model.mean_logits(self._model, self._joiner, self._chunks, samples, self._schedule.batch_size)


def optimizer(model: Any, schedule: TextSchedule) -> torch.optim.AdamW:
    """Return AdamW that lets only matrices decay: no biases, no weights of norms."""
    wanted = [one for one in model.parameters() if one.requires_grad]
    groups = [
        {"params": [one for one in wanted if one.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [one for one in wanted if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def share(step: int, steps: int, schedule: TextSchedule) -> float:
    """Return how much of the learning rate a step gets: up to all of it, then down to nothing."""
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    return 1 - done if schedule.decay == "linear" else (1 + math.cos(math.pi * done)) / 2


def temperature(logits: Tensor, classes: Tensor) -> float:
    """Return what logits are to be divided by so that the right classes are likeliest.

    1 is preferred as by one more example (a normal distribution of the logarithm): where all answers are right, it
    would be 0.
    """
    wanted = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([wanted], max_iter=100, line_search_fn="strong_wolfe")

    def cost() -> float:
        search.zero_grad()
        total = functional.cross_entropy(logits.double() / wanted.exp(), classes) + wanted**2 / (2 * len(classes))
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    search.step(cost)  # type: ignore[no-untyped-call]
    return float(wanted.detach().exp())
