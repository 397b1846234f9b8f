"""Sentence embeddings by any sentence-transformers model.

Source: Reimers & Gurevych 2019, Sentence-BERT. Weights: all-MiniLM-L6-v2 (384-d, Apache-2.0) unless another is named.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.texts import embedded
from mmray.models import hub
from mmray.models.tokenizer import Tokenizer
from mmray.specs import TextSpec

WIDTHS = ("word_embedding_dimension", "embedding_dimension")  # the same, in older and newer folders


class Sbert(Extractor):
    """A text longer than the model reads gives one row per chunk, cut between words; ``window`` numbers them.

    Other scripts, emoji and control characters are what the checkpoint's vocabulary makes of them, at worst its unknown
    word; a single word of over 100 letters is one unknown word to WordPiece, however long.

    Skipped: no_text (nothing but white space and control characters). Failed: bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "sbert"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    version: ClassVar[int] = 2  # 2: very long texts are cut at other places
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 200.0  # texts of 30 tokens; of 256 tokens 24

    source: str = "text"
    text: TextSpec = TextSpec()
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    precision: Precision = "float32"

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where the folder is not of sentence-transformers."""
        _dimension(Path(path))
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": _dimension(Path(path or ""))}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a sentence-transformers folder, offline."""
        import torch

        from mmray.models.torch_setup import ensure_torchaudio, quiet

        _dimension(Path(path or ""))  # says what is wrong with a folder before the library does
        ensure_torchaudio()
        from sentence_transformers import SentenceTransformer

        # sentence-transformers fills what a folder lacks with random numbers and an empty vocabulary, and only logs it.
        folder = str(_transformer(Path(path or "")))
        Tokenizer(folder, hub.load("AutoModel", folder, self.precision, "cpu", unread=("pooler.",)).config, "cpu")
        settings = {"dtype": getattr(torch, self.precision), "use_safetensors": True}
        try:
            with quiet():
                model: Any = SentenceTransformer(path, device=device, local_files_only=True, model_kwargs=settings)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ConfigError(f"{path}: sentence-transformers cannot load it: {error}") from error
        prompt = model.prompts.get(model.default_prompt_name or "", "")
        limit = model.max_seq_length or model.tokenizer.model_max_length

        def tokens(text: str) -> int:
            return len(model.tokenizer(prompt + text, truncation=False, verbose=False)["input_ids"])

        def embed(pieces: list[str]) -> npt.NDArray[np.float32]:
            # encode sorts by length, so that a batch has little padding, and puts the vectors back in order
            vectors = model.encode(pieces, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False)
            found: npt.NDArray[np.float32] = vectors.float().cpu().numpy()
            return found

        return lambda items: embedded(items, tokens, limit, embed)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the last word of each module's type, and its folder, from modules.json."""
    file = folder / "modules.json"
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        return [(one["type"].rpartition(".")[2], folder / one["path"]) for one in modules]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: {folder} is not a sentence-transformers folder ({error})") from error


def _transformer(folder: Path) -> Path:
    """Return where the transformer of a folder is: older ones have it in a folder of its own."""
    return next((path for kind, path in _modules(folder) if kind.endswith("Transformer")), folder)


def _dimension(folder: Path) -> int:
    """Read the length of the embedding: of the last dense layer, else of the pooling."""
    for kind, path in reversed(_modules(folder)):
        if kind in ("Dense", "Pooling"):
            settings = hub.read_json(path / "config.json")
            if length := settings.typed("out_features", 0) if kind == "Dense" else _pooled(settings):
                return length
            raise ConfigError(f"{path / 'config.json'}: does not say how long a vector is")
    raise ConfigError(f"{folder}: has neither a pooling nor a dense module in modules.json")


def _pooled(settings: hub.Settings) -> int:
    """Multiply the width of a token by the number of pooling modes (older folders have one flag for each mode)."""
    older, newer = WIDTHS
    width = settings.typed(older if older in settings else newer, 0)
    flags = [value for key, value in settings.items() if key.startswith("pooling_mode_")]
    modes = settings.get("pooling_mode", "mean")
    count = sum(map(bool, flags)) if flags else (len(modes) if isinstance(modes, list) else 1)
    return width * max(1, count)
