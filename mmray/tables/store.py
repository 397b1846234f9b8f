"""The store: one folder or URL prefix that holds every table of a corpus."""

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray import storage
from mmray.errors import ConfigError

SCHEMA_VERSION = 1
OUTS = {
    "store.json": "a store", "study.json": "a study", "results.json": "a cross-modal study",
    "train.json": "trained networks",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Store:
    """Where things stand in a store."""

    uri: str

    def path(self, *parts: str) -> str:
        """Return the URI of something in the store."""
        return storage.join(self.uri, *parts)

    def read(self, *parts: str) -> pa.Table | None:
        """Read a Parquet table of the store; None where there is none yet, ConfigError where it is damaged."""
        try:
            return read_parquet(self.path(*parts))
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{self.path(*parts)}: is damaged, it cannot be read as Parquet: {error}") from None

    def read_json(self, *parts: str) -> dict[str, Any] | None:
        """Read a JSON file of the store; None where there is none yet, ConfigError where it is damaged."""
        try:
            data = json.loads(storage.read_bytes(self.path(*parts)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{self.path(*parts)}: is damaged, it is not JSON: {error}") from None
        return data if isinstance(data, dict) else None

    def write_json(self, data: dict[str, Any], *parts: str) -> None:
        """Write a JSON file in one step."""
        storage.put(self.path(*parts), json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True).encode())

    def write(self, table: pa.Table, *parts: str) -> None:
        """Write a Parquet table in one step."""
        write_parquet(table, self.path(*parts))


def read_parquet(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file (never as part of a dataset: folders like ``extractor=ID`` add no column)."""
    with storage.open_read(uri) as file:
        return pq.ParquetFile(file).read(columns=columns)


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
    """Open a store and check its version; a folder that is no store is a ConfigError."""
    store = Store(uri.rstrip("/") or "/")
    try:
        about = store.read_json("store.json")
    except OSError as error:
        raise ConfigError(f"{uri}: the store cannot be opened: {error}") from None
    if about is None:
        if not create:
            raise ConfigError(f"{uri}: is not a store (it has no store.json); `mmray extract` makes one")
        about = {"schema_version": SCHEMA_VERSION, "made_by": "mmray"}
        try:
            store.write_json(about, "store.json")
        except OSError as error:
            raise ConfigError(f"{uri}: the store cannot be made: {error}") from None
    if about.get("schema_version", 0) > SCHEMA_VERSION:
        found = about["schema_version"]
        raise ConfigError(f"{uri}: was written by a newer mmray (schema {found}, this one knows {SCHEMA_VERSION})")
    return store


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
