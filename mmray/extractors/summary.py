"""Summaries of texts by BART, or another sequence-to-sequence model.

Source: Lewis et al. 2020, BART. Weights: facebook/bart-large-cnn (MIT) unless another is named.
"""

from collections import defaultdict
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.texts import Tokenizer, by_chunk, by_length
from mmray.models import hub
from mmray.specs import TextSpec

HEAD = "ForConditionalGeneration"
DEFAULT_TOKENS = 20  # transformers' own, where the folder's generation_config.json names no length


class Summary(Extractor):
    """A row is the summary of one chunk: a text longer than the model reads is cut between words, not cut off.

    It is searched for as the folder's generation_config.json says (beams, penalties), never sampled. ``max_tokens``
    and ``min_tokens`` take the place of its lengths. A summary never has more tokens than its text, and may end at half
    of them: a ten-word text is not padded out with inventions (bart-large-cnn asks for 55 tokens at least). So numbers
    differ from transformers' own only for texts of fewer tokens than the largest length, 141 there, or twice the least.
    ``avg_logprob`` is the mean natural log-probability that the model gives to the summary's tokens, its end included,
    each after those before it; ``language`` is null. Other scripts, emoji and control characters are what the
    checkpoint's vocabulary makes of them.

    Skipped: no_text (nothing but white space and control characters). Failed: bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "summary"
    kind: ClassVar[Kind] = Kind.TEXT
    poolings: ClassVar[tuple[Pooling, ...]] = ()
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 0.1  # 0.2 texts of 30 tokens, 0.04 of 200

    source: str = "text"
    pooling: tuple[Pooling, ...] = ()
    text: TextSpec = TextSpec()
    model: str = "facebook/bart-large-cnn"
    max_tokens: int | None = Field(None, ge=2)
    min_tokens: int | None = Field(None, ge=0)
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise ValueError("min_tokens is greater than max_tokens")
        return self

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where the folder's model does not write texts."""
        _writes(path)
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return nothing: rows have no vectors."""
        del path
        return {}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder of a sequence-to-sequence model, offline."""
        import torch

        from mmray.models.torch_setup import ensure_torchaudio

        assert path is not None
        _writes(path)
        ensure_torchaudio()
        from transformers import AutoModelForSeq2SeqLM

        model = hub.load(AutoModelForSeq2SeqLM, path, self.precision, device)
        tokenizer = Tokenizer(path, model.config, model.device)
        least, most = self._lengths(model)

        @torch.inference_mode()
        def summaries(pieces: list[str]) -> dict[str, Any]:
            counts = [tokenizer.count(piece) for piece in pieces]
            alike = defaultdict(list)  # one search has one pair of lengths
            for place, count in enumerate(counts):
                alike[min(least, count // 2), min(most, count)].append(place)
            texts = [""] * len(pieces)
            logprobs = np.zeros(len(pieces), np.float32)
            for (shortest, longest), places in alike.items():
                for batch in by_length([counts[place] for place in places], self.batch_size):
                    chosen = [places[number] for number in batch]
                    inputs = tokenizer([pieces[place] for place in chosen])
                    found = model.generate(
                        **inputs,
                        min_length=shortest + 1,  # these two count the token that starts the decoder
                        max_length=longest + 1,
                        do_sample=False,
                        num_return_sequences=1,
                    )
                    for row, place in enumerate(chosen):
                        text, written = inputs["input_ids"][row, : counts[place]], _to_end(found[row], model)
                        texts[place] = tokenizer.library.decode(written, skip_special_tokens=True).strip()
                        logprobs[place] = _mean_logprob(model, text, written)
            return {"text": texts, "language": [None] * len(texts), "avg_logprob": logprobs}

        return lambda items: by_chunk(items, tokenizer.count, tokenizer.limit, summaries)

    def _lengths(self, model: Any) -> tuple[int, int]:
        """Return the least and the largest number of tokens of a summary; where one is given, the other gives way."""
        settings = model.generation_config
        folder_most = settings.max_new_tokens or (settings.max_length or DEFAULT_TOKENS + 1) - 1
        folder_least = settings.min_new_tokens or max(1, settings.min_length or 0) - 1
        settings.max_new_tokens = settings.min_new_tokens = None  # they would come before the lengths of a call
        most = self.max_tokens or max(folder_most, self.min_tokens or 0)
        places = getattr(model.config, "max_position_embeddings", None)
        if places is not None and most >= places:
            raise ConfigError(f"summary: max_tokens is {most}, and the model writes {places - 1} at most")
        return min(folder_least, most) if self.min_tokens is None else self.min_tokens, most


def _writes(path: str) -> None:
    """Raise ConfigError where a folder is not of a model that writes texts (a classifier's body is the same BART)."""
    names = hub.config(path).get("architectures") or []
    if not any(str(name).endswith(HEAD) for name in names):
        raise ConfigError(
            f"{path}/config.json: is {' or '.join(map(str, names)) or 'of no architecture'}, not ...{HEAD}"
        )


def _to_end(sequence: Any, model: Any) -> Any:
    """Return a written sequence (tokens,) up to its end token, without the padding behind it."""
    ends = (sequence[1:] == model.generation_config.eos_token_id).nonzero()  # decoders may start with the end token too
    return sequence[: int(ends[0]) + 2] if len(ends) else sequence


def _mean_logprob(model: Any, text: Any, written: Any) -> float:
    """Return the mean log-probability of a written sequence (tokens,) behind its first token.

    One text at a time: the logits of a batch of 16 x 142 tokens over 50,264 words would be 456 MB.
    """
    import torch

    logits = model(input_ids=text[None], decoder_input_ids=written[None, :-1], use_cache=False).logits[0].float()
    chosen = logits.gather(1, written[1:, None])[:, 0]
    return float((chosen - torch.logsumexp(logits, 1)).mean())
