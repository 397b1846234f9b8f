"""What a model wants from a sample (specs), and what it is handed (stream items).

Specs are frozen values: equal specs are one decoded stream, different specs of one medium share one pass over
its packets. Times are seconds from the start of the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction01 = Annotated[float, Field(ge=0, le=1)]
SAMPLINGS = ("every", "fps", "uniform", "representative")


class Spec(BaseModel):
    """A frozen description of one stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FrameSpec(Spec):
    """Pictures: which of them, and how each becomes ``side_px`` x ``side_px`` (``height_px``: that high).

    Just one of ``every``, ``fps``, ``uniform`` and ``representative`` says which:

    - ``every`` n: frames 0, n, 2n ... in presentation order.
    - ``fps`` f: for each k the frame shown at k / f seconds.
    - ``uniform`` n: the frames shown in the middle of n equal parts of the sample.
    - ``representative`` n: of ``candidates`` uniform frames those nearest to n k-means centres, in time order.

    ``fit``: ``letterbox`` keeps the whole picture and its proportions and fills the rest with grey ``fill``
    (``anchor`` says where the picture stands); ``crop`` scales the shorter side to ``side_px`` and cuts the centre;
    ``squash`` ignores proportions. ``interpolation``: all but ``linear`` smooth what they make smaller; that takes
    the four nearest pixels, as OpenCV's INTER_LINEAR does, for networks that were trained so. ``box`` (x1, y1, x2, y2
    as fractions of the upright picture) is cut out first.
    ``before`` and ``after`` ask for that many grid frames ahead of and behind each segment, as context only.
    """

    every: int | None = Field(None, ge=1)
    fps: float | None = Field(None, gt=0, le=1000)
    uniform: int | None = Field(None, ge=1, le=10_000)
    representative: int | None = Field(None, ge=1, le=1_000)
    candidates: int = Field(400, ge=1, le=10_000)
    side_px: int = Field(224, ge=1, le=8192)
    fit: Literal["letterbox", "crop", "squash"] = "crop"
    anchor: Literal["centre", "top_left"] = "centre"
    fill: int = Field(114, ge=0, le=255)
    interpolation: Literal["bilinear", "bicubic", "area", "linear"] = "bicubic"
    box: tuple[Fraction01, Fraction01, Fraction01, Fraction01] | None = None
    channels: Literal[1, 3] = 3
    before: int = Field(0, ge=0, le=100)
    # Written down only where they are given: the ids of extractors without them stay what they were.
    after: int = Field(0, ge=0, le=100, exclude_if=lambda count: count == 0)
    height_px: int | None = Field(None, ge=1, le=8192, exclude_if=lambda height: height is None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = [name for name in SAMPLINGS if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(f"give just one of {', '.join(SAMPLINGS)} (given: {', '.join(chosen) or 'none'})")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is (x1, y1, x2, y2) in fractions of the picture, with x1 < x2 and y1 < y2")
        if self.representative is not None and self.candidates < self.representative:
            raise ValueError("candidates must be at least representative")
        if (self.before or self.after) and self.fps is None:
            raise ValueError("before and after need fps")
        if self.height_px is not None and self.fit != "squash":
            raise ValueError("height_px needs fit: squash")
        return self

    @property
    def whole_sample(self) -> bool:
        """Tell whether the choice of frames needs the sample as a whole."""
        return self.uniform is not None or self.representative is not None


class AudioSpec(Spec):
    """Sound: mono (the mean of the channels) at ``rate_hz``, in windows of ``window_s`` every ``hop_s``.

    ``tail``: ``pad`` keeps a last window that the sound fills only in part (the model pads it with zeros; window
    k > 0 exists when there is sound behind the end of window k - 1), ``drop`` keeps full windows only.
    """

    rate_hz: int = Field(16_000, ge=1_000, le=192_000)
    window_s: float = Field(0.96, gt=0, le=3600)
    hop_s: float = Field(0.96, gt=0, le=3600)
    tail: Literal["pad", "drop"] = "pad"
    channels: Literal[1] = 1
    audio_track: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _whole_samples(self) -> Self:
        for name in ("window_s", "hop_s"):
            samples = getattr(self, name) * self.rate_hz
            if round(samples) < 1 or not isclose(samples, round(samples), abs_tol=1e-6):
                raise ValueError(f"{name} x rate_hz must be a whole number of samples (it is {samples:g})")
        return self

    @property
    def window(self) -> int:
        """Return the length of a window in samples."""
        return round(self.window_s * self.rate_hz)

    @property
    def hop(self) -> int:
        """Return the distance between window starts in samples."""
        return round(self.hop_s * self.rate_hz)

    def has_window(self, index: int, total: int) -> bool:
        """Tell whether a sound of ``total`` samples has window ``index``."""
        if self.tail == "drop":
            return total >= index * self.hop + self.window
        if index == 0:
            return total > 0
        return total > index * self.hop and total > (index - 1) * self.hop + self.window


class TextSpec(Spec):
    """Text, as Unicode NFC."""


AnySpec = FrameSpec | AudioSpec | TextSpec


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture, RGB or grey: ``image`` uint8 (height_px or side_px, side_px, channels).

    It was cut from an upright one of ``width`` x ``height`` pixels.
    """

    image: npt.NDArray[np.uint8]
    window: int
    start_s: float
    end_s: float
    frame_s: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Wave:
    """A run of ``count`` windows: ``samples`` float32 in [-1, 1] from the start of window ``window``.

    Where the stream ends early the samples do not fill the last windows: the model pads with zeros.
    """

    samples: npt.NDArray[np.float32]
    rate_hz: int
    window: int
    count: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Text:
    """One text, NFC."""

    text: str


Item = Frame | Wave | Text


@dataclass(frozen=True, slots=True)
class Gathered:
    """All items of one segment, in the order of the extractor's specs; an absent stream is an empty list."""

    streams: tuple[list[Any], ...]
    start_s: float
    end_s: float | None
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a windows table that one item gives; columns hold one entry a row."""

    window: Sequence[int]
    start_s: Sequence[float | None]
    end_s: Sequence[float | None]
    columns: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.window)
