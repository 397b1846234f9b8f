"""Results as files, and files as pictures: PNG and WAV, pictures of any common format."""

import io
import wave
import zlib

import numpy as np
import numpy.typing as npt

from mmray.generation.base import RequestError

LARGEST_PIXELS = 64 * 10**6  # of a picture that is given: a small file can hold a very large one
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


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
