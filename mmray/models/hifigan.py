"""HiFi-GAN: log-mel spectra to sound, with the details of the vocoder that Auffusion publishes.

Source: Kong et al. 2020, HiFi-GAN; Xue et al. 2024, Auffusion, rebuilt from its published numbers. Where kernel minus
step is odd, a transposed convolution is padded by one more and its output by one, so that a frame always gives exactly
``hop`` samples (transformers' SpeechT5HifiGan gives one more in all). The weights' norms are folded in at load.
Parity: tests/models/test_hifigan.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mmray.errors import ConfigError
from mmray.models import hub, tensors
from mmray.models.pickled import Pickled
from mmray.models.tensors import Tensors

SLOPE, LAST_SLOPE = 0.1, 0.01  # of the leaky ReLUs inside, and of the one before the last convolution
END_SIZE = 7  # of the first and the last kernel
NAMES = ("vocoder.pt", "vocoder.safetensors")
SPLIT = {  # how a weight of norm and direction is named: by torch's older function, and by its parametrization
    ".weight_g": ".weight_v",
    ".parametrizations.weight.original0": ".parametrizations.weight.original1",
}


@dataclass(frozen=True)
class HifiGanSettings:
    """What ``config.json`` says of the network; ``block`` 1 has pairs of convolutions, 2 single ones."""

    mels: int
    channels: int
    steps: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    block: str = "1"

    @property
    def hop(self) -> int:
        """Return how many samples a frame gives."""
        return math.prod(self.steps)

    @classmethod
    def read(cls, file: Path) -> "HifiGanSettings":
        """Read a configuration; ConfigError, naming file and key, where it is not one of a HiFi-GAN."""
        found = hub.read_json(file)
        made = cls(
            mels=found.typed("num_mels", 80),
            channels=found.typed("upsample_initial_channel", 512),
            steps=_numbers(found, "upsample_rates"),
            kernels=_numbers(found, "upsample_kernel_sizes"),
            block_kernels=_numbers(found, "resblock_kernel_sizes"),
            block_dilations=tuple(_numbers(found, "resblock_dilation_sizes", row) for row in _rows(found)),
            block=str(found.get("resblock", "1")),
        )
        made.check(str(file))
        return made

    def check(self, where: str) -> None:
        """Raise ConfigError where the numbers fit no network."""
        if len(self.steps) != len(self.kernels) or any(k < u for u, k in zip(self.steps, self.kernels, strict=False)):
            raise ConfigError(f"{where}: upsample_kernel_sizes must be as many as upsample_rates, and none smaller")
        if len(self.block_kernels) != len(self.block_dilations) or not all(size % 2 for size in self.block_kernels):
            raise ConfigError(f"{where}: resblock_kernel_sizes must be odd, and as many as resblock_dilation_sizes")
        if self.block not in ("1", "2"):
            raise ConfigError(f"{where}: resblock is {self.block!r}, and must be 1 or 2")
        if self.mels < 1 or self.channels < 1 or self.channels % 2 ** len(self.steps):
            halvings = len(self.steps)
            raise ConfigError(f"{where}: upsample_initial_channel ({self.channels}) cannot be halved {halvings} times")


def _numbers(found: hub.Settings, key: str, row: object = None) -> tuple[int, ...]:
    numbers = found.get(key) if row is None else row
    if isinstance(numbers, list) and numbers and all(type(number) is int and number > 0 for number in numbers):
        return tuple(numbers)
    raise ConfigError(f"{found.where}: {key} is {found.get(key)!r}, and must be lists of whole numbers above 0")


def _rows(found: hub.Settings) -> list[Any]:
    rows = found.get("resblock_dilation_sizes")
    return rows if isinstance(rows, list) else [rows]


class HifiGan(nn.Module):
    """Log-mel spectra (n, mels, frames) to sound (n, frames * hop) in [-1, 1].

    Made without memory for its weights: ``load`` puts those of a file in their places.
    """

    def __init__(self, settings: HifiGanSettings) -> None:
        super().__init__()
        self.settings = s = settings
        widths = [s.channels // 2**level for level in range(len(s.steps) + 1)]
        blocks = list(zip(s.block_kernels, s.block_dilations, strict=True))
        with torch.device("meta"):
            self.conv_pre = nn.Conv1d(s.mels, s.channels, END_SIZE, padding=END_SIZE // 2)
            self.ups = nn.ModuleList(
                _widening(wide, narrow, kernel, step)
                for wide, narrow, kernel, step in zip(widths, widths[1:], s.kernels, s.steps, strict=False)
            )
            self.resblocks = nn.ModuleList(
                _Block(width, kernel, dilations, pairs=s.block == "1")
                for width in widths[1:]
                for kernel, dilations in blocks
            )
            self.conv_post = nn.Conv1d(widths[-1], 1, END_SIZE, padding=END_SIZE // 2)

    def forward(self, spectra: Tensor) -> Tensor:
        """Widen level by level; at each, the mean of blocks that look differently far."""
        x = self.conv_pre(spectra)
        beside = len(self.settings.block_kernels)
        for level, widen in enumerate(self.ups):
            x = widen(leaky_relu(x, SLOPE))
            blocks = self.resblocks[level * beside : (level + 1) * beside]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.conv_post(leaky_relu(x, LAST_SLOPE)))[:, 0]


def _widening(wide: int, narrow: int, kernel: int, step: int) -> nn.ConvTranspose1d:
    odd = (kernel - step) % 2
    return nn.ConvTranspose1d(wide, narrow, kernel, step, padding=(kernel - step) // 2 + odd, output_padding=odd)


class _Block(nn.Module):
    """Dilated convolutions, each (or each pair, whose second is not dilated) beside what went in."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], pairs: bool) -> None:
        super().__init__()

        def convolutions(dilations: tuple[int, ...]) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Conv1d(width, width, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
            )

        if pairs:
            self.convs1, self.convs2 = convolutions(dilations), convolutions((1,) * len(dilations))
        else:
            self.convs = convolutions(dilations)
        self.pairs = pairs

    def forward(self, x: Tensor) -> Tensor:
        if not self.pairs:
            for convolution in self.convs:
                x = x + convolution(leaky_relu(x, SLOPE))
            return x
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(leaky_relu(first(leaky_relu(x, SLOPE)), SLOPE))
        return x


