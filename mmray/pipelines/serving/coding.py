"""Results as files for a client, and a client's files as arrays: PNG, WAV, MP4; pictures of any common format."""

import base64
import io
import wave
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from mmray.pipelines.serving.refusals import wrong

LARGEST_PIXELS = 64 * 10**6  # of an uploaded picture: a small file can hold a very large one
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
FPS = 25


def base64_of(data: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(data).decode()


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (height, width) or (height, width, 3), as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=4)
    return file.getvalue()


def wav(sound: npt.NDArray[np.float32], rate_hz: int) -> bytes:
    """Return a sound, float32 in [-1, 1], as WAV of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes((np.clip(sound, -1, 1) * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def picture_of(data: bytes, field: str) -> npt.NDArray[np.uint8]:
    """Return the picture of a file, upright, uint8 RGB (height, width, 3); a Refusal where it is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > LARGEST_PIXELS:
                raise wrong(field, f"has {opened.width} x {opened.height} pixels: more than {LARGEST_PIXELS:,}")
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, zlib.error, EOFError) as error:
        raise wrong(field, f"is no picture that can be read ({', '.join(FORMATS)})", "invalid_file") from error
    return np.asarray(upright)


def bytes_of(text: str, field: str) -> bytes:
    """Return what base64 text holds, with or without the beginning of a data URI."""
    try:
        return base64.b64decode(text.partition(";base64,")[2] or text, validate=True)
    except ValueError as error:
        raise wrong(field, "is not base64") from error


def film(picture: npt.NDArray[np.uint8], sound: npt.NDArray[np.float32], rate_hz: int) -> bytes:
    """Return MP4 (H.264, AAC) that shows a picture for as long as a sound lasts."""
    height, width = (side - side % 2 for side in picture.shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video: Any = container.add_stream("libx264", FPS, {"preset": "veryfast", "tune": "stillimage"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio: Any = container.add_stream("aac", rate_hz, layout="mono")
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        for number in range(max(1, round(len(sound) / rate_hz * FPS))):
            shown.pts, shown.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(shown))
        container.mux(video.encode())
        heard: Any = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="flt", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = rate_hz, 0, Fraction(1, rate_hz)
        container.mux(audio.encode(heard))
        container.mux(audio.encode())
    return file.getvalue()


def sound_of(data: bytes, field: str, longest_s: float) -> tuple[npt.NDArray[np.float32], int]:
    """Return the sound of a file, mono float32 (samples,), and its rate; a Refusal where it has none."""
    parts: list[npt.NDArray[np.float32]] = []
    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.audio:
                raise wrong(field, "is neither a picture nor has it sound", "invalid_file")
            rate_hz = container.streams.audio[0].rate
            mono = av.AudioResampler("flt", "mono", rate_hz)
            for frame in container.decode(audio=0):
                parts += [one.to_ndarray()[0] for one in mono.resample(frame)]
                if sum(map(len, parts)) > longest_s * rate_hz:
                    raise wrong(field, f"lasts more than {longest_s:g} s", "limit_exceeded")
    except av.error.FFmpegError as error:
        raise wrong(field, "is neither a picture nor a sound that can be read", "invalid_file") from error
    if not sum(map(len, parts)):
        raise wrong(field, "has sound of no samples", "invalid_file")
    return np.concatenate(parts), rate_hz
