"""The store: one folder or URL prefix that holds every table of a corpus."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import ConfigError, MmrayError, in_words

SCHEMA_VERSION = 1
OUTS = {
    "store.json": "a store", "study.json": "a study", "results.json": "a cross-modal study",
    "train.json": "trained networks",
}  # fmt: skip


class DamagedError(MmrayError):
    """A file cannot be read as what it should be; ``uri`` names it."""

    def __init__(self, uri: str, words: str) -> None:
        mend = f"; `mmray verify {store}` says what can be repaired" if (store := _store_of(uri)) else ""
        super().__init__(f"{uri}: is damaged, {words}{mend}")
        self.uri, self.words = uri, words


def _store_of(uri: str) -> str | None:
    """Return the store that a file stands in, None where it stands in none."""
    folder = uri
    for _ in range(4):  # STORE/features/extractor=ID/pooling=P/part-0.parquet
        folder = storage.parent(folder)
        with contextlib.suppress(OSError):
            if storage.exists(storage.join(folder, "store.json")):
                return folder
    return None


@dataclass(frozen=True, slots=True)
class Store:
    """Where things stand in a store."""

    uri: str

    def path(self, *parts: str) -> str:
        """Return the URI of something in the store."""
        return storage.join(self.uri, *parts)

    def read(self, *parts: str) -> pa.Table | None:
        """Read a Parquet table of the store; None where there is none yet, DamagedError where it is none."""
        try:
            return read_parquet(self.path(*parts))
        except FileNotFoundError:
            return None

    def read_json(self, *parts: str) -> dict[str, Any] | None:
        """Read a JSON file of the store; None where there is none yet, DamagedError where it holds no JSON object."""
        try:
            data = json.loads(storage.read_bytes(self.path(*parts)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedError(self.path(*parts), f"it is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise DamagedError(self.path(*parts), "it holds no JSON object")
        return data

    def write_json(self, data: dict[str, Any], *parts: str) -> None:
        """Write a JSON file in one step."""
        storage.put(self.path(*parts), json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True).encode())

    def write(self, table: pa.Table, *parts: str) -> None:
        """Write a Parquet table in one step."""
        write_parquet(table, self.path(*parts))


def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file (never as part of a dataset: folders like ``extractor=ID`` add no column)."""
    with storage.open_read(uri) as file, named_damage(uri):
        return pq.ParquetFile(file).read(columns=columns)


@contextmanager
def named_damage(uri: str) -> Iterator[None]:
    """Turn what pyarrow raises about the content of a Parquet file into DamagedError; faults of storage stay."""
    try:
        yield
    except pa.ArrowException as error:
        raise DamagedError(uri, f"it cannot be read as Parquet: {error}") from None
    except OSError as error:  # pyarrow's own have no number: corrupt pages, a footer cut off
        if type(error) is not OSError or error.errno is not None or error.__cause__ is not None:
            raise
        raise DamagedError(uri, f"it cannot be read as Parquet: {error}") from None


def write_parquet(table: pa.Table, uri: str) -> int:
    """Write one Parquet file (zstd) in one step; returns its size in bytes."""
    buffer = BytesIO()
    pq.write_table(plain(table), buffer, compression="zstd")
    storage.put(uri, buffer.getvalue())
    return buffer.tell()


def plain(table: pa.Table) -> pa.Table:
    """Return the table with plain strings: polars writes large and view strings, which not every reader knows."""
    wide = (pa.large_string(), pa.string_view())
    fields = [field.with_type(pa.string()) if field.type in wide else field for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def open_store(uri: str, create: bool = False) -> Store:
    """Open a store and check its version.

    ConfigError for a folder that is no store, MmrayError for a store of a newer mmray, DamagedError where store.json
    cannot be read.
    """
    store = Store(uri.rstrip("/") or "/")
    try:
        about = store.read_json("store.json")
    except OSError as error:
        raise _error(error)(f"{uri}: the store cannot be opened: {in_words(error)}") from None
    if about is None:
        if not create:
            raise ConfigError(f"{uri}: is not a store (it has no store.json); `mmray extract` makes one")
        about = {"schema_version": SCHEMA_VERSION, "made_by": "mmray"}
        try:
            store.write_json(about, "store.json")
        except OSError as error:
            raise _error(error)(f"{uri}: the store cannot be made: {in_words(error)}") from None
    version = about.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise DamagedError(store.path("store.json"), f"its schema_version is {version!r}, not a whole number")
    if version > SCHEMA_VERSION:
        known = f"schema {version}, this one knows {SCHEMA_VERSION}"
        raise MmrayError(f"{uri}: was written by a newer mmray ({known}); update mmray to read it")
    return store


def _error(error: OSError) -> type[MmrayError]:
    """Return MmrayError for what may pass (a server that is away, a full disk), ConfigError for what will not."""
    passes = isinstance(error, storage.UnavailableError) or error.errno in storage.DISK_FULL
    return MmrayError if passes else ConfigError


def open_out(uri: str, own: str, config: str) -> Store:
    """Open the folder that a verb puts results into; ConfigError where it holds those of another kind than ``own``.

    ``own``: the file that marks this kind, a key of OUTS; ``config``: where ``out`` stands, which the error names.
    """
    out = Store(storage.absolute(uri))
    for file, what in OUTS.items():
        if file != own and storage.exists(out.path(file)):
            mend = "give what comes of this one a folder of its own"
            raise ConfigError(f"{config}: out: {out.uri} holds {what} ({file}): {mend}")
    return out
