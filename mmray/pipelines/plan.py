"""Plan: look at every source, probe what is new, cut it into segments, predict the work."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.config import GRID_S
from mmray.errors import Reason, SampleError
from mmray.media import sound_index
from mmray.pipelines import derived, guarded
from mmray.tables import ledger
from mmray.tables.store import Store

log = logging.getLogger(__name__)

PROBE = pl.Schema(
    {
        "container": pl.String,
        "codecs": pl.String,
        "duration_s": pl.Float64,
        "width": pl.Int32,
        "height": pl.Int32,
        "rotation": pl.Int32,
        "fps": pl.Float64,
        "variable_fps": pl.Boolean,
        "audio_tracks": pl.Int32,
        "channels": pl.Int32,
    }
)
MEDIA = pl.Schema(
    {
        "sample_id": pl.String,
        "input": pl.String,
        "uri": pl.String,
        "text": pl.String,
        "offset_s": pl.Float64,
        "limit_s": pl.Float64,
        "source": pl.String,
        "reads_text": pl.Boolean,
        "given": pl.String,
        "given_reason": pl.String,
    }
)
FLAGS = pl.Schema({"silent": pl.Boolean, "black": pl.Boolean, "frozen": pl.Boolean})
CUT = pl.Schema(
    {
        "sample_id": pl.String,
        "segment": pl.Int32,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        "scope": pl.String,
        "audio_entry": pl.String,  # where decoding its sound can start; null: at the first packet
    }
)
ORIGIN = pl.Schema({"problem": pl.String, "source": pl.String, "input": pl.String})
SEGMENTS = pl.Schema([column for schema in (CUT, PROBE, FLAGS, ORIGIN) for column in schema.items()])


class Reader(Protocol):
    """Whatever reads a source: a task of a run, or one that a store remembers."""

    @property
    def id(self) -> str:
        """Return the extractor's id."""

    @property
    def source(self) -> str:
        """Return the column of the manifest, or the output of another extractor (``ID.text``)."""

    @property
    def origin(self) -> str | None:
        """Return the id of the extractor it reads; None where it reads the manifest."""

    @property
    def reads_text(self) -> bool:
        """Tell whether the source holds texts, not media."""

    @property
    def whole_sample(self) -> bool:
        """Tell whether it needs a sample as one segment."""


def sources(manifest: pa.Table, readers: Sequence[Reader]) -> tuple[pa.Table, pl.DataFrame]:
    """Look at every column that is read, as it is now.

    Returns the manifest with sizes and tags brought up to date, and a frame (sample_id, source, input, uri, text,
    offset_s, limit_s ...): ``input`` changes when the source does.
    """
    frames = []
    columns = [(reader.source, reader.reads_text) for reader in readers if reader.origin is None]
    for source, text in dict.fromkeys(columns):
        values = manifest[source].cast(pa.string()).to_pylist()
        starts, ends = _column(manifest, "start_s"), _column(manifest, "end_s")
        if text:
            inputs = [provenance.fingerprint(value, 16) for value in values]
        else:
            found = storage.entries(value for value in values if value)
            if source == "uri":
                manifest = _refreshed(manifest, [found.get(value) if value else None for value in values])
            parts = zip(values, starts, ends, strict=True)
            inputs = [_input(found.get(value) if value else None, start, end) for value, start, end in parts]
        absent = [None] * len(values)
        columns_of = {"sample_id": manifest["sample_id"].to_pylist(), "input": inputs}
        columns_of |= {"uri": absent, "text": values} if text else {"uri": values, "text": absent}
        columns_of |= {"offset_s": starts, "limit_s": ends, "source": [source] * len(values)}
        columns_of |= {"reads_text": [text] * len(values), "given": absent, "given_reason": absent}
        frames.append(pl.DataFrame(columns_of, schema=MEDIA))
    return manifest, pl.concat(frames) if frames else pl.DataFrame(schema=MEDIA)


def _column(manifest: pa.Table, name: str) -> list[Any]:
    return manifest[name].to_pylist() if name in manifest.column_names else [None] * manifest.num_rows


def _input(entry: storage.Entry | None, start_s: float | None, end_s: float | None) -> str:
    return provenance.fingerprint([entry and [entry.size_bytes, entry.tag], start_s or 0.0, end_s], 16)


def _refreshed(manifest: pa.Table, found: list[storage.Entry | None]) -> pa.Table:
    new = {
        "size_bytes": pa.array([entry and entry.size_bytes for entry in found], pa.int64()),
        "source_tag": pa.array([entry and entry.tag for entry in found], pa.string()),
    }
    kept = [name for name in manifest.column_names if name not in new]
    table = manifest.select(kept)
    for name, column in new.items():
        table = table.append_column(name, column)
    return table


def read_segments(store: Store) -> pl.DataFrame:
    """Return the segment table of a store, empty where there is none yet."""
    table = store.read("segments.parquet")
    if table is None:
        return pl.DataFrame(schema=SEGMENTS)
    read = ledger.as_polars(table)
    # Stores of earlier versions lack columns that came later.
    absent = [pl.lit(None, kind).alias(name) for name, kind in SEGMENTS.items() if name not in read.columns]
    return read.with_columns(absent).select(list(SEGMENTS)).cast(SEGMENTS)


