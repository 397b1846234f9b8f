"""Several processes that take one stale lease at the same moment, again and again.

``python -m tests.faults.takers STORE TAKERS TRIALS STALE_S FOLDER`` prints JSON: how often somebody was the holder, how
often two were at once, and in how many trials nobody was. Marks stand in FOLDER.
"""

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from mmray import storage
from mmray.errors import MmrayError
from mmray.tables import lease
from mmray.tables.store import open_store

HELD_S = 0.03


def stale(uri: str) -> None:
    """Leave a lease whose run died on another machine long ago."""
    store = open_store(uri)
    content = {"version": 1, "token": lease.token(store), "nonce": "dead", "run_id": "dead", "node": "another-machine"}
    storage.put(store.path(lease.FILE), json.dumps(content | {"pid": 1, "renewed": 0}).encode())
    if storage.is_remote(uri):
        time.sleep(lease.STALE_S + 1.1)  # object stores tell times in whole seconds
    else:
        os.utime(storage.local_path(store.path(lease.FILE)), (0, time.time() - 10 * lease.STALE_S))


def take(uri: str, number: int, trials: int, stale_s: float, barrier: Barrier, folder: str, answers: Any) -> None:
    """Be one of the takers."""
    lease.STALE_S = stale_s
    store = open_store(uri)
    held = at_once = 0
    for trial in range(trials):
        if number == 0:
            stale(uri)
        barrier.wait()
        try:
            with lease.hold(store, f"taker-{number}-{trial}"):
                mark = Path(folder) / "held"
                at_once += mark.exists()
                mark.touch()
                held += 1
                (Path(folder) / f"trial-{trial}").touch()
                time.sleep(HELD_S)
                mark.unlink(missing_ok=True)
        except MmrayError:
            pass  # another was faster
        barrier.wait()
    answers.put((held, at_once))


def main(uri: str, takers: int, trials: int, stale_s: float, folder: str) -> dict[str, int]:
    """Run all trials; returns the counts."""
    open_store(uri, create=True)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(takers), context.Queue()
    arguments = [(uri, number, trials, stale_s, barrier, folder, answers) for number in range(takers)]
    processes = [context.Process(target=take, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    counts = [answers.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    nobody = trials - len(list(Path(folder).glob("trial-*")))
    return {"held": sum(held for held, _ in counts), "at_once": sum(both for _, both in counts), "nobody": nobody}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])))
