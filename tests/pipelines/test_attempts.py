"""Only crashes count against a segment, never interruptions; what crashes again and again is quarantined."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmray.errors import MmrayError, Reason
from mmray.pipelines import attempts
from mmray.pipelines.attempts import CrashHistory, Key
from mmray.tables.store import Store
from tests.pipelines.conftest import wait_for

KEY: Key = ("a.mp4", "uri", 0, "i")
OTHER: Key = ("b.mp4", "uri", 0, "i")
# A worker of the run argv[2] on node argv[3] that begins the segments argv[4:] and waits for its end.
WORKER = """
import sys, time
from mmray.pipelines import attempts, watchdog
from mmray.tables.store import Store
watchdog.GRACE_S = 0.5
log = attempts.AttemptLog(Store(sys.argv[1]), sys.argv[2], 2.0, sys.argv[3])
log.begin([(name, "uri", 0, "i") for name in sys.argv[4:]])
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def dead_worker(store: Store) -> Callable[..., None]:
    """Return a function that starts a worker and ends it with a signal when it has begun its segments."""

    def end(number: signal.Signals, *samples: str, run: str = "r1", node: str = "n1", **variables: str) -> None:
        before = len(attempts.read(store))
        command = [sys.executable, "-c", WORKER, store.uri, run, node, *samples]
        with subprocess.Popen(command, env={**os.environ, **variables}) as worker:
            wait_for(lambda: len(attempts.read(store)) > before)
            if variables:
                time.sleep(1.5)  # until the watchdog has looked at the memory
            worker.send_signal(number)
            worker.wait(60)

    return end


def history(store: Store, run: str = "r1", key: Key = KEY, lost: tuple[str, ...] = ()) -> CrashHistory:
    return attempts.judge(store, run, [key], lost.__contains__)[key]


def test_a_crash_counts_once_and_survives_its_driver(store: Store, dead_worker: Callable[..., None]) -> None:
    dead_worker(signal.SIGSEGV, "a.mp4")
    assert history(store).crashes == 1
    assert "Segmentation fault" in history(store).words
    attempts.forget_interrupted(store)
    assert history(store, run="r2").crashes == 1
    dead_worker(signal.SIGKILL, "a.mp4", run="r2")
    again = history(store, run="r2")
    assert (again.crashes, again.reason) == (2, Reason.CRASHED)
    assert "died 2 times" in again.detail
    attempts.forget_all(store)
    assert history(store, run="r3") == CrashHistory(0, 0, False, "")


def test_the_death_of_a_driver_counts_against_no_segment(store: Store, dead_worker: Callable[..., None]) -> None:
    for run in ("r1", "r2", "r3"):
        dead_worker(signal.SIGKILL, "a.mp4", run=run)
    assert history(store, run="r4").crashes == 0
    attempts.forget_interrupted(store)
    assert attempts.read(store) == []


def test_a_lost_node_counts_against_no_segment(store: Store, dead_worker: Callable[..., None]) -> None:
    dead_worker(signal.SIGKILL, "a.mp4", node="gone")
    seen = history(store, lost=("gone",))
    assert (seen.crashes, seen.interruptions, seen.suspect) == (0, 1, False)


def test_a_crash_among_several_makes_suspects_that_run_alone(store: Store, dead_worker: Callable[..., None]) -> None:
    dead_worker(signal.SIGSEGV, "a.mp4", "b.mp4")
    assert (history(store).crashes, history(store).suspect) == (0, True)
    dead_worker(signal.SIGSEGV, "a.mp4")
    assert history(store).crashes == 2
    assert history(store, key=OTHER).crashes == 0


def test_a_stopped_worker_is_killed_and_counts_against_no_segment(
    store: Store, dead_worker: Callable[..., None]
) -> None:
    dead_worker(signal.SIGSTOP, "a.mp4")  # ends only because the outer watchdog kills it
    seen = history(store)
    assert (seen.crashes, seen.interruptions) == (0, 1)


def test_memory_that_others_used_up_counts_against_no_segment(store: Store, dead_worker: Callable[..., None]) -> None:
    dead_worker(signal.SIGKILL, "a.mp4", RAY_memory_usage_threshold="0.05")  # any machine uses more than nothing
    seen = history(store)
    assert (seen.crashes, seen.interruptions) == (0, 1)


def test_a_worker_that_hangs_ends_as_a_timeout(store: Store, dead_worker: Callable[..., None]) -> None:
    dead_worker(signal.SIGCONT, "a.mp4")
    assert (history(store).crashes, history(store).reason) == (1, Reason.TIMEOUT)


def test_endless_interruptions_end_the_run_with_advice(store: Store) -> None:
    seen = CrashHistory(0, attempts.MAX_INTERRUPTIONS, False, "")
    with pytest.raises(MmrayError, match=r"a\.mp4 was interrupted 20 times"):
        attempts.check_interruptions(seen, "a.mp4")


def test_a_stopped_task_of_probing_is_killed_from_outside() -> None:
    code = "import time; from mmray.pipelines import watchdog; watchdog.GRACE_S = 0.5; watchdog.guard(1.0); "
    code += "print('guarded', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as task:
        assert task.stdout is not None
        task.stdout.readline()
        task.send_signal(signal.SIGSTOP)
        assert task.wait(60) == -signal.SIGKILL
