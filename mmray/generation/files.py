"""Results as files, and files as pictures and sounds: PNG and WAV, media of any common format."""

import io
import itertools
import wave
import zlib

import numpy as np
import numpy.typing as npt

from mmray.generation.base import RequestError

LARGEST_PIXELS = 64 * 10**6  # of a picture that is given: a small file can hold a very large one
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
NO_SOUND = "has no sound that can be read"


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
    """Return the picture of a file, upright, uint8 RGB (height, width, 3); a RequestError where it is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > LARGEST_PIXELS:
                raise RequestError(field, f"has {opened.width} x {opened.height} pixels: more than {LARGEST_PIXELS:,}")
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, zlib.error, EOFError) as error:
        raise RequestError(field, f"is no picture that can be read ({', '.join(FORMATS)})") from error
    return np.asarray(upright)


def sound_of(
    data: bytes, field: str, longest_s: float, rate_hz: int | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the sound of a file, mono float32 (samples,), and its rate: ``rate_hz``, or its own for None.

    RequestError where it has none, or more than ``longest_s``.
    """
    import av

    parts: list[npt.NDArray[np.float32]] = []
    samples = 0
    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.audio:
                raise RequestError(field, NO_SOUND)
            rate_hz = rate_hz or container.streams.audio[0].rate
            mono = av.AudioResampler("flt", "mono", rate_hz)
            for frame in itertools.chain(container.decode(audio=0), [None]):
                new = [one.to_ndarray()[0] for one in mono.resample(frame)]
                parts.extend(new)
                samples += sum(map(len, new))
                if samples > longest_s * rate_hz:
                    raise RequestError(field, f"lasts more than {longest_s:g} s")
    except av.error.FFmpegError as error:
        raise RequestError(field, NO_SOUND) from error
    if not samples:
        raise RequestError(field, "has sound of no samples")
    return np.concatenate(parts), rate_hz
