"""What an image that sounds can begin with: a picture, the spectrogram of a recording, or words that are drawn."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.generation import files
from mmray.generation.base import RequestError

LONGEST_S = 600  # of a recording: what a canvas has no room for is cut off
WIDTH_PX = 1024  # of a canvas, unless a request says otherwise: 10.24 s
MARGIN = 0.04  # of a canvas's height that stays free around words
PROBE_PX = 100.0  # what is drawn grows in step with the size of the font


def of_file(data: bytes, field: str, width_px: int = WIDTH_PX) -> npt.NDArray[np.uint8]:
    """Return the picture of a file, uint8 (height, width, 3), or the spectrogram of its sound.

    A spectrogram is ``width_px`` wide, a column for 10 ms: what a sound is longer is cut off, what it is shorter is
    silence. RequestError where the file holds neither picture nor sound.
    """
    from mmray.models import mel_image

    try:
        return files.picture_of(data, field)
    except RequestError as no_picture:
        try:
            sound, _ = files.sound_of(data, field, LONGEST_S, mel_image.RATE_HZ)
            painted = mel_image.picture(sound[: width_px * mel_image.HOP])
            return np.pad(painted, ((0, 0), (0, width_px - painted.shape[1]), (0, 0)))
        except RequestError as error:
            raise (no_picture if error.message == files.NO_SOUND else error) from error
        except ValueError as error:
            raise RequestError(field, str(error)) from error


def of_text(text: str, width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Draw words as large as the canvas has room for, white on black, uint8 (height, width).

    ValueError for letters that Pillow's own font lacks (it has those of ASCII): a picture of them can be given instead.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not text.strip():
        raise ValueError("has nothing to draw")
    canvas = Image.new("L", (width_px, height_px))
    draw = ImageDraw.Draw(canvas)
    probe: Any = ImageFont.load_default(PROBE_PX)
    nothing = bytes(probe.getmask("\uffff"))
    if lacking := sorted({one for one in text if not one.isspace() and bytes(probe.getmask(one)) == nothing}):
        raise ValueError(f"has letters that cannot be drawn here ({' '.join(lacking)}); give a picture of them instead")
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=probe, align="center")
    margin_px = MARGIN * height_px
    room = min((width_px - 2 * margin_px) / (right - left), (height_px - 2 * margin_px) / (bottom - top))
    font: Any = ImageFont.load_default(max(1.0, PROBE_PX * room))
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, align="center")
    corner = (width_px - left - right) / 2, (height_px - top - bottom) / 2
    draw.multiline_text(corner, text, fill=255, font=font, align="center")
    return np.asarray(canvas)
