"""Plan: look at every source, probe what is new, cut it into segments, predict the work."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from math import inf
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmray import provenance, storage
from mmray.config import GRID_S
from mmray.errors import Reason, SampleError
from mmray.media import sound_index
from mmray.pipelines import derived, guarded
from mmray.tables import ledger
from mmray.tables.store import Store, read_parquet

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
        "present": pl.Boolean,  # the source can be seen now
        "absent": pl.Boolean,  # it cannot, and could when it was cut: its results stay as they are
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


def sources(manifest: pa.Table, readers: Sequence[Reader], segments: pl.DataFrame) -> tuple[pa.Table, pl.DataFrame]:
    """Look at every column that is read, as it is now.

    Returns the manifest with sizes and tags brought up to date, and a frame (schema MEDIA) with a row for each source
    of a sample: ``input`` changes when the source does. A source that cannot be seen now keeps the input that
    ``segments`` remember, so that nothing that was made from it counts as changed.
    """
    frames = []
    columns = [(reader.source, reader.reads_text) for reader in readers if reader.origin is None]
    for source, reads_text in dict.fromkeys(columns):
        values = manifest[source].cast(pa.string()).to_pylist()
        starts, ends = _column(manifest, "start_s"), _column(manifest, "end_s")
        row_count = len(values)
        frame = {"sample_id": manifest["sample_id"].to_pylist(), "offset_s": starts, "limit_s": ends}
        frame |= {"source": [source] * row_count, "reads_text": [reads_text] * row_count}
        frame |= dict.fromkeys(("given", "given_reason"), [None] * row_count)
        if reads_text:
            inputs = [provenance.fingerprint(value, 16) for value in values]
            frame |= {"input": inputs, "uri": [None] * row_count, "text": values}
            frame |= {"present": [True] * row_count, "absent": [False] * row_count}
        else:
            listed = storage.entries(value for value in values if value)
            entries = [listed.get(value) if value else None for value in values]
            seen = [entry if isinstance(entry, storage.Entry) else None for entry in entries]
            if source == "uri":
                manifest = _refreshed(manifest, seen)
            inputs = [_input(entry, start, end) for entry, start, end in zip(seen, starts, ends, strict=True)]
            frame |= {"input": inputs, "uri": values, "text": [None] * row_count}
            frame |= {"present": [entry is not None for entry in seen], "absent": [False] * row_count}
        frames.append(pl.DataFrame(frame, schema=MEDIA))
    media = pl.concat(frames) if frames else pl.DataFrame(schema=MEDIA)
    return manifest, _remembered(media, segments)


def _remembered(media: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    """Give sources that cannot be seen now the input that they had when they were cut, and mark them as absent.

    A source that could not be seen then either is no different now, and is worked on: it fails with its reason.
    """
    known = segments.select("sample_id", "source", known="input").unique(["sample_id", "source"])
    joined = media.join(known, on=["sample_id", "source"], how="left", maintain_order="left")
    absent = ~pl.col("present") & pl.col("uri").is_not_null() & (pl.col("known") != pl.col("input")).fill_null(False)
    joined = joined.with_columns(absent=absent)
    return joined.with_columns(input=pl.when("absent").then("known").otherwise("input")).select(list(MEDIA))


def describe_absent(media: pl.DataFrame) -> str | None:
    """Return one sentence about the sources that cannot be seen now, None where there are none."""
    absent = media.filter("absent")
    if absent.is_empty():
        return None
    listed = storage.entries([absent["uri"][0]])
    reason = next((entry.detail for entry in listed.values() if isinstance(entry, storage.Absent)), "it is back now")
    media_count = media.filter(~pl.col("reads_text")).height
    return (
        f"{absent.height} of {media_count} sources cannot be seen now, such as {absent['uri'][0]} ({reason}): their "
        f"results stay as they are, and what is not done of them waits until they are back"
    )


def _column(manifest: pa.Table, name: str) -> list[Any]:
    return manifest[name].to_pylist() if name in manifest.column_names else [None] * manifest.num_rows


def _input(entry: storage.Entry | None, start_s: float | None, end_s: float | None) -> str:
    return provenance.fingerprint([entry and [entry.size_bytes, entry.tag], start_s or 0.0, end_s], 16)


def _refreshed(manifest: pa.Table, entries: Sequence[storage.Entry | None]) -> pa.Table:
    """Bring ``size_bytes`` and ``source_tag`` up to date; a source that cannot be seen keeps what the manifest says."""
    seen = {
        "size_bytes": pa.array([entry and entry.size_bytes for entry in entries], pa.int64()),
        "source_tag": pa.array([entry and entry.tag for entry in entries], pa.string()),
    }
    table = manifest.select([name for name in manifest.column_names if name not in seen])
    for name, column in seen.items():
        if name in manifest.column_names:
            column = pc.coalesce(column, manifest[name].cast(column.type))
        table = table.append_column(name, column)
    return table


def read_segments(store: Store) -> pl.DataFrame:
    """Return the segment table of a store with what an interrupted run has probed; empty where there is none yet."""
    table = store.read("segments.parquet")
    segments = pl.DataFrame(schema=SEGMENTS) if table is None else _as_segments(table)
    for uri in probe_parts(store):
        with contextlib.suppress(FileNotFoundError):  # a run at work has just moved it into the segment table
            segments = merged(segments, _as_segments(read_parquet(uri)))
    return segments


def probe_parts(store: Store) -> list[str]:
    """List the files of freshly probed segments that are not in the segment table yet, oldest first."""
    return [entry.uri for entry in storage.files(store.path("probes"), ".parquet")]


def _as_segments(table: pa.Table) -> pl.DataFrame:
    """Return a segment table under the schema SEGMENTS; columns that older stores lack are null."""
    segments = ledger.as_polars(table)
    lacking = [pl.lit(None, kind).alias(name) for name, kind in SEGMENTS.items() if name not in segments.columns]
    return segments.with_columns(lacking).select(list(SEGMENTS)).cast(SEGMENTS)


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
    ray: Any, uris: Sequence[str | None], segment_s: float, timeout_s: float
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Probe media in parallel, in Ray tasks; yields what is done, as pairs of the row of a medium and its probe.

    A file that kills its process twice becomes a problem, not an error; no file (None) is an empty probe. A medium
    that several rows are part of is probed once.
    """
    yield [(row, {}) for row, uri in enumerate(uris) if not uri]
    rows_of: dict[str, list[int]] = {}
    for row, uri in enumerate(uris):
        if uri:
            rows_of.setdefault(uri, []).append(row)
    crashed: list[str] = []
    for uri, probe in _each_probed(ray, list(rows_of), segment_s, timeout_s):
        if probe is None:
            crashed.append(uri)
        else:
            yield [(row, probe) for row in rows_of[uri]]
    # The index decodes the sound as a whole; without one, sound that kills its process costs one segment.
    for uri, probe in _each_probed(ray, crashed, inf, timeout_s):
        problem = {"problem": f"{Reason.CRASHED}: probing it killed its process twice"}
        yield [(row, probe or problem) for row in rows_of[uri]]


def _each_probed(
    ray: Any, media: Sequence[str], segment_s: float, timeout_s: float
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield each medium with its probe, None where probing killed its process twice."""
    probe = partial(_probed, segment_s=segment_s, budget_s=timeout_s / 2)
    for done in guarded.map_isolated(ray, probe, media, timeout_s):
        yield from ((media[number], result) for number, result in done)


def _probed(uri: str, segment_s: float, budget_s: float) -> dict[str, Any]:
    """Probe one file; a file that cannot be is a problem, not an error."""
    from mmray.media.probe import probe_for_segments

    try:
        return asdict(probe_for_segments(uri, segment_s, budget_s))
    except SampleError as error:
        return {"problem": str(error)}
