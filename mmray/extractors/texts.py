"""What the extractors of texts share: chunks in, one row per chunk out."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError, Reason, SampleError
from mmray.models.chunks import chunk
from mmray.specs import Rows, Text

Embed = Callable[[list[str]], npt.NDArray[np.float32]]
Columns = Callable[[list[str]], dict[str, Any]]

# What a folder's tokenizer is read from. Without any of them transformers makes one that knows no word at all.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# Their positions begin behind the padding token's id.
SHIFTED = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
DEFAULT_LIMIT = 512  # tokens, of a model with relative positions whose tokenizer names no limit
UNLIMITED = 10**9


def with_text_source(values: Any) -> Any:
    """Return the fields of an extractor of two modalities; that of texts reads the column ``text`` unless told."""
    texts = isinstance(values, dict) and values.get("modality") == "text"
    return {"source": "text", **values} if texts else values


def embedded(
    texts: Sequence[Text], tokens: Callable[[str], int], limit: int, embed: Embed
) -> Iterator[Rows | SampleError]:
    """Embed all chunks of all texts at once; ``embed`` turns them into (n, dim) float32. See ``by_chunk``."""
    return by_chunk(texts, tokens, limit, lambda pieces: {"embedding": embed(pieces)})


def by_chunk(
    texts: Sequence[Text], tokens: Callable[[str], int], limit: int, columns: Columns
) -> Iterator[Rows | SampleError]:
    """Give all chunks of all texts to a model at once; for each text Rows (``window`` numbers its chunks).

    ``tokens`` counts as the model does, ``limit`` is the most it reads, ``columns`` turns chunks into columns with one
    entry each. A text that cannot be read has its SampleError alone.
    """
    errors = [_unreadable(item.text) for item in texts]
    chunks = [
        [] if error else chunk(item.text.strip(), tokens, limit) for item, error in zip(texts, errors, strict=True)
    ]
    flat = [piece for pieces in chunks for piece in pieces]
    found = columns(flat) if flat else {}
    done = 0
    for pieces, error in zip(chunks, errors, strict=True):
        if error:
            yield error
            continue
        count = len(pieces)
        part = {name: column[done : done + count] for name, column in found.items()}
        done += count
        yield Rows(list(range(count)), [None] * count, [None] * count, part)


def _unreadable(text: str) -> SampleError | None:
    """Return no_text where nothing can be seen, bad_text where a text is not Unicode."""
    try:
        text.encode()  # tokenizers raise at half a surrogate pair, which no UTF-8 holds
    except UnicodeEncodeError as error:
        return SampleError(Reason.BAD_TEXT, f"character {error.start} is half a surrogate pair")
    if all(unicodedata.category(sign) in {"Cc", "Cf", "Zs", "Zl", "Zp"} for sign in text):
        return SampleError(Reason.NO_TEXT, "the text is empty: nothing but white space or control characters")
    return None


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Return places in batches, short before long, so that a batch has little padding."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class Tokenizer:
    """The tokenizer of a folder, beside its model: special tokens that stand in a text are words like others.

    ``limit``: how many tokens, special ones included, the model reads.
    """

    def __init__(self, path: str, config: Any, device: Any) -> None:
        """Load it offline, for a model of that configuration; ConfigError where it is missing or does not fit."""
        from transformers import AutoTokenizer

        folder = Path(path)
        if not any(file for name in VOCABULARIES for file in folder.glob(name)):
            raise ConfigError(f"{path}: has no tokenizer (one of {', '.join(VOCABULARIES)})")
        try:
            self.library: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(f"{path}: its tokenizer cannot be read: {' '.join(str(error).split())[:500]}") from error
        if len(self.library) > config.vocab_size:
            raise ConfigError(f"{path}: its tokenizer knows {len(self.library)} tokens, its model {config.vocab_size}")
        self.limit = _limit(self.library.model_max_length, config)
        self.device = device

    def count(self, text: str, second: str | None = None) -> int:
        """Return the number of tokens of a text or a pair, special ones included."""
        return len(self.library(text, second, split_special_tokens=True, verbose=False)["input_ids"])

    def __call__(self, texts: list[str], seconds: list[str] | None = None) -> Any:
        """Return the inputs of a batch: ``input_ids`` and ``attention_mask`` int64 (n, tokens), and others."""
        inputs = self.library(texts, seconds, padding=True, split_special_tokens=True, return_tensors="pt")
        return inputs.to(self.device)


def _limit(longest: int, config: Any) -> int:
    """Return how many tokens a model reads: as many as its tokenizer says (1e30: nothing), and as it has positions."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return longest if longest < UNLIMITED else DEFAULT_LIMIT
    return min(longest, positions - int(config.pad_token_id) - 1 if config.model_type in SHIFTED else positions)
