"""The models that mmray knows by name: ``configs/models.yaml``, and any model of the Hugging Face hub by its id."""

import functools
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mmray.config import nearest, read_yaml, validate

# The hub's rules, but that an owner may begin with _ there. A path such as ./net.h5 or ../net is no id.
_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
HUB_ID = re.compile(rf"(?!.*(?:\.\.|--|\.git$)){_NAME}/{_NAME}", re.ASCII)


class Model(BaseModel):
    """One entry of ``configs/models.yaml``; ``sha256`` is that of ``file``, None where it is not known.

    ``files``: what of a hub id is fetched, and where to, where its loader wants another folder than the hub has.

    ``extractor`` or ``generator`` is the one that reads it, ``output`` what a row or a result then holds. A source
    ``package:NAME/FOLDER`` is a Python package that carries it: one that mmray needs anyway, or its ``extra`` installs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    revision: str | None = None
    file: str = "model.safetensors"
    files: dict[str, str] = {}
    sha256: str | None = None
    licence: str = "unknown"
    non_commercial: bool = False
    size_bytes: int | None = Field(None, gt=0)
    extractor: str = ""
    generator: str = ""
    output: str = ""
    extra: str | None = None

    @property
    def on_hub(self) -> bool:
        """Tell a Hugging Face id from a URL and a package."""
        return ":" not in self.source

    @property
    def package(self) -> str | None:
        """Return the package that carries it, and the folder there, if one does."""
        kind, _, name = self.source.partition(":")
        return name if kind == "package" else None

    @property
    def command(self) -> str:
        """Return the command that brings it to a machine."""
        if self.package is None:
            return f"mmray models pull {self.name}"
        return f"pip install 'mmray[{self.extra}]'" if self.extra else "pip install mmray"

    @property
    def folder(self) -> str:
        """Return the name of its folder below ``MMRAY_HOME/models``."""
        return self.name.replace("/", "--")


class _Catalogue(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Model, ...]


@functools.cache
def models() -> tuple[Model, ...]:
    """Return the models of ``configs/models.yaml`` in a checkout, of ``mmray/models.yaml`` in an installed package."""
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / "configs" / "models.yaml", package / "models.yaml"]
    file = next((place for place in places if place.is_file()), places[0])
    return validate(_Catalogue, read_yaml(str(file)), "", str(file)).models


def find(name: str) -> Model | None:
    """Return the catalogue's model of that name or hub id."""
    return next((model for model in models() if name in (model.name, model.source)), None)


def named(name: str) -> Model | None:
    """Return the catalogue's model of that name, or the hub's of that id; None where it can be neither."""
    return find(name) or (Model(name=name, source=name) if HUB_ID.fullmatch(name) else None)


def unknown(name: str) -> str:
    """Say that a name stands for nothing, with the nearest one that does."""
    near = nearest(name, [model.name for model in models()])
    return f"{name}: no such file, folder or known model{near or '; `mmray models list` shows those'}"
