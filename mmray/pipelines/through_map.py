"""Search through a trained map: a query of one embedding among the vectors of another, in the map's own space."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmray import storage
from mmray.errors import ConfigError
from mmray.fusion import map_files
from mmray.fusion.maps import Map
from mmray.tables.features import Matrix
from mmray.tables.store import Store

SIDES = ("source", "target")


class Side(NamedTuple):
    """One side of a map: the provenance of its partition, and the pooling it was fitted on."""

    name: str
    about: dict[str, Any]
    pooling: str

    @property
    def words(self) -> str:
        """Return what messages call it."""
        return f"{self.about['as']} ({self.about['id']}, {self.pooling})"


class Bridge(NamedTuple):
    """A map between two partitions of a store."""

    folder: str
    model: Map
    source: Side
    target: Side

    def beyond(self, side: Side) -> Side:
        """Return the other side."""
        return self.target if side.name == "source" else self.source

    def put(self, side: Side) -> Callable[[Matrix], Matrix]:
        """Return what puts vectors of a side, float32 (n, dim), into the map's space."""
        into = self.model.queries if side.name == "source" else self.model.places
        return lambda matrix: into(np.array(matrix, np.float32))  # a copy: torch warns of what it could not write to


def opened(store: Store, folder: str, known: Sequence[dict[str, Any]]) -> Bridge:
    """Read a map and find its two partitions among those of a store (``known``: their provenance).

    ConfigError where the folder is missing or damaged, or the store has other partitions than the map was fitted on.
    """
    folder = folder.rstrip("/")
    try:
        model, provenance = map_files.load(folder)
    except ConfigError as error:
        raise ConfigError(f"--map {folder}: {error}{_maps_below(folder)}") from None
    by_id = {str(about["id"]): about for about in known}
    sides = []
    for name in SIDES:
        fitted_on = provenance.get(name)
        if not isinstance(fitted_on, dict) or not {"extractor", "pooling"} <= fitted_on.keys():
            raise ConfigError(f"--map {folder}: its config.json does not say which partition its {name} is")
        number, pooling = str(fitted_on["extractor"]), str(fitted_on["pooling"])
        if number not in by_id:
            there = ", ".join(sorted(by_id)) or "nothing"
            raise ConfigError(
                f"--map {folder}: its {name} is {number}, which {store.uri} does not have (it has {there}); "
                "search the store it was fitted on, or fit a map on this one"
            )
        sides.append(Side(name, by_id[number], pooling))
    return Bridge(folder, model, *sides)


def _maps_below(folder: str) -> str:
    """Name the maps that stand below a folder that is none itself."""
    below = [entry.uri for entry in storage.files(storage.join(folder, "maps"), "config.json")]
    listed = ", ".join(sorted(storage.parent(uri) for uri in below))
    return f"; there are maps in {listed}" if listed else ""
