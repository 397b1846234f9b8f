"""Embeddings of texts by DistilBERT, or another encoder of the BERT family.

Source: Sanh et al. 2019, DistilBERT. Weights: distilbert/distilbert-base-uncased (768-d, Apache-2.0) unless another is
named.
"""

from typing import ClassVar, Literal, Self

import numpy as np

from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.texts import embedded
from mmray.models import hub
from mmray.models.tokenizer import ENCODERS, Tokenizer, by_length
from mmray.models.vectors import Vectors, pooled
from mmray.specs import TextSpec

WIDTH = 768  # of all their base models


class DistilBert(Extractor):
    """A row is the mean of one chunk's tokens, their maximum, or (``cls``) the first of them; never of unit length.

    The tokens are the last hidden states; the head of a classifier's folder is left aside. A text longer than the model
    reads gives one row per chunk, cut between words; ``window`` numbers them. Other scripts, emoji and control
    characters are what the checkpoint's vocabulary makes of them, at worst its unknown word; a single word of over 100
    letters is one unknown word to WordPiece, however long.

    Skipped: no_text (nothing but white space and control characters). Failed: bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "distilbert"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 60.0  # texts of 30 tokens; of 512 tokens 3.5

    source: str = "text"
    text: TextSpec = TextSpec()
    model: str = "distilbert/distilbert-base-uncased"
    token_pooling: Literal["cls", "mean", "max"] = "cls"  # noqa: S105
    precision: Precision = "float32"

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where the folder is another architecture's."""
        hub.config(path, *ENCODERS)
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        about = hub.config(path or "", *ENCODERS)
        return {"embedding": about.typed("dim" if "dim" in about else "hidden_size", WIDTH)}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder of the hub, offline."""
        import torch

        assert path is not None
        hub.config(path, *ENCODERS)
        # Nothing reads what a pooling layer makes, and checkpoints trained on masked words have none.
        model = hub.load("AutoModel", path, self.precision, device, unread=("pooler.",))
        tokenizer = Tokenizer(path, model.config, model.device)

        @torch.inference_mode()
        def embed(pieces: list[str]) -> Vectors:
            vectors = np.zeros((len(pieces), model.config.hidden_size), np.float32)
            for batch in by_length([len(piece) for piece in pieces], self.batch_size):
                inputs = tokenizer([pieces[place] for place in batch])
                states = model(**inputs).last_hidden_state
                vectors[batch] = pooled(states, self.token_pooling, inputs["attention_mask"])
            return vectors

        return lambda items: embedded(items, tokenizer.count, tokenizer.limit, embed)
