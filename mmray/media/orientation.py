"""Which way up a picture is: display matrices of videos, Exif orientation of still images."""

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from av import VideoFrame

# The eight orientations of Exif (CIPA DC-008, tag 0x0112) as (transpose, flip_x, flip_y).
EXIF = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# The TIFF header of Exif data, behind what JPEG, PNG and WebP put before it, or at the start of a TIFF file.
TIFF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF....|\A)(II\*\0|MM\0\*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become upright: transposed first, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Return the clockwise rotation to upright in degrees; mirror images count as their nearest rotation."""
        if self.transpose:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the upright view of (height, width, channels)."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height with the sides swapped where the picture lies on its side."""
        return (height, width) if self.transpose else (width, height)


def of_frame(frame: VideoFrame) -> Orientation:
    """Read the display matrix that the decoder attached."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18.1 refuses all side data where one has a type it does not know (Exif is one).
        quarter = round(-frame.rotation / 90) % 4
        return Orientation(quarter in (1, 3), quarter in (1, 2), quarter in (2, 3))
    return Orientation() if matrix is None else _of_matrix(bytes(matrix))


def _of_matrix(data: bytes) -> Orientation:
    """Read (a b u / c d v / x y w) in native int32: x' = a x + c y, y' = b x + d y."""
    a, b, _, c, d, *_ = struct.unpack("=9i", data)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def of_exif(image: bytes) -> Orientation:
    """Read the Exif orientation from a whole JPEG, PNG, WebP or TIFF file; upright where there is none."""
    header = TIFF.search(image)
    if header is None:
        return Orientation()
    order = "<" if header[1].startswith(b"II") else ">"
    tiff = image[header.start(1) :]
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
            if tag == 0x0112:
                return Orientation(*EXIF.get(value, EXIF[1]))
    except struct.error:
        return Orientation()
    return Orientation()
