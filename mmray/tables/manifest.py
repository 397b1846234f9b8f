"""The manifest: one row per sample, made by scanning or read from a list."""

import json
import logging
import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mmray import storage
from mmray.config import nearest
from mmray.errors import ConfigError

VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg m2v ts m2ts mts vob flv f4v wmv asf 3gp 3g2 ogv mxf dv y4m mjpeg h264 hevc"
AUDIO = "wav mp3 flac ogg oga opus m4a aac wma aif aiff au caf amr ac3 mka mp2 w64 rf64"
IMAGE = "jpg jpeg png webp gif avif bmp tif tiff"
EXTENSIONS = frozenset(f".{name}" for name in f"{VIDEO} {AUDIO} {IMAGE}".split())
LISTS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
log = logging.getLogger(__name__)

HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON can say it, Unicode texts cannot hold it
TEXTS = ("sample_id", "uri", "source_tag", "label", "text", "split", "group")
NUMBERS = {"size_bytes": pa.int64(), "start_s": pa.float64(), "end_s": pa.float64()}


def gather(sources: Sequence[str], label_from_parent: bool = False) -> tuple[pa.Table, dict[str, int]]:
    """Make a manifest from folders, globs, files, URLs and lists; also count the files passed over, by extension.

    A scanned sample is named by its path relative to its source, with ``/`` and its extension; its label may be the
    name of the folder it stands in.
    """
    passed_over: dict[str, int] = {}
    tables = [_source(source, label_from_parent, passed_over) for source in sources]
    table = pa.concat_tables(tables, promote_options="permissive")
    if table.num_rows == 0:
        raise ConfigError(f"{', '.join(sources)}: no media found")
    return checked(table, ", ".join(sources)), passed_over


def _source(source: str, label_from_parent: bool, passed_over: dict[str, int]) -> pa.Table:
    if source.lower().endswith(LISTS) and not storage.is_folder(source):
        return read(source)
    if storage.is_folder(source):
        root, entries = source, storage.files(source)
    elif any(sign in source for sign in "*?[") and not storage.exists(source):
        root, entries = storage.glob_root(source), storage.glob(source)
    elif storage.exists(source):
        root, entries = storage.parent(source), [_seen(source)]
    else:
        raise ConfigError(f"{source}: there is no such file or folder")
    media = []
    for entry in entries:
        extension = f".{entry.uri.rpartition('.')[2].lower()}"
        if extension in EXTENSIONS:
            media.append(entry)
        else:
            passed_over[extension] = passed_over.get(extension, 0) + 1
    base = root.rstrip("/") if storage.is_remote(root) else str(storage.local_path(root).absolute())
    uris = [e.uri if storage.is_remote(e.uri) else str(storage.local_path(e.uri).absolute()) for e in media]
    columns = {
        "sample_id": pa.array([uri[len(base) :].lstrip("/") for uri in uris], pa.string()),
        "uri": pa.array(uris, pa.string()),
        "size_bytes": pa.array([entry.size_bytes for entry in media], pa.int64()),
        "source_tag": pa.array([entry.tag for entry in media], pa.string()),
    }
    if label_from_parent:
        columns["label"] = pa.array([storage.parent(uri).rpartition("/")[2] for uri in uris], pa.string())
    return pa.table(columns)


def _seen(uri: str) -> storage.Entry:
    entry = storage.entries([uri])[uri]
    if isinstance(entry, storage.Absent):
        raise ConfigError(f"{uri}: cannot be read: {entry.detail}")
    return entry


def read(uri: str) -> pa.Table:
    """Read a manifest or list (Parquet, CSV, TSV, JSONL); relative media paths become relative to its folder."""
    table = checked(parsed(uri), uri)
    if "uri" not in table.column_names:
        return table
    base = storage.parent(uri) or "."
    base = base if storage.is_remote(base) else str(storage.local_path(base).absolute())
    uris = [value and storage.anchored(value, base) for value in table["uri"].to_pylist()]
    return table.set_column(table.column_names.index("uri"), "uri", pa.array(uris, pa.string()))


