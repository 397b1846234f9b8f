"""Small pictures of samples: a frame of what can be seen, the spectrogram of what can only be heard."""

import numpy as np
import numpy.typing as npt

from mmray.geometry import placed
from mmray.media.decode import decode
from mmray.media.probe import Probe, probe
from mmray.report.pixels import Image, jpeg, viridis
from mmray.specs import AudioSpec, Frame, FrameSpec, Wave

SOUND = AudioSpec(rate_hz=16_000, window_s=0.96, hop_s=0.96)
HEARD_S = 10.0  # of a sound
WINDOW = 1024  # samples
DECIBELS = 70  # below the loudest is black


def thumbnail(uri: str, side_px: int, from_s: float = 0.0, to_s: float | None = None) -> str | None:
    """Return a medium's part [from_s, to_s) as a data URI; None where it holds neither pictures nor sound.

    SampleError where it cannot be opened or decoded.
    """
    about = probe(uri)
    if about.width:
        return frame(uri, about, side_px, from_s, to_s)
    return sound(uri, side_px, from_s, to_s) if about.audio_tracks else None


def frame(uri: str, about: Probe, side_px: int, from_s: float = 0.0, to_s: float | None = None) -> str | None:
    """Return the frame in the middle of a part as a data URI; None where there is no frame."""
    spec = FrameSpec(uniform=1, side_px=side_px, fit="letterbox", interpolation="bilinear")
    still = about.duration_s is None
    decoding = decode(
        uri,
        [spec],
        offset_s=0.0 if still else from_s,
        limit_s=None if still else to_s,
        duration_s=None if still or about.duration_s is None else max(0.0, about.duration_s - from_s),
    )
    try:
        seen = next(decoding, None)
    finally:
        decoding.close()
    if seen is None:
        return None
    assert isinstance(seen[1], Frame)
    return jpeg(_unpadded(seen[1], spec))


def _unpadded(seen: Frame, spec: FrameSpec) -> Image:
    """Return the picture without the grey beside it."""
    place = placed(spec, seen.width, seen.height)
    return seen.image[place.top_px : place.top_px + place.height_px, place.left_px : place.left_px + place.width_px]


def sound(uri: str, side_px: int, from_s: float = 0.0, to_s: float | None = None) -> str | None:
    """Return the spectrogram of the first 10 s of a part, twice as wide as high, as a data URI; None without sound."""
    decoding = decode(uri, [SOUND], 0.0, HEARD_S, offset_s=from_s, limit_s=to_s)
    try:
        waves = [one.samples for _, one in decoding if isinstance(one, Wave)]
    finally:
        decoding.close()
    wave = np.concatenate(waves) if waves else np.zeros(0, np.float32)
    return jpeg(_spectrogram(wave, side_px, side_px // 2)) if len(wave) else None


def _spectrogram(wave: npt.NDArray[np.float32], width_px: int, height_px: int) -> Image:
    """Return |STFT|^2 of float32 (samples,) in dB as colours, low sounds below."""
    starts = np.linspace(0, max(0, len(wave) - WINDOW), width_px).astype(int)
    slices = np.pad(wave, (0, WINDOW))[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(slices)) ** 2
    edges = np.geomspace(2, WINDOW // 2, height_px + 1).astype(int)  # 31 Hz to 8 kHz, as far apart as notes
    bands = np.add.reduceat(power, edges, axis=1)[:, :-1] / np.maximum(1, np.diff(edges))
    level = 10 * np.log10(np.maximum(bands, 1e-12))
    return viridis(np.clip((level - level.max()) / DECIBELS + 1, 0, 1).T[::-1])
