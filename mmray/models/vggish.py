"""VGGish in torch, and the quantiser of the embeddings that AudioSet published.

Source: Hershey et al. 2017; tensorflow/models research/audioset/vggish (Apache-2.0), rebuilt from its published
numbers: embeddings are taken before any ReLU, the quantiser truncates. (torchvggish and torchaudio put a ReLU behind
the last layer, and torchvggish's quantiser rounds.) Parity with TensorFlow 2.21: see tests/models/test_vggish.py.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.models import tensors
from mmray.models.mel import MelSettings
from mmray.models.tensors import Tensors
from mmray.models.torch_setup import whole_float32

MEL = MelSettings(offset=0.01)
EXAMPLE_FRAMES = 96
EMBEDDING = 128
GRID = 6 * 4  # places that four poolings leave of 96 frames x 64 bands
SUFFIXES = frozenset({".npz", ".pt", ".pth", ".safetensors"})

# The layers as torchvggish names them, and as Google's checkpoint does.
LAYERS = {
    "features.0": "vggish/conv1",
    "features.3": "vggish/conv2",
    "features.6": "vggish/conv3/conv3_1",
    "features.8": "vggish/conv3/conv3_2",
    "features.11": "vggish/conv4/conv4_1",
    "features.13": "vggish/conv4/conv4_2",
    "embeddings.0": "vggish/fc1/fc1_1",
    "embeddings.2": "vggish/fc1/fc1_2",
    "embeddings.4": "vggish/fc2",
}
NAMES = {f"{layer}/{part}" for layer in LAYERS.values() for part in ("weights", "biases")} | {
    f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")
}
QUANTISER = {"pca_eigen_vectors": (EMBEDDING, EMBEDDING), "pca_means": (EMBEDDING,)}
TURNED = {4: (3, 2, 0, 1), 2: (1, 0)}  # from Google's order of axes: HWIO to OIHW, (in, out) to (out, in)
PREFIXES = {"features_network.": "features.", "embedding_network.": "embeddings."}  # torchaudio's


class VggishNet(nn.Module):
    """Log-mel examples (n, 96, 64) to embeddings (n, 128).

    ``widths`` of the six convolutions and of the hidden fully connected layers. Made without memory for its weights:
    ``load`` puts those of a file in their places.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        a, b, c, d, e, f, g, h = widths
        with torch.device("meta"):
            self.features = nn.Sequential(
                *_convolution(1, a), nn.MaxPool2d(2),
                *_convolution(a, b), nn.MaxPool2d(2),
                *_convolution(b, c), *_convolution(c, d), nn.MaxPool2d(2),
                *_convolution(d, e), *_convolution(e, f), nn.MaxPool2d(2),
            )  # fmt: skip
            self.embeddings = nn.Sequential(
                nn.Linear(GRID * f, g), nn.ReLU(), nn.Linear(g, h), nn.ReLU(), nn.Linear(h, EMBEDDING)
            )

    def forward(self, examples: Tensor) -> Tensor:
        """Return embeddings; TensorFlow flattens with the channels last."""
        features: Tensor = self.features(examples[:, None])
        embeddings: Tensor = self.embeddings(features.permute(0, 2, 3, 1).flatten(1))
        return embeddings


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]


def load(path: Path) -> VggishNet:
    """Read VGGish from a file with torchvggish's or torchaudio's names, or Google's checkpoint as .npz.

    In the .npz stand ``vggish/conv1/weights`` (HWIO) to ``vggish/fc2/biases`` (fully connected: in, out). The layers
    may have any widths that fit one another. ConfigError, naming file and tensor, where it is not VGGish.
    """
    whole_float32()
    found = {_name(name): tensor for name, tensor in _tensors(path, NAMES).items()}
    if f"{LAYERS['features.0']}/weights" in found:
        found = _from_tensorflow(found)
    wanted = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    if missing := [name for name in wanted if name not in found]:
        raise ConfigError(f"{path}: is not VGGish: {len(missing)} of its tensors are missing, {missing[0]} first")
    net = VggishNet([max(1, found[f"{layer}.bias"].numel()) for layer in list(LAYERS)[:-1]])
    for name, place in net.state_dict().items():
        tensor = found[name]
        if tensor.shape != place.shape or not tensor.is_floating_point():
            shapes = f"{tuple(tensor.shape)} {tensor.dtype}, and should be {tuple(place.shape)} floats"
            raise ConfigError(f"{path}: is not VGGish: {name} is {shapes}")
    net.load_state_dict({name: found[name] for name in wanted}, assign=True)
    return net.requires_grad_(False).eval()


def load_pca(path: Path) -> tuple[Tensor, Tensor]:
    """Read the quantiser's matrix (128, 128) and means (128,), float64, from Google's .npz or torchvggish's .pth.

    ConfigError, naming file and tensor, where it holds others.
    """
    found = _tensors(path, QUANTISER)
    parts = []
    for name, shape in QUANTISER.items():
        if name not in found:
            raise ConfigError(f"{path}: is not VGGish's quantiser: {name} is missing")
        part = found[name].double().squeeze()  # the means may be a column
        if part.shape != shape or not part.isfinite().all():
            raise ConfigError(f"{path}: is not VGGish's quantiser: {name} should be {shape} finite numbers")
        parts.append(part)
    return parts[0], parts[1]


def quantised(embeddings: Tensor, matrix: Tensor, means: Tensor) -> Tensor:
    """Rotate and whiten embeddings (n, 128), and cut [-2, 2] into whole numbers 0 to 255: (n, 128) float32."""
    whitened = (embeddings.double() - means) @ matrix.T
    return ((whitened.clamp(-2, 2) + 2) * (255 / 4)).trunc().float()


def _name(name: str) -> str:
    """Return torchvggish's name for torchaudio's, any other as it is."""
    for theirs, ours in PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _from_tensorflow(found: Tensors) -> Tensors:
    """Rename the tensors of Google's checkpoint and turn them around."""
    turned = {}
    for layer, theirs in LAYERS.items():
        if (weight := found.get(f"{theirs}/weights")) is not None:
            turned[f"{layer}.weight"] = weight.permute(TURNED.get(weight.ndim, tuple(range(weight.ndim))))
        if (bias := found.get(f"{theirs}/biases")) is not None:
            turned[f"{layer}.bias"] = bias
    return turned


def _tensors(path: Path, names: Collection[str]) -> Tensors:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: VGGish reads {', '.join(sorted(SUFFIXES))} files")
    return tensors.read(path, names)
