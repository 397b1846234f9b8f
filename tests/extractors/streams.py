"""Streams as the decoder would hand them over."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mmray.specs import AudioSpec, Frame, FrameSpec, Wave


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def picture(seed: int, side_px: int, channels: int) -> np.ndarray:
    """Return a picture with structure: blobs of colour under a little noise."""
    coarse = noise(seed, 4, 4, channels)
    tiles = np.kron(coarse, np.ones((-(-side_px // 4), -(-side_px // 4), 1), np.float32))[:side_px, :side_px]
    return ((0.9 * tiles + 0.1 * noise(seed + 1, side_px, side_px, channels)) * 255).astype(np.uint8)


def frame(spec: FrameSpec, window: int, image: np.ndarray, width: int = 320, height: int = 180) -> Frame:
    fps = spec.fps or 1.0  # pictures chosen from a whole sample: one a second
    return Frame(image, window, window / fps, (window + 1) / fps, window / fps, width, height)


def frames(spec: FrameSpec, count: int, first: int = 0) -> list[Frame]:
    return [
        frame(spec, window, picture(window // 3, spec.side_px, spec.channels)[: spec.height_px])
        for window in range(first, first + count)
    ]


def sound(seed: int, seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    """Return a tone under noise that grows and fades."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = np.sin(2 * np.pi * (200 + 150 * seed) * times) * np.abs(np.sin(times + seed))
    return (0.5 * tone + 0.05 * (noise(seed, times.size) - 0.5)).astype(np.float32)


def wave(spec: AudioSpec, samples: np.ndarray, first: int = 0, count: int | None = None) -> Wave:
    """Return the windows from ``first`` on of a sound; as many as it has, or ``count``."""
    total = next(index for index in range(10_000) if not spec.has_window(index, samples.size))
    count = total - first if count is None else count
    end = (first + count - 1) * spec.hop + spec.window
    start_s = first * spec.hop_s
    part = samples[first * spec.hop : end]
    return Wave(part, spec.rate_hz, first, count, start_s, start_s + part.size / spec.rate_hz)


def split(spec: AudioSpec, samples: np.ndarray, at: Sequence[int]) -> list[Wave]:
    """Return the same windows in several waves, cut before the windows ``at``."""
    whole = wave(spec, samples)
    edges = [0, *at, whole.count]
    return [wave(spec, samples, start, end - start) for start, end in pairwise(edges)]