def load(folder: Path) -> HifiGan:
    """Read ``config.json`` and ``vocoder.pt`` (or ``vocoder.safetensors``) of a folder, on the CPU in float32.

    The ``.pt`` holds ``{"generator": tensors by name}``, weights as norm and direction; nothing of it is run.
    ConfigError, naming file and tensor, where a file is damaged or holds something else.
    """
    net = HifiGan(HifiGanSettings.read(folder / "config.json"))
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        raise ConfigError(f"{folder}: holds no vocoder: {' or '.join(NAMES)} is missing")
    if file.suffix == ".pt":
        found = {name: torch.from_numpy(array) for name, array in Pickled(str(file)).arrays().items()}
    else:
        found = tensors.read(file)
    places = net.state_dict()
    net.load_state_dict(_fitted(str(file), folded(found), places), assign=True)
    return net.requires_grad_(False).eval()


def folded(found: Mapping[str, Tensor]) -> Tensors:
    """Join each weight that is kept as norm and direction: w = g * v / |v|, |v| over all axes but the first."""
    made = dict(found)
    for norm, direction in SPLIT.items():
        for name in [name for name in found if name.endswith(norm)]:
            layer = name.removesuffix(norm)
            g, v = found[name].float(), found.get(layer + direction, found[name]).float()
            lengths = v.norm(dim=tuple(range(1, v.ndim)), keepdim=True)
            if layer + direction in found and lengths.shape == g.shape:
                made[f"{layer}.weight"] = v * (g / lengths)
                del made[name], made[layer + direction]
    return made


def _fitted(file: str, found: Tensors, places: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors of a network, all of them and in its shapes; ConfigError at the first that is not."""
    if strange := sorted(set(found) - set(places)):
        raise ConfigError(f"{file}: has {len(strange)} tensor(s) that are not of its config.json: {strange[0]} first")
    for name, place in places.items():
        if name not in found:
            raise ConfigError(f"{file}: tensor {name} is missing")
        tensor = found[name]
        if tensor.shape != place.shape or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ConfigError(
                f"{file}: tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, and should be "
                f"{tuple(place.shape)} finite floats"
            )
    return {name: found[name].float() for name in places}
