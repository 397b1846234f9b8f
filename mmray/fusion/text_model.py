"""A classifier of texts: a pretrained encoder with a new head, and its folder, which transformers reads too.

Source: Devlin et al. 2019, BERT; Sanh et al. 2019, DistilBERT. Weights: the encoder's, tuned here.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mmray import storage
from mmray.config import validate
from mmray.errors import ConfigError
from mmray.fusion.bench import seeded
from mmray.fusion.fits import rank, summed, world
from mmray.fusion.text_tokens import Chunks, Joiner, Places
from mmray.models import hub, weights
from mmray.models.tokenizer import Tokenizer, by_length
from mmray.models.torch_setup import ensure_torchaudio, quiet

FORMAT = 1
OURS = "mmray"  # the key of config.json under which our part stands


class TextFile(BaseModel):
    """Our part of a classifier's config.json; the rest of it is transformers'.

    ``inputs``: the texts in the order in which they are joined. ``temperature``: what logits are divided by, so that
    their softmax can be believed; transformers itself gives them undivided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(FORMAT, ge=1, le=FORMAT)
    inputs: tuple[str, ...] = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)
    tokens: int | None = None
    chunks: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0)


def begin(path: str, classes: Sequence[str], seed: int) -> Any:
    """Load a pretrained encoder and give it a new head for these classes, drawn by the seed.

    ConfigError where the encoder lacks a tensor; only its pooling layer may be missing, which models that were trained
    on masked words do not have.
    """
    ensure_torchaudio()
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with seeded(torch.device("cpu"), seed), quiet():
        encoder = hub.load("AutoModel", path, "float32", "cpu", unread=("pooler.",))
        config = AutoConfig.from_pretrained(
            path,
            local_files_only=True,
            id2label=dict(enumerate(classes)),
            label2id={name: place for place, name in enumerate(classes)},
            problem_type="single_label_classification",
        )
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    wanted = model.base_model.state_dict()  # some classifiers leave the pooling layer out
    model.base_model.load_state_dict({name: one for name, one in encoder.state_dict().items() if name in wanted})
    return model


@torch.no_grad()
def mean_logits(model: Any, joiner: Joiner, chunks: Chunks, samples: Places, batch_size: int) -> Tensor:
    """Return the mean logits of the chunks of samples: float32 (samples, classes), 0 where one has no chunk.

    Workers that share a fit do a share of the batches each, and all get all logits.
    """
    model.eval()
    places, owner = chunks.of(samples)
    found = torch.zeros(len(places), model.config.num_labels, device=model.device)
    for batch in list(by_length(chunks.lengths[places].tolist(), batch_size))[rank() :: world()]:
        found[batch] = model(**joiner.inputs(chunks, places[batch], model.device)).logits.float()
    whose = torch.from_numpy(owner).to(model.device)
    sums = torch.zeros(len(samples), found.shape[1], device=model.device).index_add_(0, whose, summed(found))
    return sums / torch.bincount(whose, minlength=len(samples)).clamp(min=1)[:, None]


class TextClassifier:
    """A tuned classifier: the texts of samples -> calibrated logits."""

    def __init__(self, model: Any, tokenizer: Tokenizer, about: TextFile, provenance: dict[str, Any]) -> None:
        self.about, self.provenance = about, provenance
        self._model = model
        self._joiner = Joiner(tokenizer, len(about.inputs), about.tokens, about.chunks)

    def logits(self, samples: Sequence[Sequence[str | None]], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return logits float32 (samples, classes), divided by the temperature.

        ``samples``: for each the texts of ``about.inputs`` in their order, None where one is absent; at least one.
        """
        every = np.arange(len(samples))
        found = mean_logits(self._model, self._joiner, self._joiner(samples), every, batch_size)
        return np.asarray((found / self.about.temperature).cpu().numpy(), np.float32)


def save(model: Any, tokenizer: Tokenizer, about: TextFile, provenance: dict[str, Any], folder: str) -> None:
    """Write a folder of the hub's layout, which may be a URL. The configuration comes last: then all is there."""
    with tempfile.TemporaryDirectory() as local:
        with quiet():
            model.save_pretrained(local)
            tokenizer.library.save_pretrained(local)
        config = hub.read_json(Path(local) / "config.json") | {
            OURS: about.model_dump(mode="json"),
            "provenance": provenance,
        }
        storage.delete([storage.join(folder, "config.json")])
        for file in sorted(Path(local).iterdir()):
            if file.name != "config.json":
                storage.put(storage.join(folder, file.name), file.read_bytes())
    storage.put(storage.join(folder, "config.json"), json.dumps(config, indent=1, ensure_ascii=False).encode())


def load(folder: str, device: str = "cpu") -> TextClassifier:
    """Read a tuned classifier; ConfigError, naming the file, where something is missing or wrong."""
    path = str(weights.whole(folder))
    settings = hub.config(path)
    if OURS not in settings:
        raise ConfigError(f"{path}/config.json: is not of a classifier that `mmray train` made (no {OURS!r})")
    about = validate(TextFile, settings[OURS], OURS, f"{path}/config.json")
    model = hub.load("AutoModelForSequenceClassification", path, "float32", device)
    if model.config.num_labels != len(about.classes):
        raise ConfigError(f"{path}/config.json: {model.config.num_labels} labels, but {len(about.classes)} classes")
    return TextClassifier(model, Tokenizer(path, model.config, device), about, settings.typed("provenance", {}))
