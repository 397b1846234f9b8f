"""What a recording is like: length, cuts, brightness, motion, loudness and silence, for every 0.96 s.

No model and no licence: plain formulas, written here. A hard cut lies between two consecutive frames of the
0.24 s grid that share less than half of their colours, differ in luma by more than a tenth on average, and do not show
the same shapes (correlation of luma below a half), as the frames of a fast fade do.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mmray.errors import Reason, SampleError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling
from mmray.specs import AudioSpec, Frame, FrameSpec, Gathered, Rows, Wave

WINDOW_S = 0.96
FRAMES = 4  # of the 0.24 s grid, in a window
BLOCK_S = 0.02
FLOOR_DB, SILENT_DB = -100.0, -60.0
COLOURS_CHANGED, LUMA_CHANGED, SAME_SHAPES = 0.5, 0.1, 0.5
LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255  # BT.601

Columns = dict[str, list[float | None]]


class Descriptors(Extractor):
    """One row per window k, which covers [0.96 k, 0.96 (k + 1)) s; what a missing stream would say is null.

    - ``duration_s``: how much of the recording the window really holds.
    - ``cuts``: hard cuts. ``brightness``: mean luma, 0 to 1. ``motion``: mean change of luma from grid frame to grid
      frame, 0 to 1; the first frame of a sample has none.
    - ``loudness_db``: level of the window, dB of full scale, not below -100. ``silence_share``: share of its blocks of
      20 ms below -60 dB.

    ``summary`` says how each is pooled over a sample; ``energy`` is the mean of powers, 10 log10(mean(10^(dB / 10))).
    Skipped: no_video, where there is neither picture nor sound. Failed: what decoding says.
    """

    name: ClassVar[str] = "descriptors"
    kind: ClassVar[Kind] = Kind.DESCRIPTORS
    gather: ClassVar[bool] = True
    poolings: ClassVar[tuple[Pooling, ...]] = ("summary",)
    summary: ClassVar[dict[str, Literal["sum", "mean", "max", "energy"]]] = {
        "duration_s": "sum",
        "cuts": "sum",
        "brightness": "mean",
        "motion": "mean",
        "loudness_db": "energy",
        "silence_share": "mean",
    }

    frames: FrameSpec = FrameSpec(fps=1 / 0.24, side_px=64, fit="squash", interpolation="area", before=1)
    sound: AudioSpec = AudioSpec(rate_hz=16_000, window_s=WINDOW_S, hop_s=WINDOW_S)
    pooling: tuple[Pooling, ...] = ("summary",)

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Return the function; there is nothing to load."""
        del device, path

        def extract(segments: Sequence[Gathered]) -> Iterator[Rows | SampleError]:
            """Segments with all their frames (uint8 RGB) and waves; for each its Rows, or no_video."""
            for segment in segments:
                frames, waves = segment.streams
                yield described(frames, waves, round(segment.start_s / WINDOW_S))

        return extract


def described(frames: list[Frame], waves: list[Wave], first: int) -> Rows | SampleError:
    """Return the rows of a segment whose first window is ``first``; earlier frames are context."""
    seen = [frame.window // FRAMES for frame in frames if frame.window >= first * FRAMES]
    heard = [wave.window + wave.count - 1 for wave in waves]
    if not seen and not heard:
        return SampleError(Reason.NO_VIDEO, "there is neither picture nor sound")
    windows = list(range(first, max(seen + heard) + 1))
    end_s = max([frame.end_s for frame in frames] + [w.window * WINDOW_S + w.samples.size / w.rate_hz for w in waves])
    starts = [window * WINDOW_S for window in windows]
    columns: dict[str, Any] = {"duration_s": [min(WINDOW_S, max(0.0, end_s - start)) for start in starts]}
    columns |= _pictures(frames, windows) | _sounds(waves, windows)
    return Rows(windows, starts, [min(start + WINDOW_S, end_s) for start in starts], columns)


def _pictures(frames: list[Frame], windows: list[int]) -> Columns:
    columns: Columns = {name: [None] * len(windows) for name in ("cuts", "brightness", "motion")}
    if not frames:
        return columns
    images = np.stack([frame.image for frame in frames])
    lumas = images @ LUMA
    motion = np.abs(np.diff(lumas, axis=0, prepend=lumas[:1])).mean((1, 2))
    colours = np.stack([_colours(image) for image in images])
    changed = np.abs(np.diff(colours, axis=0, prepend=colours[:1])).sum(1) / 2
    cut = (changed > COLOURS_CHANGED) & (motion > LUMA_CHANGED) & (_alike(lumas) < SAME_SHAPES)
    owner = np.array([frame.window // FRAMES for frame in frames])
    for place, window in enumerate(windows):
        mine = owner == window
        if mine.any():
            columns["cuts"][place] = float(cut[mine].sum())
            columns["brightness"][place] = float(lumas[mine].mean())
            columns["motion"][place] = float(motion[mine].mean())
    return columns


def _alike(lumas: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the correlation of each picture with the one before (the first: 1; a flat picture has no shapes: 0)."""
    flat = lumas.reshape(len(lumas), -1)
    shapes = flat - flat.mean(1, keepdims=True)
    shapes /= np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-3)
    return np.append(np.float32(1), (shapes[1:] * shapes[:-1]).sum(1))


def _colours(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the share of pixels in each of 4 x 4 x 4 colours."""
    steps = (image >> 6).reshape(-1, 3).astype(np.int64)
    return np.bincount(steps @ np.array([16, 4, 1]), minlength=64) / len(steps)


def _sounds(waves: list[Wave], windows: list[int]) -> Columns:
    columns: Columns = {name: [None] * len(windows) for name in ("loudness_db", "silence_share")}
    for wave in waves:
        length = round(WINDOW_S * wave.rate_hz)
        for place in range(wave.count):
            samples = wave.samples[place * length : (place + 1) * length].astype(np.float64)
            if samples.size:
                row = wave.window + place - windows[0]
                columns["loudness_db"][row] = _decibels(float(np.mean(samples**2)))
                columns["silence_share"][row] = _silence_share(samples, round(BLOCK_S * wave.rate_hz))
    return columns


def _silence_share(samples: npt.NDArray[np.float64], block: int) -> float:
    starts = np.arange(0, samples.size, block)
    powers = np.add.reduceat(samples**2, starts) / np.diff(np.append(starts, samples.size))
    return float(np.mean([_decibels(float(power)) < SILENT_DB for power in powers]))


def _decibels(power: float) -> float:
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power > 0 else FLOOR_DB
