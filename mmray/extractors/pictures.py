"""What a hub folder does to a picture before its network sees it.

The folder's own settings decide (preprocessor_config.json), because theirs are the numbers its users get; what they
leave out is the default of the library's class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from mmray.errors import ConfigError
from mmray.models import hub
from mmray.specs import FrameSpec

Fit = Literal["crop", "squash"]
Filter = Literal["bilinear", "bicubic", "area"]
# By Pillow's numbers. The decoder has no Lanczos (1) and no Hamming (5), and nearest (0) is no way to make smaller.
FILTERS: dict[Any, Filter] = {2: "bilinear", 3: "bicubic", 4: "area"}


def _coloured(frames: FrameSpec) -> FrameSpec:
    if frames.channels != 3:
        raise ValueError("needs pictures in colour: channels: 3")
    return frames


# The field of an extractor whose network sees red, green and blue.
Coloured = Annotated[FrameSpec, AfterValidator(_coloured)]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the library's own picture processor does where a folder does not say.

    ``name``: what its class is called, before ImageProcessor; ``square``: whether a plain number as size means a
    square, not the shorter side; ``resample``: Pillow's number of a filter.
    """

    name: str
    size: Mapping[str, int]
    square: bool = False
    crop_px: int | None = None
    resample: int = 2
    factor: float = 1 / 255
    offset: bool = False
    normalises: bool = True
    mean: tuple[float, ...] = (0.5,) * 3
    std: tuple[float, ...] = (0.5,) * 3


@dataclass(frozen=True, slots=True)
class Preparation:
    """Scale a picture to ``side_px``, cut out the centre of ``crop_px``, then (x factor - offset - mean) / std."""

    side_px: int
    fit: Fit
    interpolation: Filter
    crop_px: int
    factor: float
    offset: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: str, defaults: Defaults, config: Mapping[str, Any] | None = None) -> Self:
        """Read it from a folder; ConfigError, naming the key, for what cannot be done.

        ``config``: the part of its config.json with the network's own ``image_size`` (None: it takes any).
        """
        found = hub.image_settings(path)

        def refused(key: str, why: str) -> ConfigError:
            return ConfigError(f"{path}: {key} of its image processor is {found.get(key)!r}, {why}")

        kind = "image_processor_type" if "image_processor_type" in found else "feature_extractor_type"
        if not str(found.get(kind, defaults.name)).startswith(defaults.name):
            raise refused(kind, f"not {defaults.name}ImageProcessor")
        resample = found.get("resample", defaults.resample)
        if not isinstance(resample, int) or resample not in FILTERS:
            raise refused("resample", "and must be 2 (bilinear), 3 (bicubic) or 4 (box)")
        side_px, fit, crop_px = _sizes(found, defaults, refused)
        takes = crop_px if config is None else config.get("image_size", 224)
        if any(side != crop_px for side in (takes if isinstance(takes, list) else [takes])):
            raise ConfigError(f"{path}: its image processor gives {crop_px} px, and its network takes {takes}")
        rescales, factor = found.get("do_rescale", True), found.get("rescale_factor", defaults.factor)
        if not isinstance(factor, int | float):
            raise refused("rescale_factor", "and must be a number")
        normalises = found.get("do_normalize", defaults.normalises)
        mean = _per_channel(found.get("image_mean", defaults.mean) if normalises else 0)
        std = _per_channel(found.get("image_std", defaults.std) if normalises else 1)
        if not mean or not std or not all(std):
            raise refused("image_std" if mean else "image_mean", "and must be three numbers")
        return cls(
            side_px=side_px,
            fit=fit,
            interpolation=FILTERS[resample],
            crop_px=crop_px,
            factor=float(factor) if rescales else 1.0,
            offset=float(rescales and found.get("offset", defaults.offset)),
            mean=mean,
            std=std,
        )

    @property
    def spec(self) -> dict[str, Any]:
        """Return the part of it that the decoder does, as fields of a FrameSpec."""
        return {"side_px": self.side_px, "height_px": None, "fit": self.fit, "interpolation": self.interpolation}

    def on(self, device: Any) -> Callable[[npt.NDArray[np.uint8]], Any]:
        """Return the function from uint8 RGB (..., side_px, side_px, 3) to float32 (..., 3, crop_px, crop_px) there."""
        import torch

        edge = (self.side_px - self.crop_px) // 2
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))

        def values(images: npt.NDArray[np.uint8]) -> Any:
            cut = images[..., edge : edge + self.crop_px, edge : edge + self.crop_px, :]
            pixels = torch.from_numpy(np.ascontiguousarray(cut)).to(device).movedim(-1, -3).float()
            return (pixels * self.factor - self.offset - mean) / std

        return values


def _sizes(
    found: Mapping[str, Any], defaults: Defaults, refused: Callable[[str, str], ConfigError]
) -> tuple[int, Fit, int]:
    """Return the side pictures are scaled to, in which way, and the side of the square that is cut out of them."""
    side_px, fit = _size(found.get("size") or defaults.size, defaults.square)
    if not side_px:
        raise refused("size", "and must be a square or a shortest_edge")
    crops = found.get("do_center_crop", defaults.crop_px is not None)
    crop_px, shape = _size(found.get("crop_size") or defaults.crop_px, True) if crops else (side_px, "squash")
    if shape != "squash" or not 0 < crop_px <= side_px:
        raise refused("crop_size", f"and must be a square of at most {side_px} px")
    if not found.get("do_resize", True):
        raise refused("do_resize", "but a batch has one size")
    if fit == "crop" and not crops:
        raise refused("do_center_crop", "but a batch has one size")
    if found.get("do_pad", False):
        raise refused("do_pad", "and pictures are not padded")
    return side_px, fit, crop_px


def _size(given: Any, square: bool) -> tuple[int, Fit]:
    """Return a side, and whether pictures are squashed to it; 0 for what no square follows from."""
    if isinstance(given, int):
        return given, "squash" if square else "crop"
    sides = {key: value for key, value in given.items() if value} if isinstance(given, Mapping) else {}
    if sides.keys() not in ({"shortest_edge"}, {"height", "width"}):
        return 0, "squash"
    side_px, *others = sides.values()
    square_px = side_px if isinstance(side_px, int) and others in ([], [side_px]) else 0
    return square_px, "crop" if "shortest_edge" in sides else "squash"


def _per_channel(value: Any) -> tuple[float, ...]:
    """Return three numbers for one or three; none for anything else."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    return tuple(map(float, values)) if [isinstance(one, int | float) for one in values] == [True] * 3 else ()


def fitted(frames: FrameSpec, default: FrameSpec, wanted: Mapping[str, Any], name: str, path: str) -> FrameSpec:
    """Return ``frames`` with what the folder decides filled in; ConfigError where something else was asked for.

    What was left out, or is what the extractor's own ``default`` says, counts as not asked for.
    """
    for key, value in wanted.items():
        asked = getattr(frames, key)
        if key in frames.model_fields_set and asked not in (value, getattr(default, key)):
            raise ConfigError(f"{name}: {key} is {asked}, and {path} takes {value}")
    return frames.model_copy(update=dict(wanted))
