"""YAMNet: 521 AudioSet tags and a 1024-d embedding for every 0.48 s of sound.

Source: Plakal & Ellis 2020, AudioSet. Weights: yamnet.h5 of tensorflow/models, Apache-2.0.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.extractors.sounds import window_rows
from mmray.models import labels
from mmray.specs import AudioSpec, Rows, Wave

LENGTH_S, HOP_S = 0.96, 0.48  # the last frame of a window reaches 0.015 s further


class Yamnet(Extractor):
    """Scores are sigmoid, multi-label; window k covers [0.48 k, 0.48 k + 0.96) s, the last one is padded with zeros.

    The poolings ``scores_mean`` and ``scores_max`` are those of the 521 scores, the others of the embedding.
    Skipped: no_audio. Failed: what decoding the sound says (corrupt, truncated, ...); the model itself has no reason.
    """

    name: ClassVar[str] = "yamnet"
    kind: ClassVar[Kind] = Kind.TAGS
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "mean+max", "first", "scores_mean", "scores_max")
    checkpoint = "weights"

    sound: AudioSpec = AudioSpec(rate_hz=16_000, window_s=0.975, hop_s=HOP_S)
    weights: str = "yamnet"
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _patches(self) -> Self:
        wanted = AudioSpec(rate_hz=16_000, window_s=0.975, hop_s=HOP_S, audio_track=self.sound.audio_track)
        if self.sound != wanted:
            raise ValueError("yamnet has windows of its own: leave rate_hz, window_s, hop_s and tail out")
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the lengths of scores and embedding."""
        del path
        return {"scores": 521, "embedding": 1024}

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return AudioSet's display names."""
        del path
        return labels.audioset()

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a Keras weights file; ConfigError where it is not YAMNet's."""
        import torch

        from mmray.models import mel, yamnet

        assert path is not None
        dtype = getattr(torch, self.precision)
        net = yamnet.YamNet(yamnet.read_h5(Path(path))).to(device, dtype)
        log_mel = mel.LogMel(yamnet.MEL, device)

        @torch.inference_mode()
        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            """Waves: float32 in [-1, 1] at 16 kHz, any lengths; one Rows of ``count`` windows per wave, in order."""
            if not waves:
                return
            patches = torch.cat(
                [log_mel.patches(w.samples, w.count, yamnet.PATCH_FRAMES, yamnet.PATCH_HOP_FRAMES) for w in waves]
            )
            batches = [net(batch.to(dtype)) for batch in torch.split(patches, self.batch_size)]
            counts = [wave.count for wave in waves]
            scores, embeddings = (
                torch.split(torch.cat(parts).float().cpu(), counts) for parts in zip(*batches, strict=True)
            )
            for wave, score, embedding in zip(waves, scores, embeddings, strict=True):
                yield window_rows(wave, HOP_S, LENGTH_S, {"scores": score.numpy(), "embedding": embedding.numpy()})

        return extract
