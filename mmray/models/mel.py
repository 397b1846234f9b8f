"""Log-mel spectrograms as the AudioSet models take them (YAMNet, VGGish).

Source: tensorflow/models, research/audioset (Apache-2.0), rebuilt from its published numbers. Frames are cut without
padding, windowed (periodic Hann) and then padded to the FFT length at their end: torch.stft centres a short window in
a longer FFT and is one frame short (up to 2.4 log units off), torchaudio's mel triangles are linear in Hz.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# What stays in the cache: with the magnitude taken apart, a quarter of the time of one pass over the whole sound.
BLOCK_FRAMES = 512


@dataclass(frozen=True)
class MelSettings:
    """Geometry of a spectrogram: lengths in samples, frequencies in Hz; ``offset`` keeps the logarithm finite."""

    rate_hz: int = 16_000
    frame: int = 400
    hop: int = 160
    fft: int = 512
    bands: int = 64
    low_hz: float = 125.0
    high_hz: float = 7_500.0
    offset: float = 0.001

    def frames(self, samples: int) -> int:
        """Return how many whole frames that many samples hold."""
        return max(0, (samples - self.frame) // self.hop + 1)


def hertz_to_mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert to mel (HTK)."""
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


def triangles(bins: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return triangles with peak 1, each from one edge over the next to the one after: (bins, edges - 2).

    ``bins`` (n, 1) and ``edges`` (m,): on one scale, along which they are linear.
    """
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0.0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))


def mel_matrix(settings: MelSettings) -> npt.NDArray[np.float64]:
    """Return the triangles, linear in mel with peak 1, that turn magnitudes into bands: (fft / 2 + 1, bands)."""
    bins = hertz_to_mel(np.linspace(0.0, settings.rate_hz / 2, settings.fft // 2 + 1))[:, None]
    edges = np.linspace(hertz_to_mel(settings.low_hz), hertz_to_mel(settings.high_hz), settings.bands + 2)
    matrix = triangles(bins, edges)
    matrix[0] = 0.0  # no mean in any band
    return matrix


class LogMel:
    """The spectrogram as a function on one device.

    ``dtype`` is what it reckons in: bands that hold next to nothing beside a loud tone are off by 8e-4 in float32,
    7e-5 in float64, which takes twice the time (20 ms for a minute of sound).
    """

    def __init__(self, settings: MelSettings, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.settings = settings
        self.hann = torch.hann_window(settings.frame, periodic=True, dtype=dtype, device=device)
        self.matrix = torch.from_numpy(mel_matrix(settings)).to(device, dtype)

    def __call__(self, samples: Tensor) -> Tensor:
        """Turn float32 samples (..., n), n >= frame, into natural log-mel (..., frames, bands), float32."""
        frames = samples.unfold(-1, self.settings.frame, self.settings.hop)
        return torch.cat([self._bands(block) for block in torch.split(frames, BLOCK_FRAMES, dim=-2)], dim=-2)

    def _bands(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.hann, self.settings.fft)
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square())
        return torch.log(magnitude @ self.matrix + self.settings.offset).float()

    def patches(self, samples: npt.NDArray[np.float32], count: int, length: int, hop: int) -> Tensor:
        """Cut ``count`` patches of ``length`` frames every ``hop`` frames: (count, length, bands).

        Sound that ends before the last patch is padded with zeros; frames that patches share are computed once.
        """
        s = self.settings
        needed = ((count - 1) * hop + length - 1) * s.hop + s.frame
        wave = torch.zeros(needed, dtype=torch.float32)
        wave[: samples.size] = torch.from_numpy(np.ascontiguousarray(samples[:needed], np.float32))
        spectrogram = self(wave.to(self.hann.device))
        return spectrogram.unfold(0, length, hop).transpose(1, 2)
