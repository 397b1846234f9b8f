"""One writer at a time, whatever clocks, storage and suspended processes do."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmray import storage, storage_cas
from mmray.errors import MmrayError
from mmray.tables import lease, ledger
from mmray.tables.lease import LeaseLostError
from mmray.tables.store import Store, open_store
from tests.tables import takers
from tests.tables.test_ledger import row

TAKERS = 8


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "store"), create=True)
    bucket: str = request.getfixturevalue("s3_bucket")
    return open_store(f"{bucket}/store", create=True)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


def wait_for(reached: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def put_lease(store: Store, **content: Any) -> None:
    about = json.loads(lease.ticket("earlier", 1, "n")) | content
    storage.put(store.path("lock.json"), json.dumps(about).encode())


def content(store: Store) -> dict[str, Any]:
    return dict(json.loads(storage.read_bytes(store.path("lock.json"))))


def one_row(sample: str) -> pa.Table:
    return pa.Table.from_pylist([row(sample)], ledger.SCHEMA)


def test_a_second_run_is_refused_and_names_the_first(store: Store) -> None:
    with lease.hold(store, "run-one") as held:
        assert held.note is None
        with pytest.raises(MmrayError, match=rf"run-one .*process {os.getpid()}"), lease.hold(store, "run-two"):
            pass
    with lease.hold(store, "run-two"):
        pass
    assert store.read_json("lock.json") is None
    assert lease.holder(store) is None


def test_the_lease_of_a_killed_process_is_taken_over_and_said(local: Store) -> None:
    dying = "import os, sys; from mmray.tables import lease; from mmray.tables.store import open_store; "
    dying += "held = lease.hold(open_store(sys.argv[1]), 'dead'); held.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", dying, local.uri], check=False).returncode == 9
    assert lease.holder(local) is None
    with lease.hold(local, "alive") as held:
        assert held.note is not None
        assert "dead" in held.note
        assert held.token == 2


def test_a_lease_that_was_never_finished_is_taken_over(store: Store) -> None:
    storage.put(store.path("lock.json"), b"")
    with lease.hold(store, "mine") as held:
        assert held.note is not None
        assert "took over the lease of the dead run unknown" in held.note
    assert store.read_json("lock.json") is None


def test_the_process_number_of_a_dead_run_may_be_that_of_another_program(store: Store) -> None:
    put_lease(store, pid=os.getpid(), started="1")
    with lease.hold(store, "mine") as held:
        assert held.note is not None


def test_the_token_grows_with_every_holder(store: Store) -> None:
    tokens = []
    for number in range(3):
        with lease.hold(store, f"run-{number}") as held:
            tokens.append(held.token)
            assert content(store)["token"] == held.token
    assert tokens == [1, 2, 3]
    storage.delete([store.path("generation.json")])
    store.write(one_row("a"), "ledger", "part-00000041-run-000001.parquet")
    with lease.hold(store, "later") as held:
        assert held.token == 42


def test_a_token_that_another_run_got_meanwhile_is_not_given_out_again(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease.hold(local, "between"):
        pass
    true, answers = lease.token, iter([0])
    monkeypatch.setattr(lease, "token", lambda store: next(answers, None) or true(store))
    with lease.hold(local, "slow") as held:
        assert held.token == 2
        assert content(local)["token"] == 2
        held.check()


def test_a_run_that_was_overtaken_before_it_began_lowers_no_token(local: Store) -> None:
    with lease.hold(local, "slow") as slow:
        pass
    with lease.hold(local, "fast") as fast:
        slow.token = fast.token - 1
        assert not lease._registered(slow)
        assert lease.stored_token(local) == fast.token
        fast.check()


def test_of_eight_runs_that_find_a_stale_lease_just_one_becomes_holder(local: Store, s3_bucket: str) -> None:
    stores = [local] * 30 + [open_store(f"{s3_bucket}/store", create=True)] * 5
    trials = [(trial, store.uri) for trial, store in enumerate(stores)]
    context = multiprocessing.get_context("spawn")
    barrier, outcomes = context.Barrier(TAKERS + 1), context.Queue()
    processes = [context.Process(target=takers.take, args=(n, trials, barrier, outcomes)) for n in range(TAKERS)]
    for process in processes:
        process.start()
    dead, tokens = dead_process(), []
    try:
        for trial, store in enumerate(stores):
            put_lease(store, pid=dead, token=lease.token(store))
            for _ in range(3):  # all begin; all know who has it; the holder has let go
                barrier.wait(120)
            found = [outcomes.get(timeout=60) for _ in range(TAKERS)]
            assert {number for number, _ in found} == {trial}
            tokens.append([token for _, token in found if token is not None])
    finally:
        barrier.abort()
        for process in processes:
            process.join(60)
    assert [len(holders) for holders in tokens] == [1] * len(stores)
    for store in (local, stores[-1]):
        own = [holders[0] for holders, used in zip(tokens, stores, strict=True) if used is store]
        assert own == sorted(set(own)), "a token was given out twice"


@pytest.mark.parametrize("skew_s", [130, -130])
def test_clocks_of_machines_decide_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    true = time.time
    with lease.hold(store, "first"):
        about = content(store)
    storage.put(store.path("lock.json"), json.dumps(about | {"node": "another-machine"}).encode())
    monkeypatch.setattr(time, "time", lambda: true() + skew_s)
    with pytest.raises(MmrayError, match="first"), lease.hold(store, "second"):
        pass
    put_lease(store, node="another-machine", renewed=true() + 10 * skew_s)
    assert lease.holder(store) is not None
    monkeypatch.setattr(lease, "STALE_S", -5.0)  # as if the storage's clock had gone on
    with lease.hold(store, "second") as held:
        assert held.note is not None


def test_the_lease_of_another_machine_is_stale_after_two_minutes_of_the_storage(local: Store) -> None:
    put_lease(local, node="another-machine", run_id="far", renewed=0)
    now = Path(local.path("lock.json")).stat().st_mtime
    os.utime(local.path("lock.json"), (now, now - lease.STALE_S / 2))
    with pytest.raises(MmrayError, match="another-machine"), lease.hold(local, "near"):
        pass
    os.utime(local.path("lock.json"), (now, now - 2 * lease.STALE_S))
    with lease.hold(local, "near") as held:
        assert held.note is not None
        assert "far" in held.note


@pytest.mark.parametrize("node", [socket.gethostname(), "another-machine"])
def test_a_lock_of_an_older_mmray_is_understood(local: Store, node: str) -> None:
    old = {"run_id": "old", "node": node, "pid": os.getpid(), "renewed": time.time()}
    storage.put(local.path("lock.json"), json.dumps(old).encode())
    with pytest.raises(MmrayError, match="the run old"), lease.hold(local, "new"):
        pass
    os.utime(local.path("lock.json"), (0, 0))
    with lease.hold(local, "new") as held:
        assert held.note is not None


def test_a_lock_of_a_newer_mmray_is_refused_in_one_sentence(store: Store) -> None:
    put_lease(store, version=2)
    with pytest.raises(MmrayError, match=r"lock\.json: was written by another version"), lease.hold(store, "mine"):
        pass
    assert content(store)["version"] == 2


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.04)


def test_renewals_that_fail_are_tried_again_and_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast(monkeypatch)
    true, calls = storage_cas.compare_and_swap, []

    def failing(*given: Any) -> str | None:
        calls.append(given)
        if 3 <= len(calls) <= 8:
            raise ConnectionResetError("the storage is away")
        return true(*given)

    monkeypatch.setattr(lease, "compare_and_swap", failing)
    with lease.hold(store, "steady") as held:
        wait_for(lambda: len(calls) > 12)
        held.check()
        assert lease.holder(store) is not None
    said = [record.message for record in caplog.records if "could not be renewed" in record.message]
    assert len(said) == 1
    assert "the storage is away" in said[0]
    assert store.read_json("lock.json") is None


def test_a_response_that_is_lost_costs_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    true, lost = storage_cas.compare_and_swap, []

    def losing(*given: Any) -> str | None:
        tag = true(*given)
        if given[1] is not None and given[0].endswith("lock.json") and len(lost) < 3:
            lost.append(tag)
            raise ConnectionResetError("the response is lost")
        return tag

    monkeypatch.setattr(lease, "compare_and_swap", losing)
    with lease.hold(store, "steady") as held:
        wait_for(lambda: len(lost) == 3 and held._failures == 0)
        held.check()
    assert store.read_json("lock.json") is None


def test_a_lost_response_of_the_object_store_is_recognised(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, _ = storage._remote(s3_bucket)
    true, lost = fs.call_s3, []

    def losing(method: str, **named: Any) -> Any:
        result = true(method, **named)
        if method == "put_object":
            lost.append(named["Key"])
            raise ConnectionResetError("the response is lost")
        return result

    monkeypatch.setattr(fs, "call_s3", losing)
    uri = f"{s3_bucket}/store/a"
    tag = storage_cas.compare_and_swap(uri, None, b"mine")
    assert tag is not None
    assert storage_cas.compare_and_swap(uri, None, b"of another") is None
    assert storage_cas.compare_and_swap(uri, tag, b"mine too") is not None
    assert storage.read_bytes(uri) == b"mine too"
    with lease.hold(Store(f"{s3_bucket}/store"), "steady") as held:
        held.check()
    assert len(lost) >= 4


def test_without_an_answer_of_the_storage_a_run_stops_before_another_may_take_over(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, ahead_s = lease.now_s, [0.0]
    monkeypatch.setattr(lease, "now_s", lambda: true() + ahead_s[0])
    with lease.hold(local, "cut off") as held:
        with monkeypatch.context() as away:

            def failing(*_: Any) -> None:
                raise ConnectionResetError("the storage is away")

            away.setattr(lease, "compare_and_swap", failing)
            ahead_s[0] = lease.CHECK_S + 1
            held.check()  # nobody can have taken over yet
            ahead_s[0] = lease.STALE_S - lease.MARGIN_S + 1
            with pytest.raises(LeaseLostError, match=r"could not be renewed for 9\d s"):
                held.check()
            with pytest.raises(LeaseLostError):
                ledger.append(local, one_row("a"), "cut off", 1, held)
        ledger.append(local, one_row("b"), "cut off", 2, held)  # it answers again: this run is still the holder
    assert ledger.read(local)["sample_id"].to_list() == ["b"]


CHILD = """
import sys
import pyarrow as pa
from mmray.tables import lease, ledger
from mmray.tables.store import open_store
from tests.tables.test_lease import one_row

