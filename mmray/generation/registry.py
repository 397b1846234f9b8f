"""The generators by name; each is imported when it is asked for."""

import importlib

from mmray.generation.base import Generator

GENERATORS = {
    "image": "mmray.generation.image:Image",
    "dalle_mini": "mmray.generation.dalle_mini:DalleMini",
    "audio": "mmray.generation.audio:Audio",
    "spectrogram": "mmray.generation.spectrogram:Spectrogram",
    "caption": "mmray.generation.caption:Caption",
    "labels": "mmray.generation.rank:Labels",
}


def get(name: str) -> type[Generator]:
    """Return a generator's class; KeyError for an unknown name."""
    module, _, attribute = GENERATORS[name].partition(":")
    family: type[Generator] = getattr(importlib.import_module(module), attribute)
    return family
