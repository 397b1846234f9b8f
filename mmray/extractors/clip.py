"""CLIP: pictures or texts in one space, where a picture lies near the words that describe it.

Source: Radford et al. 2021. Weights: openai/clip-vit-base-patch32 (512-d, MIT) unless another is named.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.texts import Tokenizer, by_length, embedded, with_text_source
from mmray.models import hub
from mmray.specs import AnySpec, Frame, FrameSpec, Rows, TextSpec

DEFAULT_SIDE_PX = 224


class Clip(Extractor):
    """Embeddings have unit length, so that a dot product is the cosine of two of them.

    ``modality: image`` embeds frames, one row each, at the checkpoint's own ``side_px``; ``modality: text`` embeds
    texts (``source`` is then ``text`` by default), one row per chunk of at most 77 tokens, cut between words, which
    ``window`` numbers. Other scripts, emoji and control characters are bytes to it, and words like others.

    Skipped: no_video, no_image (image); no_text (nothing but white space and control characters). Failed: what decoding
    says (image); bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "clip"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    version: ClassVar[int] = 2  # 2: very long texts are cut at other places, special tokens in a text are words
    checkpoint = "model"

    modality: Literal["image", "text"] = "image"
    frames: FrameSpec = FrameSpec(fps=1, side_px=DEFAULT_SIDE_PX, fit="crop", interpolation="bicubic")
    model: str = "openai/clip-vit-base-patch32"
    precision: Precision = "float32"

    @model_validator(mode="before")
    @classmethod
    def _texts_from_text(cls, values: Any) -> Any:
        return with_text_source(values)

    @model_validator(mode="after")
    def _colour(self) -> Self:
        if self.frames.channels != 3:
            raise ValueError("clip needs pictures in colour: channels: 3")
        return self

    @property
    def specs(self) -> tuple[AnySpec, ...]:
        """Return the frames, or the text."""
        return (self.frames,) if self.modality == "image" else (TextSpec(),)

    def resolved(self, path: str) -> Self:
        """Return a copy whose pictures have the size the checkpoint takes; ConfigError where another was asked for."""
        side_px = int(hub.config(path, "clip").get("vision_config", {}).get("image_size", DEFAULT_SIDE_PX))
        if self.frames.side_px not in (side_px, DEFAULT_SIDE_PX):
            raise ConfigError(f"clip: side_px is {self.frames.side_px}, and {path} takes pictures of {side_px}")
        return self.model_copy(update={"frames": self.frames.model_copy(update={"side_px": side_px})})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": int(hub.config(path or "", "clip").get("projection_dim", 512))}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a CLIPModel folder, offline."""
        from mmray.models.torch_setup import ensure_torchaudio

        assert path is not None
        hub.config(path, "clip")
        ensure_torchaudio()
        from transformers import CLIPModel

        model = hub.load(CLIPModel, path, self.precision, device)
        return self._images(model, path) if self.modality == "image" else self._texts(model, path)

    def _images(self, model: Any, path: str) -> ExtractFn:
        import torch

        about = hub.image_settings(path)
        mean, std = (torch.tensor(about[key], device=model.device).view(3, 1, 1) for key in ("image_mean", "image_std"))

        @torch.inference_mode()
        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one row each."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                pixels = torch.from_numpy(np.stack([frame.image for frame in batch])).to(model.device)
                values = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
                vectors = _unit(model.get_image_features(pixel_values=values.to(model.dtype)))
                for frame, vector in zip(batch, vectors, strict=True):
                    yield Rows([frame.window], [frame.start_s], [frame.end_s], {"embedding": vector[None]})

        return extract

    def _texts(self, model: Any, path: str) -> ExtractFn:
        import torch

        tokenizer = Tokenizer(path, model.config.text_config, model.device)

        @torch.inference_mode()
        def embed(pieces: list[str]) -> npt.NDArray[np.float32]:
            vectors = np.zeros((len(pieces), model.config.projection_dim), np.float32)
            for batch in by_length([len(piece) for piece in pieces], self.batch_size):
                vectors[batch] = _unit(model.get_text_features(**tokenizer([pieces[place] for place in batch])))
            return vectors

        return lambda items: embedded(items, tokenizer.count, tokenizer.limit, embed)


def _unit(features: Any) -> Any:
    """Return projected features as float32 rows of unit length."""
    import torch

    # transformers 5 wraps them, version 4 returned the tensor itself.
    tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()
