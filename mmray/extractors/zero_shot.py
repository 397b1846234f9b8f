"""Zero-shot classification: how well each of the given labels fits a text, by a model of textual entailment.

Source: Yin, Hay & Roth 2019; Lewis et al. 2020, BART. Weights: facebook/bart-large-mnli (MIT) unless another is named.
"""

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.texts import by_chunk
from mmray.models import hub
from mmray.models.tokenizer import Tokenizer, by_length
from mmray.specs import TextSpec


class ZeroShot(Extractor):
    """A row has one probability per label, in their order: does the text entail ``hypothesis_template`` with it?

    They add up to 1; with ``multi_label``, or a single label, each is the probability of entailment against
    contradiction, the class of that name (transformers takes the first or the last, whatever it is called). Labels
    and template are sent as they are. Every label costs one pass: n labels, n times the work. A text longer than
    the model reads beside the longest hypothesis gives one row per chunk, cut between words; ``window`` numbers
    them. Other scripts, emoji and control characters are what the checkpoint's vocabulary makes of them.

    Skipped: no_text (nothing but white space and control characters). Failed: bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "zero_shot"
    kind: ClassVar[Kind] = Kind.SCORES
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "first")
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 1.0  # texts of 30 tokens, with five labels: 5 pairs a second

    source: str = "text"
    text: TextSpec = TextSpec()
    model: str = "facebook/bart-large-mnli"
    candidate_labels: tuple[str, ...]
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    precision: Precision = "float32"

    @field_validator("candidate_labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not labels or not all(label.strip() for label in labels):
            raise ValueError("give at least one label, and none that is empty")
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{twice[0]!r} stands there twice")
        return labels

    @field_validator("hypothesis_template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        try:
            if template.format("one") != template.format("other"):
                return template
        except (IndexError, KeyError, AttributeError, ValueError):
            pass
        raise ValueError("must have one {} where the label goes, and no other braces")

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where the folder's model does not know entailment."""
        _classes(path)
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the number of labels."""
        del path
        return {"scores": len(self.candidate_labels)}

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return the candidate labels."""
        del path
        return self.candidate_labels

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder of a classifier of sentence pairs, offline."""
        import torch

        assert path is not None
        entails, contradicts = _classes(path)
        model = hub.load("AutoModelForSequenceClassification", path, self.precision, device)
        tokenizer = Tokenizer(path, model.config, model.device)
        hypotheses = [self.hypothesis_template.format(label) for label in self.candidate_labels]
        longest = max(hypotheses, key=tokenizer.count)
        if tokenizer.count("", longest) >= tokenizer.limit:
            raise ConfigError(f"candidate_labels: {longest!r} leaves no room for a text in {tokenizer.limit} tokens")
        uses_cache = {"use_cache": False} if model.config.is_encoder_decoder else {}

        @torch.inference_mode()
        def logits(pieces: list[str]) -> npt.NDArray[np.float32]:
            """Return (pieces, labels, classes)."""
            pairs = [(piece, hypothesis) for piece in pieces for hypothesis in hypotheses]
            found = np.zeros((len(pairs), model.config.num_labels), np.float32)
            for batch in by_length([len(piece) + len(hypothesis) for piece, hypothesis in pairs], self.batch_size):
                texts, seconds = zip(*(pairs[place] for place in batch), strict=True)
                output = model(**tokenizer(list(texts), list(seconds)), **uses_cache)
                found[batch] = output.logits.float().cpu().numpy()
            return found.reshape(len(pieces), len(hypotheses), -1)

        def scores(pieces: list[str]) -> dict[str, Any]:
            values = logits(pieces)
            if self.multi_label or len(hypotheses) == 1:
                return {"scores": _softmax(values[:, :, [contradicts, entails]])[:, :, 1]}
            return {"scores": _softmax(values[:, :, entails])}

        return lambda items: by_chunk(items, lambda text: tokenizer.count(text, longest), tokenizer.limit, scores)


def _classes(path: str) -> tuple[int, int]:
    """Return the numbers of entailment and of its contrary, from the names in a folder's configuration.

    Where no name begins with "contradict", the contrary is the first class, or the last where entailment is the first:
    so transformers has it.
    """
    about = hub.config(path)
    named = about.get("label2id") or {name: number for number, name in (about.get("id2label") or {}).items()}
    numbers = {str(name).lower(): int(number) for name, number in named.items()}
    entails = [number for name, number in numbers.items() if name.startswith("entail")]
    if not entails:
        raise ConfigError(f"{path}/config.json: label2id has no label that begins with 'entail' ({', '.join(numbers)})")
    contradicts = [number for name, number in numbers.items() if name.startswith("contradict")]
    return entails[0], contradicts[0] if contradicts else (max(numbers.values()) if entails[0] == 0 else 0)


def _softmax(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return probabilities along the last axis."""
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)