def unplanned(media: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    """Return the media (rows of ``sources``) that have no segments yet, or changed since they were cut."""
    return media.filter(~pl.col("reads_text")).join(segments, on=["sample_id", "source", "input"], how="anti")


def cut(media: pl.DataFrame, probes: Sequence[dict[str, Any]], segment_s: float) -> pl.DataFrame:
    """Cut probed media on the fixed time grid.

    A tail shorter than 0.96 s stays with the segment before it; the last segment has no end, because the stream
    decides. A sample of several segments has one more, the whole of it, for extractors of scope ``sample``.
    """
    rows = []
    for medium, probe in zip(media.iter_rows(named=True), probes, strict=True):
        duration_s = _sample_duration_s(probe.get("duration_s"), medium["offset_s"], medium["limit_s"])
        count = max(1, int(-(-(duration_s - GRID_S) // segment_s))) if duration_s is not None else 1
        fixed = {name: probe.get(name) for name in [*PROBE, "problem"]} | {"duration_s": duration_s}
        fixed |= {"sample_id": medium["sample_id"], "source": medium["source"], "input": medium["input"]}
        offset_s = medium["offset_s"] or 0.0
        starts_s = [segment * segment_s for segment in range(count)] + [0.0] * (count > 1)
        entries = sound_index.entries_before(probe.get("audio_index"), [offset_s + start_s for start_s in starts_s])
        for segment, (start_s, entry) in enumerate(zip(starts_s, entries, strict=True)):
            rows.append(
                fixed
                | {
                    "segment": segment,
                    "start_s": start_s,
                    "end_s": (segment + 1) * segment_s if segment + 1 < count else None,
                    "scope": "segment" if segment < count else "sample",
                    "audio_entry": entry,
                }
            )
    return pl.DataFrame(rows, schema=SEGMENTS)


def _sample_duration_s(duration_s: float | None, offset_s: float | None, limit_s: float | None) -> float | None:
    if duration_s is None:
        return None
    return max(0.0, min(duration_s, limit_s if limit_s is not None else duration_s) - (offset_s or 0.0))


def merged(segments: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return the segment table with the samples of ``new`` cut anew."""
    if new.is_empty():
        return segments
    kept = segments.join(new.select("sample_id", "source").unique(), on=["sample_id", "source"], how="anti")
    return pl.concat([kept, new]).sort("sample_id", "source", "segment")


def expected(
    readers: Sequence[Reader], media: pl.DataFrame, segments: pl.DataFrame, rows: pl.DataFrame
) -> pl.DataFrame:
    """Return every key the ledger (``rows``) must have: sample_id, segment, extractor, input; with what the work needs.

    Of an extractor that reads another: the keys of the samples whose source is finished.
    """
    known = {reader.id: reader for reader in readers}
    frames: dict[str, pl.DataFrame] = {}

    def keys(reader: Reader) -> pl.DataFrame:
        if reader.id not in frames:
            own = media
            if reader.origin is not None:
                own = derived.media(reader.source, keys(known[reader.origin]), rows)
            frames[reader.id] = _expected_of(reader, own, segments)
        return frames[reader.id]

    return pl.concat([keys(reader) for reader in readers])


def _expected_of(reader: Reader, media: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    """Return the keys of one extractor; a text is one segment, a medium as many as it was cut into."""
    own = media.filter((pl.col("source") == reader.source) & (pl.col("reads_text") == reader.reads_text))
    if reader.reads_text:
        cuts = own.select("sample_id", segment=pl.lit(0, pl.Int32), start_s=pl.lit(0.0), end_s=pl.lit(None, pl.Float64))
        cuts = cuts.with_columns(
            duration_s=pl.lit(None, pl.Float64),
            pixels=pl.lit(0, pl.Int64),
            fps=pl.lit(None, pl.Float64),
            audio_entry=pl.lit(None, pl.String),
        )
    else:
        scoped = segments.filter(pl.col("source") == reader.source)
        whole = scoped.filter(pl.col("scope") == "sample")
        several = scoped.filter(pl.col("scope") == "segment")
        rows = pl.concat([several.join(whole, on="sample_id", how="anti"), whole]) if reader.whole_sample else several
        pixels = (pl.col("width").cast(pl.Int64) * pl.col("height")).fill_null(0)
        cuts = rows.select(
            "sample_id", "segment", "start_s", "end_s", "duration_s", pixels.alias("pixels"), "fps", "audio_entry"
        )
    return own.join(cuts, on="sample_id", how="inner").with_columns(extractor=pl.lit(reader.id))


def probe_all(
    ray: Any, uris: Sequence[str | None], segment_s: float, timeout_s: float, told: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Probe media in parallel, in Ray tasks; a file that kills its process twice becomes a problem, not an error.

    A medium that several samples are part of is probed once.
    """
    media = list(dict.fromkeys(uri for uri in uris if uri))
    told(len(uris) - len(media))
    probe = partial(_probed, segment_s=segment_s, budget_s=timeout_s / 2)
    found = dict(zip(media, guarded.each(ray, probe, media, timeout_s, told), strict=True))
    crashed = {"problem": f"{Reason.CRASHED}: probing it killed its process twice"}
    return [(found[uri] or crashed) if uri else {} for uri in uris]


def _probed(uri: str, segment_s: float, budget_s: float) -> dict[str, Any]:
    """Probe one file; a file that cannot be is a problem, not an error."""
    from mmray.media.probe import probe_for_segments

    try:
        return asdict(probe_for_segments(uri, segment_s, budget_s))
    except SampleError as error:
        return {"problem": str(error)}
