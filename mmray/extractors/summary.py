"""Summaries of texts by BART, or another sequence-to-sequence model.

Source: Lewis et al. 2020, BART. Weights: facebook/bart-large-cnn (MIT) unless another is named.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.texts import by_chunk
from mmray.models import hub
from mmray.models.tokenizer import Tokenizer, by_length
from mmray.specs import TextSpec

HEAD = "ForConditionalGeneration"
# Those that read texts: Whisper, Speech2Text and BLIP have the same head, and hear or see.
TYPES = (
    "bart", "bigbird_pegasus", "led", "longt5", "mbart", "mt5", "mvp", "pegasus", "pegasus_x", "prophetnet",
    "switch_transformers", "t5", "umt5",
)  # fmt: skip
DEFAULT_TOKENS = 20  # transformers' own, where the folder's generation_config.json names no length


class Summary(Extractor):
    """A row is the summary of one chunk: a text longer than the model reads is cut between words, not cut off.

    It is searched for as the folder's generation_config.json says (beams, penalties), never sampled. ``max_tokens``
    and ``min_tokens`` take the place of its lengths. bart-large-cnn writes 55 tokens at least, of ten words too, which
    it can only invent: ``min_tokens: 0`` lets summaries of short texts be short. ``avg_logprob`` is the mean natural
    log-probability that the model gives to the summary's tokens, its end included, each after those before it;
    ``language`` is null. Other scripts, emoji and control characters are what the checkpoint's vocabulary makes of
    them.

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
    # Four beams over 1,024 tokens keep 0.4 GB of keys and values for each text beside bart-large-cnn's 1.6 GB.
    batch_size: int = Field(1, ge=1, le=4096)
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

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder of a sequence-to-sequence model, offline."""
        import torch

        assert path is not None
        _writes(path)
        model = hub.load("AutoModelForSeq2SeqLM", path, self.precision, device)
        tokenizer = Tokenizer(path, model.config, model.device)
        least, most = self._lengths(model)
        prefix = _prefix(path)

        @torch.inference_mode()
        def summaries(pieces: list[str]) -> dict[str, Any]:
            pieces = [prefix + piece for piece in pieces]
            counts = [tokenizer.count(piece) for piece in pieces]
            texts = [""] * len(pieces)
            logprobs = np.zeros(len(pieces), np.float32)
            for chosen in by_length(counts, self.batch_size):
                inputs = tokenizer([pieces[place] for place in chosen])
                found = model.generate(
                    **inputs,
                    min_length=least + 1,  # these two count the token that starts the decoder
                    max_length=most + 1,
                    do_sample=False,
                    num_return_sequences=1,
                )
                for row, place in enumerate(chosen):
                    text, written = inputs["input_ids"][row, : counts[place]], _to_end(found[row], model)
                    texts[place] = tokenizer.library.decode(written, skip_special_tokens=True).strip()
                    logprobs[place] = _mean_logprob(model, text, written)
            return {"text": texts, "language": [None] * len(texts), "avg_logprob": logprobs}

        return lambda items: by_chunk(items, lambda text: tokenizer.count(prefix + text), tokenizer.limit, summaries)

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
    """Raise ConfigError where a folder is not of a model from text to text (a classifier's body is the same BART)."""
    names = hub.config(path).get("architectures") or []
    if not any(str(name).endswith(HEAD) for name in names):
        raise ConfigError(
            f"{path}/config.json: is {' or '.join(map(str, names)) or 'of no architecture'}, not ...{HEAD}"
        )
    hub.config(path, *TYPES)
    if (settings := Path(path) / "generation_config.json").exists():
        hub.read_json(settings)  # the library goes on without one that it cannot read


def _prefix(path: str) -> str:
    """Return what a folder's model was trained to see before a text to summarise (T5: ``summarize: ``)."""
    tasks = hub.config(path).get("task_specific_params")
    settings = tasks.get("summarization") if isinstance(tasks, dict) else None
    return str(settings.get("prefix") or "") if isinstance(settings, dict) else ""


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
