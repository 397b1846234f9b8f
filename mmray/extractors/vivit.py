"""ViViT: one vector for a video, from 32 frames that are seen together in space and time.

Source: Arnab et al. 2021. Weights: google/vivit-b-16x2-kinetics400 (768-d, trained on Kinetics-400, MIT) unless another
is named.
"""

from typing import Any, ClassVar, Literal

import numpy as np

from mmray.extractors.base import Kind
from mmray.extractors.footage import Footage
from mmray.extractors.pictures import Coloured, Defaults
from mmray.models import hub
from mmray.specs import FrameSpec


class Vivit(Footage):
    """One row per sample: a clip of 32 frames, as one vector of its 3137 tokens (token 0 is the class token).

    The frames are the representative ones of 400 (or ``uniform: 32``), scaled, cut and normalised as the folder's own
    processor says; with the defaults of google/vivit-b-16x2-kinetics400 values lie in [-3, 1]. ``token_pooling``:
    ``cls`` is what the network was trained to classify by; ``mean`` and ``max`` are over all tokens, the class token
    among them. ``tokens: true`` gives every token a row instead (window 0, column ``token``), as float16 unless
    ``tokens_dtype`` says otherwise; ``token_pooling`` then has no effect.

    Fewer frames are repeated evenly, so that a video of one frame, a still picture or one of 1 x 1 px has its row like
    any other. Rows span the sample from 0 s to its end (a still: 0 to 0). Skipped: no_video, no_image. Failed: what
    decoding says.
    """

    name: ClassVar[str] = "vivit"
    family: ClassVar[str] = "vivit"
    defaults: ClassVar[Defaults] = Defaults("Vivit", {"shortest_edge": 256}, crop_px=224, factor=1 / 127.5, offset=True)
    clip_frames: ClassVar[int] = 32
    cpu_items_per_s: ClassVar[float] = 0.13  # clips of 32 frames

    frames: Coloured = FrameSpec(representative=32, candidates=400, side_px=256, interpolation="bilinear")
    model: str = "google/vivit-b-16x2-kinetics400"
    token_pooling: Literal["cls", "mean", "max"] = "cls"  # noqa: S105 — no secret
    tokens: bool = False
    tokens_dtype: Literal["float16", "float32"] = "float16"

    @property
    def kind(self) -> Kind:  # type: ignore[override]  # the one whose rows can be of two kinds
        """Return embedding, or tokens where a row is a token."""
        return Kind.TOKENS if self.tokens else Kind.EMBEDDING

    @property
    def half(self) -> bool:
        """Tell whether vectors are kept as float16: only tokens can be."""
        return self.tokens and self.tokens_dtype == "float16"

    def network(self, path: str, device: str) -> Any:
        """Load the encoder, without the pooler that no published checkpoint has."""
        return hub.load("VivitModel", path, self.precision, device, add_pooling_layer=False)

    def columns(self, states: Any) -> dict[str, Any]:
        """Return the columns of one clip's row, or of the rows of its tokens."""
        if not self.tokens:
            return super().columns(states)
        vectors = states[0].float().cpu().numpy().astype(self.tokens_dtype)
        return {"embedding": vectors, "token": np.arange(len(vectors), dtype=np.int32)}
