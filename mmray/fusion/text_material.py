"""What a classifier of texts reads: the texts of every sample, beside labels and splits."""

from collections.abc import Iterable
from dataclasses import dataclass

from mmray.errors import ConfigError
from mmray.fusion import dataset, labels
from mmray.fusion.dataset import Block, Content, Dataset
from mmray.fusion.labels import Labels
from mmray.fusion.material import chosen
from mmray.fusion.text_training import TextConfig
from mmray.provenance import fingerprint
from mmray.tables import manifest
from mmray.tables.store import open_store


@dataclass(frozen=True)
class TextMaterial:
    """Samples in the order of the manifest, a block of texts for each input, labels; ``notes``: what was left out."""

    dataset: Dataset
    labels: Labels
    notes: tuple[str, ...]

    def contents(self, names: Iterable[str]) -> list[Content | None]:
        """Return digests of each sample's texts, None where it has none: equal ones are duplicates."""
        return self.dataset.contents(names)


def load(config: TextConfig) -> TextMaterial:
    """Read everything that a training reads; ConfigError, naming the key, where something is not there."""
    data, notes = _texts(config)
    kept = chosen(data, config.where)
    notes += (f"`where` takes {int(kept.sum())} of {len(kept)} samples",) * bool(config.where)
    given = labels.apply(config.labels, data, config.store or "")
    values = tuple(value if kept[place] else None for place, value in enumerate(given.values))
    notes += tuple(f"labels: {count} samples {why}" for why, count in given.excluded.items())
    identity = fingerprint([given.identity, config.where], 16)
    return TextMaterial(data, Labels(values, given.excluded, identity), notes)


def _texts(config: TextConfig) -> tuple[Dataset, tuple[str, ...]]:
    if config.store is not None:
        store = open_store(config.store)
        base = dataset.load(config.store, ())
        columns = base.columns
    else:
        store, table = None, manifest.read(config.manifest or "")
        columns = dataset.values(table)
    blocks: dict[str, Block] = {}
    notes: list[str] = []
    for place, one in enumerate(config.inputs):
        try:
            blocks[one.as_], said = dataset.texts(store, one.source, one.as_, columns)
        except ConfigError as error:
            raise ConfigError(f"inputs[{place}]: {error}") from None
        if not blocks[one.as_].present.any():
            raise ConfigError(f"inputs[{place}]: no sample has a text in {one.source!r}")
        notes += said
    return Dataset(tuple(columns["sample_id"]), columns, blocks), tuple(notes)
