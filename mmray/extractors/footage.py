"""What networks have in common that see a whole sample as one clip of a fixed number of frames."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.extractors.base import ExtractFn, Extractor, Precision
from mmray.extractors.pictures import Coloured, Defaults, Preparation, fitted
from mmray.models import hub
from mmray.models.vectors import pooled
from mmray.specs import Frame, Gathered, Rows


class Footage(Extractor):
    """Base: reads the size of its frames and their number from the folder, and gives the network batches of clips."""

    gather: ClassVar[bool] = True
    checkpoint = "model"
    family: ClassVar[str]
    defaults: ClassVar[Defaults]
    clip_frames: ClassVar[int]

    frames: Coloured
    model: str
    precision: Precision = "float32"
    token_pooling: str
    # More clips at once are no faster on a CPU, and of ViViT-B each takes another 0.3 GB beside 1.1 GB for one.
    batch_size: int = Field(1, ge=1, le=4096)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.frames.whole_sample:
            raise ValueError(
                f"{self.name} sees a sample as one clip of {self.clip_frames} frames: "
                "give representative or uniform, not fps or every"
            )
        return self

    def _read(self, path: str) -> tuple[int, Preparation]:
        """Return the number of frames of a clip, and what is done to each frame."""
        config = hub.config(path, self.family)
        return config.typed("num_frames", self.clip_frames), Preparation.read(path, self.defaults, config)

    def resolved(self, path: str) -> Self:
        """Return a copy whose frames are as many, and scaled, as the folder says; ConfigError for another wish."""
        count, preparation = self._read(path)
        way = "uniform" if self.frames.uniform else "representative"
        wanted = {way: count, **preparation.spec}
        default = type(self).model_fields["frames"].default
        return self.model_copy(update={"frames": fitted(self.frames, default, wanted, self.name, path)})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": hub.config(path or "", self.family).typed("hidden_size", 768)}

    def network(self, path: str, device: str) -> Any:
        """Return the loaded encoder: pixel_values (n, frames, 3, height, width) to ``last_hidden_state``."""
        raise NotImplementedError

    def columns(self, states: Any) -> dict[str, Any]:
        """Return the columns of one clip's rows, from its tokens (1, tokens, dim)."""
        return {"embedding": pooled(states, self.token_pooling)}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a folder, offline."""
        import torch

        assert path is not None
        count, preparation = self._read(path)
        network = self.network(path, device)
        prepared = preparation.on(network.device)

        @torch.inference_mode()
        def extract(clips: Sequence[Gathered]) -> Iterator[Rows]:
            """Clips: one sample's frames each, uint8 RGB (side_px, side_px, 3) in time order."""
            for start in range(0, len(clips), self.batch_size):
                batch = clips[start : start + self.batch_size]
                images = np.stack([[frame.image for frame in evenly(clip.streams[0], count)] for clip in batch])
                states = network(pixel_values=prepared(images).to(network.dtype)).last_hidden_state
                for clip, tokens in zip(batch, states.split(1), strict=True):
                    columns = self.columns(tokens)
                    rows = len(columns["embedding"])
                    yield Rows([0] * rows, [0.0] * rows, [_end_s(clip)] * rows, columns)

        return extract


def evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Return ``count`` frames in their order: each repeated alike where there are fewer, some left out where more."""
    return [frames[(2 * place + 1) * len(frames) // (2 * count)] for place in range(count)]


def _end_s(clip: Gathered) -> float:
    """Return where the sample ends; decoding may stop at the last frame it needs, which then stands for the end."""
    ends = (clip.duration_s, clip.end_s, clip.streams[0][-1].end_s)
    return next(float(end_s) for end_s in ends if end_s is not None)
