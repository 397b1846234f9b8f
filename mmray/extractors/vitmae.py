"""ViT-MAE: one vector for a picture, learned by filling in masked patches.

Source: He et al. 2021. Weights: facebook/vit-mae-base (768-d, trained on ImageNet-1k, Apache-2.0) unless another is
named.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.pictures import Coloured, Defaults, Preparation, fitted
from mmray.models import hub
from mmray.models.vectors import pooled
from mmray.specs import Frame, FrameSpec, Rows

FAMILY = "vit_mae"
DEFAULTS = Defaults("ViT", {"height": 224, "width": 224}, square=True)


class VitMae(Extractor):
    """One row per frame: one vector of the 197 tokens of the whole picture; nothing is masked, no patch is moved.

    Frames are scaled and normalised as the folder's own processor says. ``token_pooling``: ``cls`` is the class token;
    ``mean`` and ``max`` are over all tokens, the class token among them. A picture of 1 x 1 px or a video of one frame
    has its row like any other. Skipped: no_video, no_image. Failed: what decoding says.
    """

    name: ClassVar[str] = "vitmae"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    checkpoint = "model"
    cpu_items_per_s: ClassVar[float] = 4.0

    frames: Coloured = FrameSpec(fps=1, side_px=224, fit="squash", interpolation="bilinear")
    model: str = "facebook/vit-mae-base"
    token_pooling: Literal["cls", "mean", "max"] = "cls"  # noqa: S105 — no secret
    precision: Precision = "float32"

    def resolved(self, path: str) -> Self:
        """Return a copy whose frames are scaled as the folder says; ConfigError where another way was asked for."""
        preparation = Preparation.read(path, DEFAULTS, hub.config(path, FAMILY))
        default = type(self).model_fields["frames"].default
        return self.model_copy(update={"frames": fitted(self.frames, default, preparation.spec, self.name, path)})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": hub.config(path or "", FAMILY).typed("hidden_size", 768)}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load the encoder out of a folder of ViT-MAE for pre-training, or alone, offline."""
        import torch

        assert path is not None
        network: Any = hub.load("ViTMAEModel", path, self.precision, device, mask_ratio=0.0)
        prepared = Preparation.read(path, DEFAULTS, hub.config(path, FAMILY)).on(network.device)
        # Patches are put in the order of the noise, even where none is masked: random noise would shuffle them.
        order = torch.arange(network.embeddings.patch_embeddings.num_patches, device=network.device).float()

        @torch.inference_mode()
        def extract(frames: Sequence[Frame]) -> Iterator[Rows]:
            """Frames: uint8 RGB (side_px, side_px, 3); one row each."""
            for start in range(0, len(frames), self.batch_size):
                batch = frames[start : start + self.batch_size]
                values = prepared(np.stack([frame.image for frame in batch]))
                noise = order.expand(len(batch), -1)
                states = network(pixel_values=values.to(network.dtype), noise=noise).last_hidden_state
                for frame, vector in zip(batch, pooled(states, self.token_pooling), strict=True):
                    yield Rows([frame.window], [frame.start_s], [frame.end_s], {"embedding": vector[None]})

        return extract
