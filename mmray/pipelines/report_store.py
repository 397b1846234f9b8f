"""What a report says of a store, gathered from its tables; the media are opened for thumbnails only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mmray import storage
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.pipelines import pictures, plan, projection, status
from mmray.pipelines.pictures import Medium
from mmray.pipelines.projection import Projection
from mmray.pipelines.status import View
from mmray.report.cards import Sample, link
from mmray.report.embedding_map import EmbeddingMap
from mmray.report.store import UNLABELLED, Combination, Media, StoreReport
from mmray.specs import AudioSpec, FrameSpec
from mmray.tables import ledger
from mmray.tables.store import Store

MOST_COMBINATIONS = 12
MOST_KINDS = 8  # of containers, codecs, sizes
MOST_MAPS = 12
MOST_SHOWN = 60  # samples that failed or are partial
LENGTHS_S = {1: "below 1 s", 5: "1 to 5 s", 15: "5 to 15 s", 60: "15 to 60 s", 300: "1 to 5 min", 1200: "5 to 20 min",
             3600: "20 to 60 min"}  # fmt: skip
LONGEST = "an hour and more"
FLAGS = ("silent", "black", "frozen")


def gathered(store: Store, page: str, kind: Projection) -> StoreReport:
    """Read everything that the page, which will stand at ``page``, says of a store."""
    seen = status.view(store)
    manifest = store.read("manifest.parquet")
    assert manifest is not None
    statuses = ledger.statuses(seen.rows, seen.expected)
    names = {one["id"]: one["as"] for one in seen.extractors}
    modalities = {one["id"]: modality(one) for one in seen.extractors}
    have = statuses.filter(pl.col("status").is_in(["ok", "partial"]))
    combinations, combined = _combinations(have, names, seen.samples)
    maps, notes = _maps(store, seen, manifest, kind)
    trouble, troubled = _trouble(seen, statuses, manifest, storage.parent(page))
    return StoreReport(
        title=storage.absolute(store.uri).rpartition("/")[2],
        uri=storage.absolute(store.uri),
        account=status.account(seen),
        modalities=modalities,
        reach=_reach(have, modalities),
        combinations=combinations,
        combined=combined,
        classes=_classes(ledger.as_polars(manifest)),
        media=_media(plan.read_segments(store), ledger.as_polars(manifest.select(["sample_id"]))),
        maps=maps,
        notes=notes,
        trouble=trouble,
        troubled=troubled,
    )


def modality(about: Mapping[str, Any]) -> str:
    """Return what an extractor (its provenance) reads, in a word."""
    if about["reads_text"]:
        return "texts"
    try:
        specs = registry.get(about["identity"]["name"]).model_validate(about["config"]).specs
    except (ConfigError, ValueError, KeyError):  # a third party's that is not installed; features of another tool
        return "other"
    kinds = {type(spec) for spec in specs}
    return {frozenset({FrameSpec}): "pictures", frozenset({AudioSpec}): "sound"}.get(
        frozenset(kinds), "pictures and sound"
    )


def _reach(have: pl.DataFrame, modalities: Mapping[str, str]) -> dict[str, int]:
    by = have.with_columns(modality=pl.col("extractor").replace_strict(modalities, default="other"))
    counted = by.group_by("modality").agg(pl.col("sample_id").n_unique())
    return dict(counted.iter_rows())


def _combinations(have: pl.DataFrame, names: Mapping[str, str], samples: int) -> tuple[list[Combination], int]:
    """Return the most frequent sets of extractors that a sample has results of, and how many sets there are."""
    bits = {extractor: 1 << place for place, extractor in enumerate(names)}
    masks = have.group_by("sample_id").agg(
        pl.col("extractor").replace_strict(bits, return_dtype=pl.UInt64, default=0).sum().alias("mask")
    )
    counts = dict(masks["mask"].value_counts().iter_rows())
    if nothing := samples - masks.height:
        counts[0] = nothing
    found = [
        Combination(tuple(name for place, name in enumerate(names.values()) if mask >> place & 1), count)
        for mask, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]
    return found[:MOST_COMBINATIONS], len(found)


def _classes(manifest: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Return class -> column -> samples: of all, of each split, and how many groups it has."""
    if "label" not in manifest.columns:
        return {}
    label = pl.col("label").cast(pl.String).fill_null(UNLABELLED)
    counts = [pl.len().alias("samples")]
    if "split" in manifest.columns:
        splits = manifest["split"].cast(pl.String).unique().sort().to_list()
        counts += [
            pl.col("split").cast(pl.String).eq_missing(one).sum().alias(f"split {one}" if one else "no split")
            for one in splits[:MOST_KINDS]
        ]
    if "group" in manifest.columns:
        counts.append(pl.col("group").drop_nulls().n_unique().alias("groups"))
    table = manifest.group_by(label.alias("class")).agg(*counts).sort("samples", "class", descending=[True, False])
    return {row.pop("class"): row for row in table.to_dicts()}


