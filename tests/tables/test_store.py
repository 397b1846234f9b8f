"""No store of the future is touched, and what is damaged is named."""

from pathlib import Path

import pyarrow as pa
import pytest

from mmray import storage
from mmray.errors import ConfigError, MmrayError
from mmray.tables.store import DamagedError, open_store


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    bucket: str = request.getfixturevalue("s3_bucket")
    return f"{bucket}/store"


def test_a_newer_store_and_a_folder_that_is_none_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="is not a store"):
        open_store(uri)
    storage.put(storage.join(uri, "store.json"), b'{"schema_version": 99}')
    with pytest.raises(MmrayError, match=r"newer mmray \(schema 99, this one knows 1\)") as caught:
        open_store(uri)
    assert not isinstance(caught.value, ConfigError)
    for broken in (b'{"schema_version": "one"}', b"[]", b'{"schema'):
        storage.put(storage.join(uri, "store.json"), broken)
        with pytest.raises(DamagedError, match=r"store\.json: is damaged"):
            open_store(uri)


def test_a_damaged_file_is_named(uri: str) -> None:
    store = open_store(uri, create=True)
    for data in (b"{", b"", b"\xff\xfe"):
        storage.put(store.path("a.json"), data)
        with pytest.raises(DamagedError, match=r"store/a\.json: is damaged, it is not JSON"):
            store.read_json("a.json")
    store.write(pa.table({"a": [1]}), "a.parquet")
    storage.put(store.path("a.parquet"), storage.read_bytes(store.path("a.parquet"))[:-9])
    with pytest.raises(DamagedError, match=r"store/a\.parquet: is damaged, it cannot be read as Parquet"):
        store.read("a.parquet")
