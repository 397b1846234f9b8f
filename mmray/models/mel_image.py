"""Sound as a picture and back: the log-mel spectra that Auffusion's networks paint.

Source: Xue et al. 2024, Auffusion, rebuilt from its published numbers: 16 kHz, 256 bands (Slaney's scale, 0 to 8 kHz)
of the magnitudes every 160 samples, so that a column of pixels is 10 ms. Low pitches are at the bottom; 0 is 1e-5, 1 is
200, on a logarithmic scale. Parity: tests/models/test_mel_image.py.
"""

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mmray.models.mel import triangles

RATE_HZ = 16_000
HOP = 160  # samples a column
BANDS = 256  # rows
FFT, WINDOW = 2048, 1024
HIGH_HZ = 8_000.0
FLOOR, CEILING = 1e-5, 200.0
PEAK = 0.95
LOG_FLOOR, LOG_SPAN = math.log(FLOOR), math.log(CEILING) - math.log(FLOOR)
LINEAR_HZ, LINEAR_STEP_HZ = 1_000.0, 200 / 3  # Slaney's mel is linear up to here, and then logarithmic
LOG_STEP = math.log(6.4) / 27


@functools.cache
def slaney_matrix() -> npt.NDArray[np.float64]:
    """Return the triangles, linear in hertz with equal areas, that turn magnitudes into bands: (bands, fft / 2 + 1)."""
    edges_hz = _slaney_to_hertz(np.linspace(0.0, _hertz_to_slaney(HIGH_HZ), BANDS + 2))
    bins_hz = np.linspace(0.0, RATE_HZ / 2, FFT // 2 + 1)[:, None]
    return (triangles(bins_hz, edges_hz) * (2.0 / (edges_hz[2:] - edges_hz[:-2]))).T


def _hertz_to_slaney(hertz: float) -> float:
    if hertz < LINEAR_HZ:
        return hertz / LINEAR_STEP_HZ
    return LINEAR_HZ / LINEAR_STEP_HZ + math.log(hertz / LINEAR_HZ) / LOG_STEP


def _slaney_to_hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    bend = LINEAR_HZ / LINEAR_STEP_HZ
    return np.where(mels < bend, mels * LINEAR_STEP_HZ, LINEAR_HZ * np.exp(LOG_STEP * (mels - bend)))


def log_mel(sound: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Turn sound at 16 kHz, made as loud as its peak allows, into natural log-mel spectra (bands, samples // 160).

    ``sound``: (samples,) numbers of any scale, more than 944 of them; ValueError for fewer. Silence stays silence.
    """
    wave = torch.from_numpy(np.asarray(sound, np.float32))
    beside = (FFT - HOP) // 2
    if wave.ndim != 1 or wave.numel() <= beside:
        raise ValueError(f"a spectrum needs one row of more than {beside} samples, not {tuple(wave.shape)}")
    wave = wave / wave.abs().max().clamp_min(1e-9) * PEAK
    padded = functional.pad(wave[None], (beside, beside), mode="reflect")[0]
    spectrum = torch.stft(
        padded, FFT, HOP, WINDOW, torch.hann_window(WINDOW), center=False, normalized=False, return_complex=True
    )
    magnitudes = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
    bands = torch.from_numpy(slaney_matrix()).float() @ magnitudes
    return bands.clamp_min(FLOOR).log().numpy()


def image(spectra: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Paint log-mel spectra (bands, frames): (3, bands, frames), three equal channels, 0 to 1 for 1e-5 to 200."""
    grey = (spectra[::-1] - LOG_FLOOR) / LOG_SPAN
    return np.repeat(grey[None], 3, axis=0).astype(np.float32)


def picture(sound: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Paint the spectra of sound at 16 kHz as a picture (bands, samples // 160, 3) that can be an imprint."""
    channels = image(log_mel(sound)).clip(0, 1).transpose(1, 2, 0)
    return np.ascontiguousarray((channels * 255).round().astype(np.uint8))


def spectra(images: Tensor, channel: int | None = None) -> Tensor:
    """Read images (..., 3, bands, frames) back as log-mel spectra (..., bands, frames).

    The mean of the channels counts, as in images that sound, or one ``channel``: Auffusion alone reads channel 0.
    """
    grey = images.mean(-3) if channel is None else images.select(-3, channel)
    return grey.flip(-2) * LOG_SPAN + LOG_FLOOR
