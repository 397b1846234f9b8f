"""Folders in the layout of the Hugging Face hub: their configuration (light), and loading that never guesses.

transformers fills tensors that a checkpoint lacks with random numbers and goes on with a warning; here that is an
error.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from mmray.errors import ConfigError
from mmray.models.torch_setup import ensure_torchaudio, quiet, whole_float32

Value = TypeVar("Value")
NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
}


class Settings(dict[str, Any]):
    """A JSON object, and the file and key it stands in: what is read by ``typed`` has the type of its default."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def typed(self, key: str, default: Value) -> Value:
        """Return the value of a key, or the default; ConfigError, naming file and key, for one of another type."""
        found = self.get(key, default)
        kind = type(default)
        if isinstance(found, int | float if kind is float else kind) and isinstance(found, bool) == (kind is bool):
            return kind(found)  # type: ignore[call-arg]
        raise ConfigError(f"{self.where}: {key} is {found!r}, and must be {NAMES[kind]}")

    def part(self, key: str) -> "Settings":
        """Return the object under a key, empty where there is none."""
        return Settings(self.typed(key, {}), f"{self.where}: {key}")


def config(path: str, *model_types: str) -> Settings:
    """Return the config.json of a folder; ConfigError where it is none, or of another ``model_type`` than these."""
    if Path(path).is_file():
        raise ConfigError(f"{path}: is one file, and a folder with its config.json is wanted")
    found = read_json(Path(path) / "config.json")
    if model_types and found.get("model_type") not in model_types:
        raise ConfigError(
            f"{path}/config.json: is a model of type {found.get('model_type')!r}, not {' or '.join(model_types)}"
        )
    return found


def image_settings(path: str) -> Settings:
    """Return the picture part of a folder's processor (sizes, ``image_mean``, ``image_std``, rescaling)."""
    return _settings(path, "image_processor")


def sound_settings(path: str) -> Settings:
    """Return the sound part of a folder's processor (``sampling_rate``, lengths, padding)."""
    return _settings(path, "feature_extractor")


def _settings(path: str, part: str) -> Settings:
    """Read one part: folders saved by transformers 5 have one file for all of them, older ones one for this."""
    old = Path(path) / "preprocessor_config.json"
    settings = read_json(old if old.is_file() else Path(path) / "processor_config.json")
    return settings.part(part) if part in settings else settings


def read_json(file: Path) -> Settings:
    """Read a JSON object; ConfigError where the file is missing or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: is not a readable configuration ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: must hold an object")
    return Settings(found, str(file))


def load(
    name: str | type, path: str, precision: str, device: str, unread: tuple[str, ...] = (), **settings: Any
) -> Any:
    """Load a model from a folder, offline, to a device, in evaluation mode.

    ``name``: of a class of transformers with ``from_pretrained`` (CLIPModel, AutoModel ...), or of diffusers, for a
    folder that holds one network (``unet``, ``vae``), or such a class itself; ``settings`` go to it.
    ``unread``: beginnings of the names of tensors that may be missing, because nothing reads what they give.
    ConfigError, naming folder and tensor, where the checkpoint lacks a tensor, has one of another shape, or cannot be
    read.
    """
    import torch
    from safetensors import SafetensorError

    ensure_torchaudio()
    whole_float32()
    import transformers

    kind: Any = _class(transformers, name) if isinstance(name, str) else name
    try:
        with quiet(warnings=False):
            model, about = kind.from_pretrained(
                path,
                dtype=getattr(torch, precision),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, one by one
                **settings,
            )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be loaded as {kind.__name__}: {' '.join(str(error).split())[:500]}"
        ) from error
    if wrong := sorted(map(str, about["mismatched_keys"])):
        raise ConfigError(f"{path}: {len(wrong)} tensor(s) have another shape than {kind.__name__} wants: {wrong[0]}")
    if missing := sorted(tensor for tensor in about["missing_keys"] if not tensor.startswith(unread)):
        raise ConfigError(f"{path}: {len(missing)} tensor(s) of {type(model).__name__} are missing: {missing[0]} first")
    return model.to(device).eval()


def _class(transformers: Any, name: str) -> Any:
    """Return a class of transformers or, of those names that it does not have, of diffusers."""
    if hasattr(transformers, name):
        return getattr(transformers, name)
    import diffusers

    return getattr(diffusers, name)
