"""Log-mel spectrograms: what small sound networks (digits, lip reading) are trained on.

Source: the front end of YAMNet and VGGish (tensorflow/models, Apache-2.0) with free settings; no weights.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from mmray.extractors.base import ExtractFn, Extractor, Kind
from mmray.extractors.sounds import window_rows
from mmray.specs import AudioSpec, Rows, Wave


class LogMel(Extractor):
    """One row per window of sound: ln(mel + 0.001), frame by frame, ``n_mels`` bands each.

    A spectrogram frame lasts ``frame_s``, the next begins ``step_s`` later; the last window is padded with zeros.
    Skipped: no_audio. Failed: what decoding the sound says.
    """

    name: ClassVar[str] = "logmel"
    kind: ClassVar[Kind] = Kind.EMBEDDING

    sound: AudioSpec = AudioSpec(rate_hz=16_000, window_s=0.975, hop_s=0.96)
    n_mels: int = Field(64, ge=1, le=512)
    frame_s: float = Field(0.025, gt=0, le=1)
    step_s: float = Field(0.010, gt=0, le=1)
    low_hz: float = Field(125.0, ge=0)
    high_hz: float = Field(7_500.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low_hz < self.high_hz <= self.sound.rate_hz / 2:
            raise ValueError("low_hz must be below high_hz, and high_hz at most half of rate_hz")
        if self._frame < 2 or self._step < 1 or self._frame > self.sound.window:
            raise ValueError("frame_s must be at most window_s and hold two samples, step_s one")
        return self

    @property
    def _frame(self) -> int:
        return round(self.frame_s * self.sound.rate_hz)

    @property
    def _step(self) -> int:
        return round(self.step_s * self.sound.rate_hz)

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the number of values of a window."""
        del path
        return {"embedding": ((self.sound.window - self._frame) // self._step + 1) * self.n_mels}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Return the function; there are no weights."""
        import torch

        from mmray.models import mel

        del path
        fft = 1 << (self._frame - 1).bit_length()
        settings = mel.MelSettings(
            self.sound.rate_hz, self._frame, self._step, fft, self.n_mels, self.low_hz, self.high_hz
        )
        log_mel = mel.LogMel(settings, device)

        @torch.inference_mode()
        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            """Waves: float32 in [-1, 1]; one Rows of ``count`` windows per wave, in order."""
            for wave in waves:
                padded = np.zeros((wave.count - 1) * self.sound.hop + self.sound.window, np.float32)
                padded[: wave.samples.size] = wave.samples[: padded.size]
                windows = torch.from_numpy(padded).unfold(0, self.sound.window, self.sound.hop)
                parts = [log_mel(batch.to(device)).flatten(1).cpu() for batch in torch.split(windows, self.batch_size)]
                yield window_rows(wave, self.sound.hop_s, self.sound.window_s, {"embedding": torch.cat(parts).numpy()})

        return extract
