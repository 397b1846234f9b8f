"""Results as files, and files as pictures and sounds: PNG and WAV, media of any common format."""

import io
import itertools
import wave
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.generation.base import RequestError

HIGHEST_HZ = 48_000  # of a sound that is given: a small file of silence can claim any
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


def picture_of(data: bytes, field: str, most_pixels: int = LARGEST_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the picture of a file, upright, uint8 RGB (height, width, 3).

    RequestError where it is none, or has more than ``most_pixels``.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > most_pixels:
                raise RequestError(field, f"has {opened.width} x {opened.height} pixels: more than {most_pixels:,}")
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(field, f"has more than {most_pixels:,} pixels") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, zlib.error, EOFError) as error:
        raise RequestError(field, f"is no picture that can be read ({', '.join(FORMATS)})") from error
    return np.asarray(upright)


def sound_of(
    data: bytes, field: str, longest_s: float, rate_hz: int | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the sound of a file, mono float32 (samples,), and its rate: ``rate_hz``, or its own up to 48 kHz for None.

    RequestError where it has none, or more than ``longest_s``.
    """
    import av

    parts: list[npt.NDArray[np.float32]] = []
    samples = 0
    try:
        # No protocol: a playlist would have it open other files of this machine.
        safe: dict[str, Any] = {"container_options": {"protocol_whitelist": "none"}, "metadata_errors": "replace"}
        with av.open(io.BytesIO(data), "r", **safe) as container:
            heard = next((one for one in container.streams.audio if one.codec_context is not None), None)
            if heard is None:
                raise RequestError(field, NO_SOUND)
            rate_hz = rate_hz or min(heard.rate, HIGHEST_HZ)
            mono = av.AudioResampler("flt", "mono", rate_hz)
            for frame in itertools.chain(container.decode(heard), [None]):
                new = [one.to_ndarray()[0] for one in mono.resample(frame)]
                parts.extend(new)
                samples += sum(map(len, new))
                if samples > longest_s * rate_hz:
                    raise RequestError(field, f"lasts more than {longest_s:g} s")
    except RequestError:
        raise
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: of sound whose format changes on the way
        raise RequestError(field, NO_SOUND) from error
    if not samples:
        raise RequestError(field, "has sound of no samples")
    return np.concatenate(parts), rate_hz
