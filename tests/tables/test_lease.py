"""One writer at a time, whatever clocks, storage and suspended processes do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmray import storage
from mmray.errors import MmrayError
from mmray.tables import lease
from mmray.tables.store import Store, open_store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"), create=True)
    bucket: str = request.getfixturevalue("s3_bucket")
    return open_store(f"{bucket}/store", create=True)


def test_a_second_run_is_refused_and_names_the_first(store: Store) -> None:
    with lease.hold(store, "run-one") as held:
        assert held.note is None
        with pytest.raises(MmrayError, match="run-one"), lease.hold(store, "run-two"):
            pass
    with lease.hold(store, "run-two"):
        pass
    assert store.read_json("lock.json") is None


def test_the_lease_of_a_dead_process_is_taken_over_and_said(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    dying = "import os, sys; from mmray.tables import lease; from mmray.tables.store import open_store; "
    dying += "held = lease.hold(open_store(sys.argv[1]), 'dead'); held.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=False).returncode == 9
    with lease.hold(store, "alive") as held:
        assert held.note is not None
        assert "dead" in held.note


def test_a_lease_that_was_never_finished_is_taken_over(store: Store) -> None:
    storage.put(store.path("lock.json"), b"")
    with lease.hold(store, "mine") as held:
        assert held.note is not None
        assert "took over the lease of the dead run unknown" in held.note
    assert store.read_json("lock.json") is None


def test_the_token_grows_with_every_holder(store: Store) -> None:
    tokens = []
    for number in range(3):
        with lease.hold(store, f"run-{number}") as held:
            tokens.append(held.token)
            assert json.loads(storage.read_bytes(store.path("lock.json")))["token"] == held.token
    assert tokens == [1, 2, 3]