def parsed(uri: str) -> pa.Table:
    """Read a list (Parquet, CSV, TSV, JSONL) as it stands."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise ConfigError(f"{uri}: there is no such manifest; `mmray manifest SOURCE -o {uri}` makes one") from None
    except OSError as error:
        raise ConfigError(f"{uri}: cannot be read: {error}") from None
    lower = uri.lower()
    try:
        if lower.endswith(".parquet"):
            return pq.read_table(BytesIO(data))
        if lower.endswith((".jsonl", ".ndjson")):
            return _jsonl(data.decode("utf-8-sig"), uri)
        if lower.endswith((".csv", ".tsv")):
            return csv_columns(lambda: BytesIO(data), "\t" if lower.endswith(".tsv") else ",")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: cannot be read: {error}") from None
    raise ConfigError(f"{uri}: not a manifest; give one of {', '.join(LISTS)}")


def csv_columns(opened: Callable[[], BinaryIO], delimiter: str = ",", only: Sequence[str] = ()) -> pa.Table:
    """Read columns (``only``, or all) of CSV: what TEXTS names is text, and nothing at all is null.

    Of texts a word such as NA, null or nan is null only where it stands without quotes, as R writes what is missing.
    """
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    kinds = dict.fromkeys(TEXTS, pa.string())

    def read(names: Sequence[str], quoted: bool) -> pa.Table:
        options = pyarrow.csv.ConvertOptions(
            include_columns=names, column_types=kinds, strings_can_be_null=True, quoted_strings_can_be_null=quoted
        )
        with opened() as file:
            return pyarrow.csv.read_csv(file, parse_options=parsing, convert_options=options)

    table = read(only, quoted=True)
    if texts := [name for name in TEXTS if table.column_names.count(name) == 1]:
        again = read(texts, quoted=False)
        for name in texts:
            words = pc.if_else(pc.equal(again[name], ""), None, again[name])
            table = table.set_column(table.column_names.index(name), name, words)
    return table


def _jsonl(text: str, uri: str) -> pa.Table:
    rows = []
    replaced = 0
    for number, line in enumerate(text.split("\n"), 1):  # strings may hold U+2028, which splitlines cuts at
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{uri}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{uri}: line {number} is not an object with keys")
        for name in [name for name, value in row.items() if isinstance(value, str) and HALF.search(value)]:
            if name == "sample_id":
                raise ConfigError(f"{uri}: line {number}: sample_id holds half a surrogate pair, which is no character")
            row[name] = HALF.sub("\N{REPLACEMENT CHARACTER}", row[name])
            replaced += 1
        rows.append(row)
    if replaced:
        log.warning("%s: %d value(s) held half of a surrogate pair, which now reads U+FFFD", uri, replaced)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [_plain(row.get(name), name) for row in rows] for name in names})


def _plain(value: object, name: str) -> object:
    """Return ids, labels and texts as text, so that a list may mix 7 and "7"."""
    return str(value) if name in TEXTS and value is not None and not isinstance(value, str) else value


def checked(table: pa.Table, where: str) -> pa.Table:
    """Return the table with the contract's types; missing and doubled ids are ConfigErrors that name the row."""
    if "sample_id" not in table.column_names:
        columns = ", ".join(table.column_names)
        raise ConfigError(f"{where}: the column 'sample_id' is missing (it has: {columns})")
    for place, name in enumerate(table.column_names):
        wanted = pa.string() if name in TEXTS else NUMBERS.get(name)
        if wanted is not None and table.schema.field(name).type != wanted:
            try:
                table = table.set_column(place, name, _without_nan(table[name]).cast(wanted))
            except pa.ArrowException as error:
                raise ConfigError(f"{where}: column {name!r}: {error}") from None
    _check_ids(table["sample_id"].to_pylist(), where)
    _check_parts(table, where)
    return table.combine_chunks()


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return null for NaN: as a text it would be a label, or a group that strangers share."""
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _check_ids(ids: list[str | None], where: str) -> None:
    first: dict[str, int] = {}
    for row, sample_id in enumerate(ids, 1):
        if sample_id is None or not sample_id.strip():
            raise ConfigError(f"{where}: row {row} has no sample_id")
        if sample_id in first:
            raise ConfigError(f"{where}: rows {first[sample_id]} and {row} have the same sample_id {sample_id!r}")
        first[sample_id] = row


def _check_parts(table: pa.Table, where: str) -> None:
    if not {"start_s", "end_s"} & set(table.column_names):
        return
    nothing = pa.nulls(table.num_rows, pa.float64())
    start = table["start_s"] if "start_s" in table.column_names else nothing
    end = table["end_s"] if "end_s" in table.column_names else nothing
    start = pc.fill_null(start, 0.0)
    wrong = pc.or_(pc.less(start, 0.0), pc.fill_null(pc.less_equal(end, start), False))
    for row, bad in enumerate(wrong.to_pylist(), 1):
        if bad:
            raise ConfigError(f"{where}: row {row}: start_s must be at least 0 and less than end_s")


def labelled(table: pa.Table, column: str) -> pa.Table:
    """Take a column as the label."""
    if column not in table.column_names:
        raise ConfigError(f"--label-from {column}: no such column{nearest(column, table.column_names)}")
    labels = _without_nan(table[column]).cast(pa.string())
    return table.drop_columns(["label"] if "label" in table.column_names else []).append_column("label", labels)


def joined(table: pa.Table, file: str, on: str) -> tuple[pa.Table, int]:
    """Add the columns of a list to a manifest where its column ``on`` names the sample; also count rows left bare."""
    extra = parsed(file)
    if on not in extra.column_names:
        raise ConfigError(f"--on {on}: {file} has no such column{nearest(on, extra.column_names)}")
    own = on if on in table.column_names else "sample_id"
    keys = [str(key) for key in extra[on].to_pylist()]
    places = {key: place for place, key in enumerate(keys)}
    if len(places) < len(keys):
        twice = next(key for place, key in enumerate(keys) if places[key] != place)
        raise ConfigError(f"{file}: {on} {twice!r} stands in two rows")
    found = [places.get(str(key)) for key in table[own].to_pylist()]
    if all(place is None for place in found):
        raise ConfigError(f"--join {file}: no value of {on!r} is a {own} of the manifest, such as {table[own][0]}")
    for name in extra.column_names:
        if name in {on, "sample_id", "uri"}:
            continue
        column = extra[name].take(pa.array(found, pa.int64()))
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, column)
    return checked(table, file), found.count(None)
