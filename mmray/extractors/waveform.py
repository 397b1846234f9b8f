"""The sound itself: what networks with a front end of their own (digits, lip reading) are trained on.

No model and no licence: an embedding is the wave.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from mmray.extractors.base import ExtractFn, Extractor, Kind
from mmray.extractors.sounds import window_rows
from mmray.specs import AudioSpec, Rows, Wave


class Waveform(Extractor):
    """One row per window of sound: its samples from -1 to 1; the last window is padded with zeros.

    Skipped: no_audio. Failed: what decoding the sound says.
    """

    name: ClassVar[str] = "waveform"
    kind: ClassVar[Kind] = Kind.EMBEDDING

    sound: AudioSpec = AudioSpec(rate_hz=8_000, window_s=1.0, hop_s=1.0)

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the number of samples of a window."""
        del path
        return {"embedding": self.sound.window}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Return the function; there is nothing to load."""
        del device, path

        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            """Waves: float32 in [-1, 1]; one Rows of ``count`` windows per wave, in order."""
            for wave in waves:
                padded = np.zeros((wave.count - 1) * self.sound.hop + self.sound.window, np.float32)
                padded[: wave.samples.size] = wave.samples[: padded.size]
                windows = np.lib.stride_tricks.sliding_window_view(padded, self.sound.window)[:: self.sound.hop]
                yield window_rows(wave, self.sound.hop_s, self.sound.window_s, {"embedding": windows})

        return extract
