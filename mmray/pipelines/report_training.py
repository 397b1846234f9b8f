"""Small pictures of the samples that trained networks answer wrongly, of their media or of what the networks read."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmray.fusion.image_cnn import ImageCnn
from mmray.fusion.material import Material, Modality
from mmray.fusion.training import TrainConfig
from mmray.pipelines import pictures
from mmray.pipelines.pictures import Medium
from mmray.report.pixels import png
from mmray.report.training_charts import image
from mmray.tables import ledger
from mmray.tables.store import open_store

Key = tuple[str, str]  # input, sample


def thumbnails(
    errors: Mapping[str, Sequence[Mapping[str, Any]]], config: TrainConfig, known: Material
) -> dict[Key, str]:
    """Return pictures of wrongly answered samples as data URIs; inputs that are texts or numbers have none."""
    store = open_store(config.store)
    manifest = store.read("manifest.parquet")
    assert manifest is not None
    rows = {row["sample_id"]: row for row in ledger.as_polars(manifest).iter_rows(named=True)}
    media: dict[Key, Medium] = {}
    found: dict[Key, str] = {}
    for one in config.inputs:
        modality = known.modalities[one.as_]
        about = store.read_json("provenance", f"{modality.extractor}.json") or {}
        wrong = {row[f"sample_id_{one.as_}"] for own in errors.values() for row in own} - {None}
        for sample in sorted(wrong):
            row = rows[sample]
            uri = None if about.get("reads_text") else row.get(about.get("source") or "uri")
            if uri:
                media[one.as_, sample] = Medium(str(uri), row.get("start_s") or 0.0, row.get("end_s"))
            elif isinstance(one.encoder, ImageCnn):
                found[one.as_, sample] = _read(one.encoder, modality, known.dataset.ids.index(sample))
    made = pictures.made(list(media.values()))
    return found | {key: picture.data for key, picture in zip(media, made, strict=True) if picture.data}


def _read(encoder: ImageCnn, modality: Modality, place: int) -> str:
    """Return the first picture that a network reads of a sample."""
    row = modality.row[place]
    first = modality.windows[row][modality.there[row]][0]
    return png(image(first.reshape(encoder.side_px, encoder.side_px, encoder.channels)))
