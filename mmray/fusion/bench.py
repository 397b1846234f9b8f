"""What every fit of a configuration reads, and how its network begins."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmray.fusion import fits, network_files, networks
from mmray.fusion.examples import Fold
from mmray.fusion.fits import Fit
from mmray.fusion.material import Modality
from mmray.fusion.networks import Fusion, Shape
from mmray.fusion.splits import Places
from mmray.fusion.training import Network, TrainConfig

FITTED_BYTES = 2**30  # of windows, from which means and deviations are taken
BEGIN = 0  # what random numbers are for


@dataclass(frozen=True)
class Bench:
    """The data of a configuration, its folds and the names of its classes; ``out``: where trained networks stand."""

    config: TrainConfig
    modalities: Mapping[str, Modality]
    folds: tuple[Fold, ...]
    classes: tuple[str, ...]
    out: str

    def settings(self, fit: Fit) -> Network:
        """Return the settings of a fit's network."""
        return next(one for one in self.config.networks if one.as_ == fit.network)

    def columns(self, names: Sequence[str]) -> list[int]:
        """Return the places of these inputs among those of the configuration: the columns of examples."""
        known = [one.as_ for one in self.config.inputs]
        return [known.index(name) for name in names]

    def begun(self, fit: Fit) -> Fusion:
        """Return the network of a fit before its first epoch; ConfigError where one it starts from cannot be read."""
        settings = self.settings(fit)
        names = self.config.inputs_of(settings)
        encoders = {one.as_: one.encoder for one in self.config.inputs}
        shapes = {name: Shape(self.modalities[name].dim, encoders[name]) for name in names}
        with seeded(torch.device("cpu"), self.config.seed, fit.fold, BEGIN):
            network = networks.make(shapes, len(self.classes), settings)
        singles = [network_files.load(fits.folder(self.out, fit.fold, name))[0] for name in settings.start_from]
        taken = {name for single in singles for name in single.names}
        for name, column in zip(names, self.columns(names), strict=True):
            if name not in taken:
                members = self.folds[fit.fold].train.members[column]
                network.encoders[name].fit(*_windows(self.modalities[name], members))
        networks.begin(network, singles)
        return network


def _windows(one: Modality, members: Places) -> tuple[Tensor, Tensor]:
    """Return the windows of samples, or of as many of them, evenly chosen, as memory should hold."""
    count = min(len(members), max(1, FITTED_BYTES // max(1, one.windows[0].nbytes)))
    rows = one.row[members[np.arange(count) * len(members) // count]]
    return torch.from_numpy(one.windows[rows]), torch.from_numpy(one.there[rows])


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed of several numbers; afterwards they go on as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*numbers))
        yield


def seed_of(*numbers: int) -> int:
    """Return one seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