def _media(segments: pl.DataFrame, samples: pl.DataFrame) -> list[Media]:
    """Return the facts of each source of media, one row of ``segments`` a sample."""
    own = segments.join(samples, on="sample_id", how="semi")
    found = []
    for (source,), rows in own.group_by("source", maintain_order=True):
        media = rows.unique("sample_id", keep="first", maintain_order=True)
        probed = media.filter(pl.col("container").is_not_null())
        whole = (
            rows.filter(pl.col("scope") == "segment").group_by("sample_id").agg(pl.col(flag).min() for flag in FLAGS)
        )
        lengths = probed["duration_s"].drop_nulls()
        sizes = probed.filter(pl.col("width").is_not_null()).select(
            pl.format("{} x {}", "width", "height").alias("size")
        )
        found.append(
            Media(
                source=str(source),
                media=media.height,
                hours=float(lengths.sum()) / 3600,
                durations=_lengths(lengths, probed.height - len(lengths)),
                kinds={
                    "Containers": _kinds(probed["container"]),
                    "Codecs": _kinds(probed["codecs"]),
                    "Sizes, px": _kinds(sizes["size"]),
                    "Pictures a second": _kinds(
                        pl.Series([f"{fps:.5g}" for fps in probed["fps"].drop_nulls()], dtype=pl.String)
                    ),
                    "Channels of sound": _kinds(probed["channels"].drop_nulls().cast(pl.String)),
                },
                flagged={flag: int(whole[flag].sum()) for flag in FLAGS},
                looked_at={flag: count for flag in FLAGS if (count := int(whole[flag].count()))},
                problems=_kinds(media["problem"].drop_nulls().str.split(":").list.first()),
            )
        )
    return found


def _lengths(lengths: pl.Series, none: int) -> dict[str, int]:
    places = np.searchsorted(list(LENGTHS_S), lengths.to_numpy(), side="right")
    counts = np.bincount(places, minlength=len(LENGTHS_S) + 1)
    named = zip([*LENGTHS_S.values(), LONGEST], counts.tolist(), strict=True)
    found = {name: count for name, count in named if count}
    return found | ({"stills, or not known": none} if none else {})


def _kinds(values: pl.Series) -> dict[str, int]:
    """Return the most frequent values, the rest in one sum."""
    counts = values.alias("value").value_counts().sort("count", "value", descending=[True, False])
    found = {str(value): int(count) for value, count in counts.head(MOST_KINDS).iter_rows()}
    if more := counts.height - MOST_KINDS if counts.height > MOST_KINDS else 0:
        found[f"{more} more kinds"] = int(counts["count"][MOST_KINDS:].sum())
    return found


def _maps(store: Store, seen: View, manifest: pa.Table, kind: Projection) -> tuple[list[EmbeddingMap], list[str]]:
    """Return a map of each feature partition, as far as they fit the page, and what was left out."""
    names = {one["id"]: one for one in seen.extractors}
    order = projection.order_of(manifest["sample_id"].to_pylist())
    labels = labelled(manifest)
    maps, notes = [], []
    partitions = [one for one in parts(store) if one[0] in names]
    for extractor, pooling in partitions[:MOST_MAPS]:
        about = names[extractor]
        title, scaled = f"{about['as']}, {pooling}", about["kind"] == "descriptors"
        found = projection.mapped(store, title, extractor, pooling, kind, order, labels, scaled)
        if found is None:
            notes.append(f"{title}: too few samples have finite vectors for a map.")
        else:
            maps.append(found)
    if more := [f"{names[extractor]['as']}, {pooling}" for extractor, pooling in partitions[MOST_MAPS:]]:
        notes.append(f"Maps of {MOST_MAPS} feature partitions are shown; not those of {'; '.join(more)}.")
    return maps, notes


