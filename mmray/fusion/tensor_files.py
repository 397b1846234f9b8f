"""Folders of what was fitted: ``config.json`` (what it is and came from) and ``model.safetensors`` (its tensors)."""

import json
from collections.abc import Mapping
from typing import TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors import torch as tensors
from torch import Tensor

from mmray import storage
from mmray.config import validate
from mmray.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
CONFIG, TENSORS = "config.json", "model.safetensors"


def save(folder: str, state: Mapping[str, Tensor], about: BaseModel) -> None:
    """Write a folder, which may be a URL; the configuration comes last: a folder that has it is whole."""
    storage.delete([storage.join(folder, CONFIG)])
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    storage.put(storage.join(folder, TENSORS), tensors.save(plain))
    storage.put(storage.join(folder, CONFIG), about.model_dump_json(indent=1, by_alias=True).encode())


def config(folder: str, model: type[Model]) -> Model:
    """Read what a folder holds; ConfigError, naming the file, where it is missing or wrong."""
    file = storage.join(folder, CONFIG)
    try:
        data = json.loads(_read(file))
    except ValueError as error:
        raise ConfigError(f"{file}: is not JSON: {error}") from None
    return validate(model, data, "", file)


def state(folder: str, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Read the tensors of a folder; ConfigError, naming file and tensor, where they are not like those wanted.

    ``what``: the network they belong to, in words.
    """
    file = storage.join(folder, TENSORS)
    try:
        found = tensors.load(_read(file))
    except SafetensorError as error:
        raise ConfigError(f"{file}: is not a whole safetensors file: {error}") from None
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise ConfigError(f"{file}: tensor {name} of the {what} is missing")
        if name not in wanted:
            raise ConfigError(f"{file}: tensor {name} does not belong to a {what}")
        given, asked = found[name], wanted[name]
        if given.dtype != asked.dtype or given.shape != asked.shape:
            raise ConfigError(f"{file}: tensor {name} is {_kind(given)}, not {_kind(asked)}")
        if not bool(torch.isfinite(given).all()):
            raise ConfigError(f"{file}: tensor {name} has NaN or infinite numbers")
    return found


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read(file: str) -> bytes:
    try:
        return storage.read_bytes(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
