"""What there is to do to tune classifiers of texts: every network of every fold, and all that they read."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmray import provenance
from mmray.errors import ConfigError
from mmray.fusion import examples, text_material, text_model
from mmray.fusion.examples import Fold, Split
from mmray.fusion.fits import Fit
from mmray.fusion.text_fitting import VERSION, Source, TextFitting
from mmray.fusion.text_material import TextMaterial
from mmray.fusion.text_tokens import Chunks, Joiner
from mmray.fusion.text_training import TextConfig, TextNetwork
from mmray.models import hub, weights
from mmray.models.tokenizer import ENCODERS, Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """All fits, and what makes them in a worker; ``notes``: who is left out or shortened, ``leaks``: see Split."""

    config: TextConfig
    split: Split
    sources: Mapping[str, Source]
    fits: tuple[Fit, ...]
    notes: tuple[str, ...]
    leaks: tuple[str, ...]

    def make(self, fit: Fit, device: torch.device | str) -> TextFitting:
        """Begin a fit: load its encoder, on this node."""
        network = next(one for one in self.config.networks if one.as_ == fit.network)
        return TextFitting(fit, network, self.split, self.sources[fit.network], self.config, device)


def prepare(config: TextConfig) -> Prepared:
    """Read, split and tokenize everything, and look at every encoder; ConfigError, naming the key, before any work."""
    material = text_material.load(config)
    split = examples.split(material, config)
    sources: dict[str, Source] = {}
    for place, network in enumerate(config.networks):
        try:
            sources[network.as_] = _source(network, config, material, split)
        except ConfigError as error:
            raise ConfigError(f"networks[{place}].{error}") from None
    fits = tuple(
        Fit(
            fold.number,
            network.as_,
            key(network, fold, split, material, sources[network.as_], config),
            config.schedule.epochs,
        )
        for fold in split.folds
        for network in config.networks
    )
    said = [_shortened(network, sources[network.as_].chunks) for network in config.networks]
    notes = (*material.notes, *split.notes, *(note for note in said if note))
    return Prepared(config, split, sources, fits, notes, split.leaks)


def _source(network: TextNetwork, config: TextConfig, material: TextMaterial, split: Split) -> Source:
    try:
        found = weights.resolve(network.model)
        hub.config(str(found.path), *ENCODERS)
        model = text_model.begin(str(found.path), split.classes, 0)  # says what is wrong with it
        tokenizer = Tokenizer(str(found.path), model.config, "cpu")
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from None
    if found.random:
        log.warning("%s: RANDOM WEIGHTS (%s): its numbers mean nothing", network.as_, found.fingerprint)
    blocks = [material.dataset.blocks[name].texts or () for name in config.inputs_of(network)]
    texts = list(zip(*blocks, strict=True))
    return Source(found, Joiner(tokenizer, len(blocks), network.tokens, network.chunks)(texts))


def _shortened(network: TextNetwork, chunks: Chunks) -> str:
    count = int(chunks.shortened.sum())
    words = f"{count} of {len(chunks.shortened)} samples have more than {network.chunks} chunk(s)"
    return f"{network.as_}: {words}; so many of each are read, evenly chosen (networks.chunks)" if count else ""


def key(
    network: TextNetwork, fold: Fold, split: Split, material: TextMaterial, source: Source, config: TextConfig
) -> str:
    """Return the fingerprint of everything that decides a network's numbers."""
    members = hashlib.sha256()
    for part in (fold.train, fold.validation):
        for own in part.members:
            members.update(own.tobytes() + b"|")
    about = [
        VERSION, network.as_, source.encoder.identity, network.tokens, network.chunks,
        [(name, material.dataset.blocks[name].identity) for name in config.inputs_of(network)],
        material.labels.identity, config.labels.resample, list(split.classes), members.hexdigest(), fold.number,
        config.seed, config.schedule.model_dump(mode="json"),
    ]  # fmt: skip
    return provenance.fingerprint(about, 16)