def parts(store: Store) -> list[tuple[str, str]]:
    """Return the feature partitions of a store: extractor id and pooling."""
    uris = [storage.parent(entry.uri) for entry in storage.files(store.path("features"), ".parquet")]
    pairs = {uri.rpartition("/extractor=")[2].partition("/pooling=")[::2] for uri in uris}
    return sorted(pairs)


def labelled(manifest: pa.Table) -> dict[str, str | None]:
    """Return the label of every sample as text."""
    if "label" not in manifest.column_names:
        return {}
    labels = [None if one is None else str(one) for one in manifest["label"].to_pylist()]
    return dict(zip(manifest["sample_id"].to_pylist(), labels, strict=True))


def _trouble(seen: View, statuses: pl.DataFrame, manifest: pa.Table, folder: str) -> tuple[list[Sample], int]:
    """Return samples that failed or are partial, some of every reason, and how many there are."""
    bad = statuses.filter(pl.col("status").is_in(["failed", "partial"]))
    details = seen.rows.filter(pl.col("status").is_in(["failed", "partial"])).sort("segment", "run_id")
    details = details.unique(["sample_id", "extractor"], keep="first").select("sample_id", "extractor", "detail")
    first = bad.sort("status", "extractor").unique("sample_id", keep="first", maintain_order=True)
    place = pl.int_range(pl.len()).over("status", "reason")
    chosen = first.with_columns(place=place).sort("place", "status", "reason", "sample_id").head(MOST_SHOWN)
    about = bad.join(chosen.select("sample_id"), on="sample_id", how="semi").join(
        details, on=["sample_id", "extractor"], how="left"
    )
    said: dict[str, list[dict[str, Any]]] = {}
    for row in about.sort("status", "extractor").iter_rows(named=True):
        said.setdefault(row["sample_id"], []).append(row)
    known = {one["id"]: one for one in seen.extractors}
    notes = {sample: _words(rows, known) for sample, rows in said.items()}
    read = {sample: known[rows[0]["extractor"]] for sample, rows in said.items()}
    sources = {sample: str(about["source"]) for sample, about in read.items() if not about.get("reads_text")}
    return shown(chosen["sample_id"].to_list(), notes, manifest, folder, sources), first.height


def _words(rows: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what became of a sample; extractors that say the same share a line."""
    told: dict[str, list[str]] = {}
    for row in rows:
        told.setdefault(f"{row['status']}: {row['reason']}: {row['detail']}", []).append(known[row["extractor"]]["as"])
    return tuple(f"{', '.join(names)}: {words}" for words, names in told.items())


def shown(
    samples: Sequence[str], notes: Mapping[str, Sequence[str]], manifest: pa.Table, folder: str,
    sources: Mapping[str, str] | None = None,
) -> list[Sample]:  # fmt: skip
    """Return cards of samples, with thumbnails of their media: of the column ``sources`` names, else of ``uri``."""
    ids = set(samples)
    table = ledger.as_polars(manifest).filter(pl.col("sample_id").is_in(ids))
    rows = {row["sample_id"]: row for row in table.iter_rows(named=True)}
    media = []
    for sample in samples:
        row, source = rows.get(sample, {}), (sources or {}).get(sample, "uri")
        uri = row.get(source if source in row and source != "text" else "uri")
        media.append(Medium(str(uri), row.get("start_s") or 0.0, row.get("end_s")) if uri else None)
    seen = pictures.made(media)
    return [
        Sample(
            sample_id=sample,
            notes=tuple(notes[sample]),
            picture=picture.data,
            trouble=picture.trouble,
            text=rows.get(sample, {}).get("text"),
            address=link(medium.uri, folder) if medium else None,
        )
        for sample, medium, picture in zip(samples, media, seen, strict=True)
    ]
