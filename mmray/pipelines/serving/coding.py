"""What clients send as text and files, and what is sent to them: base64, pictures, sounds, MP4."""

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt

from mmray.generation import files, imprint
from mmray.generation.base import RequestError
from mmray.pipelines.serving.refusals import wrong

FPS = 25
UNPACKING = asyncio.Semaphore(2)
Made = TypeVar("Made")


def base64_of(data: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(data).decode()


async def unpacked(read: Callable[..., Made], *arguments: Any) -> Made:
    """Read a file in a thread; few at once, for a small file can hold a large picture."""
    async with UNPACKING:
        return await asyncio.to_thread(read, *arguments)


def picture_of(data: bytes, field: str, most_pixels: int) -> npt.NDArray[np.uint8]:
    """Return the picture of a file, upright, uint8 RGB (height, width, 3); a Refusal where it is none."""
    with refused(field):
        return files.picture_of(data, field, most_pixels)


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
    with refused(field):
        return files.sound_of(data, field, longest_s)


def imprint_of(data: bytes, field: str, width_px: int | None) -> npt.NDArray[np.uint8]:
    """Return what an image that sounds can begin with; a Refusal where a file holds neither picture nor sound."""
    with refused(field):
        return imprint.of_file(data, field, width_px or imprint.WIDTH_PX)


@contextmanager
def refused(field: str) -> Iterator[None]:
    """Turn what is wrong with a file into a Refusal."""
    try:
        yield
    except RequestError as error:
        raise wrong(field, error.message, "invalid_file") from error
