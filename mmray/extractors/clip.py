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
from mmray.extractors.texts import embedded
from mmray.models import hub
from mmray.specs import AnySpec, Frame, FrameSpec, Rows, TextSpec

DEFAULT_SIDE_PX = 224


class Clip(Extractor):
    """Embeddings have unit length, so that a dot product is the cosine of two of them.

    ``modality: image`` embeds frames, one row each, at the checkpoint's own ``side_px``; ``modality: text`` embeds
    texts, one row per chunk of at most 77 tokens, cut between words. Skipped: no_video, no_image (image); no_text
    (text). Failed: what decoding says.
    """

    name: ClassVar[str] = "clip"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    checkpoint = "model"

    modality: Literal["image", "text"] = "image"
    frames: FrameSpec = FrameSpec(fps=1, side_px=DEFAULT_SIDE_PX, fit="crop", interpolation="bicubic")
    model: str = "openai/clip-vit-base-patch32"
    precision: Precision = "float32"

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
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        limit = model.config.text_config.max_position_embeddings

        def tokens(text: str) -> int:
            return len(tokenizer(text, verbose=False)["input_ids"])

        @torch.inference_mode()
        def embed(pieces: list[str]) -> npt.NDArray[np.float32]:
            order = sorted(range(len(pieces)), key=lambda place: len(pieces[place]))  # little padding in a batch
            vectors = np.zeros((len(pieces), model.config.projection_dim), np.float32)
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                inputs = tokenizer([pieces[place] for place in batch], padding=True, return_tensors="pt")
                vectors[batch] = _unit(model.get_text_features(**inputs.to(model.device)))
            return vectors

        return lambda items: embedded(items, tokens, limit, embed)


def _unit(features: Any) -> Any:
    """Return projected features as float32 rows of unit length."""
    import torch

    # transformers 5 wraps them, version 4 returned the tensor itself.
    tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()
