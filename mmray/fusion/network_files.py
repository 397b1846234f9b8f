"""A trained fusion network as one folder that needs nothing else: what serving and evaluation load."""

from typing import Any, Literal

import torch
from pydantic import Field

from mmray import storage
from mmray.errors import ConfigError
from mmray.fusion import networks, tensor_files
from mmray.fusion.config import Part
from mmray.fusion.encoders import EncoderSettings
from mmray.fusion.networks import Fusion, Shape
from mmray.fusion.training import Network
from mmray.models.torch_setup import whole_float32

FORMAT = 1


class InputFile(Part):
    """One input: the full id of its extractor; one vector of a sample (``pooling``), or at most so many windows."""

    as_: str = Field(alias="as")
    extractor: str
    pooling: str | None
    windows: int | None
    dim: int = Field(ge=1)
    encoder: EncoderSettings


class NetworkFile(Part):
    """What ``config.json`` holds. ``classes``: their names, in the order of the logits.

    ``provenance``: the fit's key, fold, configuration, versions, commit and ``figures``.
    """

    format: int = Field(FORMAT, ge=1, le=FORMAT)
    kind: Literal["fusion"] = "fusion"
    network: Network
    inputs: tuple[InputFile, ...] = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)
    provenance: dict[str, Any]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Return what the inputs bring, by name, in the order of the network."""
        return {one.as_: Shape(one.dim, one.encoder) for one in self.inputs}


def save(network: Fusion, folder: str, about: NetworkFile) -> None:
    """Write a network; ``folder`` may be a URL."""
    tensor_files.save(folder, network.state_dict(), about)


def load(folder: str, device: str | torch.device = "cpu") -> tuple[Fusion, NetworkFile]:
    """Read a network; ConfigError, naming file and tensor, where something is missing or wrong."""
    whole_float32()
    about = tensor_files.config(folder, NetworkFile)
    try:
        network = networks.make(about.shapes, len(about.classes), about.network)
    except ConfigError as error:
        raise ConfigError(f"{storage.join(folder, tensor_files.CONFIG)}: {error}") from None
    network.load_state_dict(tensor_files.state(folder, network.state_dict(), f"{about.network.fusion} network"))
    return network.to(device).eval(), about
