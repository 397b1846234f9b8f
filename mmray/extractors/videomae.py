"""VideoMAE: one vector for a video, from 16 frames, learned by filling in masked ones.

Source: Tong et al. 2022. Weights: MCG-NJU/videomae-base (768-d, trained on Kinetics-400, CC-BY-NC-4.0: not for
commercial use) unless another is named.
"""

from typing import Any, ClassVar, Literal

from mmray.extractors.base import Kind
from mmray.extractors.footage import Footage
from mmray.extractors.pictures import Coloured, Defaults
from mmray.models import hub
from mmray.specs import FrameSpec


class VideoMae(Footage):
    """One row per sample: a clip of 16 frames, as the ``mean`` or ``max`` of its 1568 tokens; it has no class token.

    Nothing is masked. The frames are the representative ones of 400 (or ``uniform: 16``), scaled, cut and normalised as
    the folder's own processor says. Checkpoints for pre-training end in a layer norm; those fine-tuned to classify
    (``use_mean_pooling``) have theirs in the head, which is left out, so their vectors are not normalised.

    Fewer frames are repeated evenly, so that a video of one frame, a still picture or one of 1 x 1 px has its row like
    any other. Rows span the sample from 0 s to its end (a still: 0 to 0). Skipped: no_video, no_image. Failed: what
    decoding says.
    """

    name: ClassVar[str] = "videomae"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    family: ClassVar[str] = "videomae"
    defaults: ClassVar[Defaults] = Defaults("VideoMAE", {"shortest_edge": 224}, crop_px=224)
    clip_frames: ClassVar[int] = 16
    cpu_items_per_s: ClassVar[float] = 0.42  # clips of 16 frames

    frames: Coloured = FrameSpec(representative=16, candidates=400, side_px=224, interpolation="bilinear")
    model: str = "MCG-NJU/videomae-base"
    token_pooling: Literal["mean", "max"] = "mean"  # noqa: S105 — no secret

    def network(self, path: str, device: str) -> Any:
        """Load the encoder out of a folder of VideoMAE for pre-training or classification, or alone."""
        return hub.load("VideoMAEModel", path, self.precision, device)
