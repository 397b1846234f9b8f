"""The tokenizers of folders in the layout of the Hugging Face hub, and batches with little padding. Light to import."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmray.errors import ConfigError
from mmray.models.torch_setup import ensure_torchaudio

# What a folder's tokenizer is read from. Without any of them transformers makes one that knows no word at all.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# Their positions begin behind the padding token's id.
SHIFTED = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "clap_text_model"})
# Model types of the encoders of texts that are read here.
ENCODERS = ("distilbert", "bert", "roberta", "xlm-roberta", "mpnet")
DEFAULT_LIMIT = 512  # tokens, of a model with relative positions whose tokenizer names no limit
UNLIMITED = 10**9


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
        ensure_torchaudio()
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