store = open_store(sys.argv[1])
lease.CHECK_S = 1.0
with lease.hold(store, "suspended") as held:
    ledger.append(store, one_row("before"), "suspended", 1, held)
    print("held", flush=True)
    input()
    for write in (
        lambda: ledger.append(store, one_row("after"), "suspended", 2, held),
        lambda: ledger.compact(store, ledger.read(store), ledger.parts(store), "suspended", held),
    ):
        try:
            write()
        except lease.LeaseLostError as error:
            print(error, flush=True)
"""


def test_a_run_that_was_suspended_wakes_up_and_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_S", 2.0)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        child.send_signal(signal.SIGSTOP)
        wait_for(lambda: lease.holder(store) is None)
        with lease.hold(store, "next") as held:
            assert held.note is not None
            ledger.append(store, one_row("between"), "next", 1, held)
            files = ledger.parts(store)
            child.send_signal(signal.SIGCONT)
            out, _ = child.communicate("\n", timeout=60)
            assert out.count("the run next took over this store while this run was suspended") == 2
            held.check()
            assert content(store)["run_id"] == "next"
            assert ledger.parts(store) == files
    finally:
        child.kill()
        child.wait()
    assert store.read_json("lock.json") is None


def test_a_lease_file_that_was_deleted_is_written_again_but_not_a_store(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "CHECK_S", 0.0)
    with lease.hold(local, "mine") as held:
        storage.delete([local.path("lock.json")])
        held.check()
        assert content(local)["token"] == held.token
        shutil.rmtree(local.uri)
        with pytest.raises(LeaseLostError, match="its lease is gone"):
            held.check()
    assert not Path(local.uri).exists()


def test_a_lease_that_was_deleted_and_taken_by_another_run_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "CHECK_S", 0.0)
    with lease.hold(store, "mine") as held:
        storage.delete([store.path("lock.json")])
        with lease.hold(store, "other"):
            pass
        with pytest.raises(LeaseLostError, match="its lease is gone"):
            held.check()
        assert store.read_json("lock.json") is None


def test_swaps_of_many_threads_lose_nothing(store: Store) -> None:
    uri = store.path("count.json")
    assert storage_cas.compare_and_swap(uri, None, b"0 first")
    wins: list[int] = []

    def count(number: int) -> None:
        for _ in range(4):
            data, tag = storage_cas.read_tagged(uri)
            value = int(data.split()[0])
            if storage_cas.compare_and_swap(uri, tag, f"{value + 1} {number}".encode()):
                wins.append(value)

    threads = [threading.Thread(target=count, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(storage.read_bytes(uri).split()[0]) == len(wins) == len(set(wins))


def test_what_a_lease_leaves_is_in_no_listing(local: Store) -> None:
    with lease.hold(local, "mine"):
        lease.holder(local)
    assert [entry.uri.rpartition("/")[2] for entry in storage.files(local.uri)] == ["generation.json", "store.json"]
    assert storage.temporary_files(local.uri) == []
