"""Tiny media made on the spot: the grey level of a frame tells its number, tones tell time."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STEP = 4  # grey levels between one frame and the next; the pattern repeats after 50 frames


def level(number: int) -> int:
    return 20 + STEP * (number % 50)


def number(image: np.ndarray, near: int = 0) -> int:
    """The number of the frame that ``image`` shows, nearest to ``near``."""
    found = round((float(image.mean()) - 20) / STEP)
    return found + 50 * round((near - found) / 50)


def grey(number: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level(number), np.uint8)


def noisy(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Blocks that change every five frames and a line that moves: something for a codec to predict."""
    blocks = np.random.default_rng(number // 5).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    image = blocks.repeat(8, 0).repeat(8, 1)
    image[:, number * 3 % width] = number % 256
    return image


def tone(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    """A sweep with noise, float32 (channels, samples)."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(time.size)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time) + 0.05 * noise
    return np.repeat(wave[np.newaxis].astype(np.float32), channels, axis=0)


def make(
    path: Path,
    frames: Sequence[np.ndarray] = (),
    *,
    fps: int = 10,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "flac",
    rate_hz: int = 16_000,
    sound_start: int = 0,
    sound_options: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    aspect: Fraction | None = None,
    muxing: dict[str, str] | None = None,
    container: str | None = None,
) -> str:
    """Write ``frames`` (RGB) at ``pts`` / fps and ``sound`` (channels, samples); return the path."""
    with av.open(str(path), "w", options=muxing or {}, format=container) as output:
        streams: list[Any] = []
        if len(frames):
            video: Any = output.add_stream(codec, rate=fps, options=options if options is not None else {"qp": "0"})
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pix_fmt
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation is not None:
                video.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
            streams.append(_pictures(video, frames, pts or range(len(frames)), fps))
        if sound is not None:
            audio: Any = output.add_stream(sound_codec, rate=rate_hz, options=sound_options)
            audio.layout = "mono" if len(sound) == 1 else "stereo"
            streams.append(_sounds(audio, sound, rate_hz, sound_start))
        packets = sorted((p for stream in streams for p in stream), key=lambda p: float(p.dts * p.time_base))
        for packet in packets:
            output.mux(packet)
    return str(path)


def _pictures(stream: Any, frames: Sequence[np.ndarray], pts: Sequence[int], fps: int) -> list[Any]:
    packets = []
    for image, at in zip(frames, pts, strict=True):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = at, Fraction(1, fps)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sounds(stream: Any, sound: np.ndarray, rate_hz: int, start: int) -> list[Any]:
    packets = []
    form = stream.format.name
    for at in range(0, sound.shape[1], 1024):
        block = sound[:, at : at + 1024]
        if form.startswith("s16"):
            block = np.round(block * 32767).astype(np.int16)
        elif form.startswith("s32"):
            block = np.round(block * (2**31 - 128)).astype(np.int32)
        if not form.endswith("p"):
            block = block.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=form, layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start + at, Fraction(1, rate_hz)
        packets += stream.encode(frame)
    return packets + stream.encode(None)
