"""One writer at a time, and no store of the future is touched."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from mmray import storage
from mmray.errors import ConfigError, MmrayError
from mmray.tables import store as stores
from mmray.tables.store import locked, open_store


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    bucket: str = request.getfixturevalue("s3_bucket")
    return f"{bucket}/store"


def test_a_second_run_is_refused_and_names_the_first(uri: str) -> None:
    store = open_store(uri, create=True)
    with locked(store, "run-one") as note:
        assert note is None
        with pytest.raises(MmrayError, match="run-one"), locked(store, "run-two"):
            pass
    with locked(store, "run-two"):
        pass
    assert store.read_json("lock.json") is None


def test_the_lock_of_a_dead_process_is_taken_over_and_said(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    dying = "import os, sys; from mmray.tables.store import locked, open_store; "
    dying += "held = locked(open_store(sys.argv[1]), 'dead'); held.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=False).returncode == 9
    with locked(store, "alive") as note:
        assert note is not None
        assert "dead" in note


def test_the_lock_of_another_machine_is_stale_after_two_minutes(uri: str) -> None:
    store = open_store(uri, create=True)
    ticket = {"run_id": "far", "node": "another-machine", "pid": 1, "renewed": time.time() - stores.STALE_S / 2}
    storage.put(store.path("lock.json"), json.dumps(ticket).encode())
    with pytest.raises(MmrayError, match="another-machine"), locked(store, "near"):
        pass
    storage.put(store.path("lock.json"), json.dumps(ticket | {"renewed": time.time() - 2 * stores.STALE_S}).encode())
    with locked(store, "near") as note:
        assert note is not None
        assert "far" in note


def test_a_lock_that_was_never_finished_is_taken_over(uri: str) -> None:
    store = open_store(uri, create=True)
    storage.put(store.path("lock.json"), b"")
    with locked(store, "mine") as note:
        assert note is not None
        assert "took over the lock of the dead run unknown" in note
    assert store.read_json("lock.json") is None


def test_a_newer_store_and_a_folder_that_is_none_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="is not a store"):
        open_store(uri)
    storage.put(storage.join(uri, "store.json"), b'{"schema_version": 99}')
    with pytest.raises(ConfigError, match="newer mmray"):
        open_store(uri)


def test_a_damaged_file_is_named(uri: str) -> None:
    store = open_store(uri, create=True)
    for data in (b"{", b"", b"\xff\xfe"):
        storage.put(store.path("a.json"), data)
        with pytest.raises(ConfigError, match=r"store/a\.json: is damaged, it is not JSON"):
            store.read_json("a.json")
    store.write(pa.table({"a": [1]}), "a.parquet")
    storage.put(store.path("a.parquet"), storage.read_bytes(store.path("a.parquet"))[:-9])
    with pytest.raises(ConfigError, match=r"store/a\.parquet: is damaged, it cannot be read as Parquet"):
        store.read("a.parquet")
