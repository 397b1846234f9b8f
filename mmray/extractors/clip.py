"""CLIP: pictures or texts in one space, where a picture lies near the words that describe it.

Source: Radford et al. 2021. Weights: openai/clip-vit-base-patch32 (512-d, MIT) unless another is named.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.pictures import Coloured, Defaults, Preparation, fitted
from mmray.extractors.texts import embedded, with_text_source
from mmray.models import hub
from mmray.models.tokenizer import by_length
from mmray.models.vectors import Vectors
from mmray.specs import AnySpec, Frame, FrameSpec, Rows, TextSpec

if TYPE_CHECKING:
    from mmray.models.clip import Towers

FRAMES = FrameSpec(fps=1, side_px=224, fit="crop", interpolation="bicubic")
DEFAULTS = Defaults(
    "CLIP",
    {"shortest_edge": 224},
    crop_px=224,
    resample=3,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


class Clip(Extractor):
    """Embeddings have unit length, so that a dot product is the cosine of two of them.

    ``modality: image`` embeds frames, one row each, scaled, cut and normalised as the folder's own processor says;
    ``modality: text`` embeds texts (``source`` is then ``text`` by default), one row per chunk of at most 77 tokens,
    cut between words, which ``window`` numbers. Other scripts, emoji and control characters are bytes to it, and words
    like others.

    Skipped: no_video, no_image (image); no_text (nothing but white space and control characters). Failed: what decoding
    says (image); bad_text (half a surrogate pair).
    """

    name: ClassVar[str] = "clip"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    # 2: very long texts are cut at other places, special tokens in a text are words. 3: pictures are prepared as the
    # folder says in all respects.
    version: ClassVar[int] = 3
    checkpoint = "model"

    modality: Literal["image", "text"] = "image"
    frames: Coloured = FRAMES
    model: str = "openai/clip-vit-base-patch32"
    precision: Precision = "float32"

    @model_validator(mode="before")
    @classmethod
    def _texts_from_text(cls, values: Any) -> Any:
        return with_text_source(values)

    @property
    def specs(self) -> tuple[AnySpec, ...]:
        """Return the frames, or the text."""
        return (self.frames,) if self.modality == "image" else (TextSpec(),)

    def resolved(self, path: str) -> Self:
        """Return a copy whose pictures are prepared as the folder says; ConfigError where another way was asked for."""
        about = hub.config(path, "clip")
        if self.modality == "text":
            return self
        wanted = Preparation.read(path, DEFAULTS, about.part("vision_config")).spec
        return self.model_copy(update={"frames": fitted(self.frames, FRAMES, wanted, self.name, path)})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": hub.config(path or "", "clip").typed("projection_dim", 512)}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a CLIPModel folder, offline."""
        from mmray.models.clip import Towers

        assert path is not None
        towers = Towers(path, self.precision, device)
        return self._images(towers, device, path) if self.modality == "image" else self._texts(towers)

    def _images(self, towers: "Towers", device: str, path: str) -> ExtractFn:
        about = hub.config(path, "clip").part("vision_config")
        prepared = Preparation.read(path, DEFAULTS, about).on(device)

        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one row each."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                vectors = towers.pixels(prepared(np.stack([frame.image for frame in batch])))
                for frame, vector in zip(batch, vectors, strict=True):
                    yield Rows([frame.window], [frame.start_s], [frame.end_s], {"embedding": vector[None]})

        return extract

    def _texts(self, towers: "Towers") -> ExtractFn:
        def embed(pieces: list[str]) -> Vectors:
            vectors = np.zeros((len(pieces), towers.dim), np.float32)
            for batch in by_length([len(piece) for piece in pieces], self.batch_size):
                vectors[batch] = towers.texts([pieces[place] for place in batch])
            return vectors

        return lambda items: embedded(items, towers.tokenizer.count, towers.tokenizer.limit, embed)
