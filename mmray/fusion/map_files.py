"""A fitted map as a folder: ``config.json`` (what it is and came from) and ``model.safetensors`` (its tensors)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmray.fusion import tensor_files
from mmray.fusion.maps import MAPS, Map, MapName, Training

FORMAT = 1


class MapFile(BaseModel):
    """What ``config.json`` holds; ``provenance`` is plain data for the reader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(FORMAT, ge=1, le=FORMAT)
    map: MapName
    source_dim: int = Field(ge=1)
    target_dim: int = Field(ge=1)
    training: Training
    provenance: dict[str, Any]


def save(model: Map, folder: str, provenance: dict[str, Any]) -> None:
    """Write a map; ``folder`` may be a URL."""
    about = MapFile(
        map=model.name,
        source_dim=model.source_dim,
        target_dim=model.target_dim,
        training=model.settings,
        provenance=provenance,
    )
    tensor_files.save(folder, model.state_dict(), about)


def load(folder: str, device: str = "cpu") -> tuple[Map, dict[str, Any]]:
    """Read a map and its provenance; ConfigError, naming file and tensor, where something is missing or wrong."""
    about = tensor_files.config(folder, MapFile)
    model = MAPS[about.map](about.source_dim, about.target_dim, about.training)
    model.load_state_dict(tensor_files.state(folder, model.state_dict(), f"{about.map} map"))
    return model.to(device).eval(), about.provenance
