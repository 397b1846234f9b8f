"""A fitted map as a folder: ``config.json`` (what it is and came from) and ``model.safetensors`` (its tensors)."""

import json
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors import torch as tensors

from mmray import storage
from mmray.config import validate
from mmray.errors import ConfigError
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
    """Write a map; ``folder`` may be a URL. The configuration comes last: a folder that has it is whole."""
    about = MapFile(
        map=model.name,
        source_dim=model.source_dim,
        target_dim=model.target_dim,
        training=model.settings,
        provenance=provenance,
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    storage.put(storage.join(folder, "model.safetensors"), tensors.save(state))
    storage.put(storage.join(folder, "config.json"), about.model_dump_json(indent=1).encode())


def load(folder: str, device: str = "cpu") -> tuple[Map, dict[str, Any]]:
    """Read a map and its provenance; ConfigError, naming file and tensor, where something is missing or wrong."""
    about = _config(storage.join(folder, "config.json"))
    model = MAPS[about.map](about.source_dim, about.target_dim, about.training)
    model.load_state_dict(_tensors(storage.join(folder, "model.safetensors"), model))
    return model.to(device).eval(), about.provenance


def _config(file: str) -> MapFile:
    try:
        data = json.loads(_read(file))
    except ValueError as error:
        raise ConfigError(f"{file}: is not JSON: {error}") from None
    return validate(MapFile, data, "", file)


def _tensors(file: str, model: Map) -> dict[str, torch.Tensor]:
    try:
        found = tensors.load(_read(file))
    except SafetensorError as error:
        raise ConfigError(f"{file}: is not a whole safetensors file: {error}") from None
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise ConfigError(f"{file}: tensor {name} of the {model.name} map is missing")
        if name not in wanted:
            raise ConfigError(f"{file}: tensor {name} does not belong to a {model.name} map")
        given, shape = found[name], list(wanted[name].shape)
        if given.dtype != torch.float32 or list(given.shape) != shape:
            raise ConfigError(f"{file}: tensor {name} is {given.dtype} {list(given.shape)}, not float32 {shape}")
        if not bool(given.isfinite().all()):
            raise ConfigError(f"{file}: tensor {name} has NaN or infinite numbers")
    return found


def _read(file: str) -> bytes:
    try:
        return storage.read_bytes(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
