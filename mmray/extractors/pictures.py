"""What a hub folder does to a picture before its network sees it, and one vector of what the network says.

The folder's own settings decide (preprocessor_config.json), because theirs are the numbers its users get; what they
leave out is the default of the library's class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.models import hub
from mmray.specs import FrameSpec

Fit = Literal["crop", "squash"]
Filter = Literal["bilinear", "bicubic", "area"]
# By Pillow's numbers. The decoder has no Lanczos (1) and no Hamming (5), and nearest (0) is no way to make smaller.
FILTERS: dict[Any, Filter] = {2: "bilinear", 3: "bicubic", 4: "area"}


@dataclass(frozen=True, slots=True)
class Library:
    """What the library's own picture processor does where a folder does not say.

    ``name``: what its class is called, before ImageProcessor; ``square``: whether a plain number as size means a
    square, not the shorter side.
    """

    name: str
    size: Mapping[str, int]
    square: bool = False
    crop_px: int | None = None
    factor: float = 1 / 255
    offset: bool = False


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
    def read(cls, path: str, library: Library, config: Mapping[str, Any]) -> Self:
        """Read it from a folder with that config.json; ConfigError, naming the key, for what cannot be done."""
        found = hub.image_settings(path)

        def refused(key: str, why: str) -> ConfigError:
            return ConfigError(f"{path}: {key} of its image processor is {found.get(key)!r}, {why}")

        kind = "image_processor_type" if "image_processor_type" in found else "feature_extractor_type"
        if not str(found.get(kind, library.name)).startswith(library.name):
            raise refused(kind, f"not {library.name}ImageProcessor")
        if found.get("resample", 2) not in FILTERS:
            raise refused("resample", "and must be 2 (bilinear), 3 (bicubic) or 4 (box)")
        side_px, fit = _size(found.get("size") or library.size, library.square)
        if not side_px:
            raise refused("size", "and must be a square or a shortest_edge")
        crops = found.get("do_center_crop", library.crop_px is not None)
        crop_px, shape = _size(found.get("crop_size") or library.crop_px, True) if crops else (side_px, "squash")
        if shape != "squash" or not 0 < crop_px <= side_px:
            raise refused("crop_size", f"and must be a square of at most {side_px} px")
        if not found.get("do_resize", True) or (fit == "crop" and not crops):
            raise refused("do_center_crop" if found.get("do_resize", True) else "do_resize", "but a batch has one size")
        if crop_px != (network_px := _square_px(config.get("image_size", 224))):
            raise ConfigError(f"{path}: its image processor gives {crop_px} px, and its network takes {network_px} px")
        rescales, normalises = found.get("do_rescale", True), found.get("do_normalize", True)
        mean, std = (
            _per_channel(found.get(key, 0.5)) if normalises else (neutral,) * 3
            for key, neutral in (("image_mean", 0.0), ("image_std", 1.0))
        )
        if len(mean) != 3 or len(std) != 3 or not all(std):
            raise refused("image_mean" if len(mean) != 3 else "image_std", "and must be three numbers")
        return cls(
            side_px=side_px,
            fit=fit,
            interpolation=FILTERS[found.get("resample", 2)],
            crop_px=crop_px,
            factor=float(found.get("rescale_factor", library.factor)) if rescales else 1.0,
            offset=float(rescales and found.get("offset", library.offset)),
            mean=mean,
            std=std,
        )

    @property
    def spec(self) -> dict[str, Any]:
        """Return the part of it that the decoder does, as fields of a FrameSpec."""
        return {"side_px": self.side_px, "height_px": None, "fit": self.fit, "interpolation": self.interpolation}

    def values(self, images: npt.NDArray[np.uint8], device: Any) -> Any:
        """Turn uint8 RGB (..., side_px, side_px, 3) into a float32 tensor (..., 3, crop_px, crop_px) on ``device``."""
        import torch

        edge = (self.side_px - self.crop_px) // 2
        cut = images[..., edge : edge + self.crop_px, edge : edge + self.crop_px, :]
        pixels = torch.from_numpy(np.ascontiguousarray(cut)).to(device).movedim(-1, -3).float()
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels * self.factor - self.offset - mean) / std


def _size(given: Any, square: bool) -> tuple[int, Fit]:
    """Return a side, and whether pictures are squashed to it; 0 for what no square follows from."""
    if isinstance(given, int):
        return given, "squash" if square else "crop"
    sides = {key: value for key, value in given.items() if value} if isinstance(given, Mapping) else {}
    if sides.keys() == {"shortest_edge"}:
        return int(sides["shortest_edge"]), "crop"
    same = sides.keys() == {"height", "width"} and sides["height"] == sides["width"]
    return (int(sides["height"]) if same else 0), "squash"


def _square_px(given: Any) -> int | None:
    """Return the side that one number or two equal ones give."""
    sides = {given} if isinstance(given, int) else set(given)
    return int(sides.pop()) if len(sides) == 1 else None


def _per_channel(value: Any) -> tuple[float, ...]:
    """Return three numbers for one; a list as it is."""
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(one) for one in value or ())


def fitted(frames: FrameSpec, default: FrameSpec, wanted: Mapping[str, Any], name: str, path: str) -> FrameSpec:
    """Return ``frames`` with what the folder decides filled in; ConfigError where something else was asked for.

    What was left out, or is what the extractor's own ``default`` says, counts as not asked for.
    """
    for key, value in wanted.items():
        asked = getattr(frames, key)
        if key in frames.model_fields_set and asked not in (value, getattr(default, key)):
            raise ConfigError(f"{name}: {key} is {asked}, and {path} takes {value}")
    return frames.model_copy(update=dict(wanted))


def pooled(states: Any, how: str) -> npt.NDArray[np.float32]:
    """Return one vector (n, dim) of each row of tokens (n, tokens, dim): token 0 (``cls``), ``mean`` or ``max``."""
    states = states.float()
    vectors = {"cls": lambda: states[:, 0], "mean": lambda: states.mean(1), "max": lambda: states.amax(1)}[how]()
    found: npt.NDArray[np.float32] = vectors.cpu().numpy()
    return found
