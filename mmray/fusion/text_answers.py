"""What a tuned classifier of texts answers: on the test part as it is, and with one of its texts taken away."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import polars as pl
import torch

from mmray.fusion import text_model
from mmray.fusion.answers import CLEAN, VERSION, Condition, answered, digest
from mmray.fusion.examples import Examples
from mmray.fusion.fits import Fit
from mmray.fusion.text_training import TextConfig
from mmray.provenance import fingerprint

Texts = Mapping[str, Sequence[str | None]]  # of each input: of every sample, None where it has none


@dataclass(frozen=True)
class TextAsking:
    """What all classifiers of a training are asked, see ``answers.Asking``; there is no noise in texts."""

    config: TextConfig
    texts: Texts
    tested: tuple[Examples, ...]
    out: str

    def conditions(self, network: str) -> list[Condition]:
        """Return all conditions of a network."""
        settings = next(one for one in self.config.networks if one.as_ == network)
        names = self.config.inputs_of(settings)
        return [CLEAN, *(Condition("removed", name) for name in names if len(names) > 1)]

    def key(self, fit: Fit) -> str:
        """Return the name of a fit's answers: another one whenever anything that decides them is another."""
        done = [astuple(condition) for condition in self.conditions(fit.network)]
        return fingerprint([VERSION, fit.key, fit.fold, digest(self.tested[fit.fold]), done], 16)

    def __call__(self, fit: Fit) -> pl.DataFrame:
        """Load a classifier and ask it; rows of ``answers.SCHEMA``."""
        classifier, asked = text_model.load(fit.folder(self.out)), self.tested[fit.fold]
        places = asked.places.max(axis=1)
        texts = [[self.texts[name][place] for name in classifier.about.inputs] for place in places]
        frames = []
        for condition in self.conditions(fit.network):
            left = [
                [
                    None if name == condition.input else text
                    for name, text in zip(classifier.about.inputs, own, strict=True)
                ]
                for own in texts
            ]
            some = np.array(
                [place for place, own in enumerate(left) if any(text is not None for text in own)], np.int64
            )
            if not len(some):
                continue
            logits = torch.from_numpy(
                classifier.logits([left[place] for place in some], self.config.schedule.batch_size)
            )
            sure, raw = (one.softmax(1).numpy() for one in (logits, logits * classifier.about.temperature))
            frames.append(answered(condition, some, asked.classes[some], sure, raw))
        return pl.concat(frames)
