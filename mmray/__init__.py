"""mmray: corpora of video, sound, images and text into embeddings, with an account of every sample."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmray.tables.features import Features

__version__ = "0.1.0"
__all__ = ["extract", "load"]


def load(store: str, extractor: str, pooling: str = "mean") -> "Features":
    """Read one feature table of a store: ids, float32 matrix (samples, dim) and labels.

    ``extractor``: its id (``yamnet-1a2b3c4d``), or its name where only one id of the store has it.
    """
    from mmray.tables import features

    return features.load(store, extractor, pooling)


def extract(config: str | dict[str, Any], limit: int | None = None) -> dict[str, Any]:
    """Run an extraction: a YAML file, or the same keys as a dict; returns the account."""
    from mmray.config import ExtractConfig, load_extract, validate
    from mmray.pipelines import extract as pipeline

    if isinstance(config, str):
        return pipeline.run(load_extract(config), config, limit)
    return pipeline.run(validate(ExtractConfig, config, "", "configuration"), "configuration", limit)
