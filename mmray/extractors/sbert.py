"""Sentence embeddings by any sentence-transformers model.

Source: Reimers & Gurevych 2019, Sentence-BERT. Weights: all-MiniLM-L6-v2 (384-d, Apache-2.0) unless another is named.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.texts import embedded
from mmray.models import hub
from mmray.specs import TextSpec


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
        from transformers import AutoModel

        # sentence-transformers fills what a folder lacks with random numbers, and says so only in a log.
        hub.load(AutoModel, str(_transformer(Path(path or ""))), self.precision, "cpu", unread=("pooler.",))
        settings = {"dtype": getattr(torch, self.precision), "use_safetensors": True}
        with quiet():
            model: Any = SentenceTransformer(path, device=device, local_files_only=True, model_kwargs=settings)
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


def _transformer(folder: Path) -> Path:
    """Return where the transformer of a folder is: older ones have it in a folder of its own."""
    modules = json.loads((folder / "modules.json").read_text())
    return next((folder / one["path"] for one in modules if one["type"].endswith("Transformer")), folder)


def _dimension(folder: Path) -> int:
    """Read the length of the embedding: of the last dense layer, else of the pooling, else of the model itself."""
    try:
        modules = json.loads((folder / "modules.json").read_text())
        for module in reversed(modules):
            kind = module["type"].rpartition(".")[2]
            if kind in ("Dense", "Pooling"):
                settings = json.loads((folder / module["path"] / "config.json").read_text())
                return int(settings["out_features"]) if kind == "Dense" else _pooled(settings)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: is not a sentence-transformers folder ({error})") from error
    raise ConfigError(f"{folder}: has neither a pooling nor a dense module in modules.json")


def _pooled(settings: dict[str, Any]) -> int:
    """Multiply the width of a token by the number of pooling modes (older folders have one flag for each mode)."""
    width = int(settings.get("word_embedding_dimension") or settings["embedding_dimension"])
    flags = [value for key, value in settings.items() if key.startswith("pooling_mode_")]
    modes = settings.get("pooling_mode", "mean")
    count = sum(map(bool, flags)) if flags else (1 if isinstance(modes, str) else len(modes))
    return width * max(1, count)
