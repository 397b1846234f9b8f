"""Processes that are killed, stopped or hang: the driver, actors, nodes, the head, and files that kill their reader."""

import os
import signal
import time
from typing import Any

import psutil

from tests.faults import corpus
from tests.faults.harness import Bench, Head, NeverError, Run, patience, wait_for
from tests.faults.interrupts import COMMIT, COMPACTION, POOL, finished, uncompacted
from tests.faults.table import Tally, fault, repeated

KILLS = 10
STOPPED_TIMEOUT_S = 5.0
GRACE_S = 60.0  # how long after timeout_s a stopped worker may live


def kill_after_commit(run: Run) -> None:
    """Start the run, and kill its driver as soon as it has committed more than was there."""
    before = {path.name for path in run.commits()}
    driver = run.start()
    wait_for(lambda: {path.name for path in run.commits()} - before or not driver.running, "a commit")
    if not driver.running:
        raise NeverError(f"the run ended before it could be killed: {driver.errors[-300:]}")
    driver.kill()


@fault("kill -9 of the driver after commits", subset=True)
def driver(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run:
        run.control.pace(0.3)
        for _ in range(KILLS):
            with repeated(tally):
                kill_after_commit(run)
        run.control.pace(0)
        finished(bench, tally, run)


def killed_at(bench: Bench, tally: Tally, steps: list[dict[str, Any]]) -> None:
    """Kill the driver of one store at each step, and finish it."""
    with bench.run(tally.fault, max_attempts=1) as run:
        for step in steps:
            with repeated(tally):
                run.struck("SIGKILL", **step)
        finished(bench, tally, run)


@fault("kill -9 of the driver while it commits")
def driver_commits(bench: Bench, tally: Tally) -> None:
    killed_at(bench, tally, COMMIT)


@fault("kill -9 of the driver while it pools")
def driver_pools(bench: Bench, tally: Tally) -> None:
    killed_at(bench, tally, POOL)


@fault("kill -9 of the driver while it compacts")
def driver_compacts(bench: Bench, tally: Tally) -> None:
    for run, step in zip(uncompacted(bench, tally), COMPACTION, strict=False):
        with repeated(tally):
            run.struck("SIGKILL", **step)
        finished(bench, tally, run)


@fault("kill -9 of an actor", subset=True)
def actor(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        run.control.hold()
        driver = run.start()
        with repeated(tally):
            victim = wait_for(run.working, "an actor at work")[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            run.control.free()
            tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


def of_three_nodes(bench: Bench) -> Head:
    """Start a cluster of three nodes; work needs all of them."""
    head = Head(cpus=2)
    head.add_node(1)
    head.add_node(1)
    return head


def victims(head: Head, run: Run) -> list[Any]:
    """Return the nodes, without the head, on which an actor is at work."""
    parents = {psutil.Process(note["pid"]).ppid() for note in run.working() if psutil.pid_exists(note["pid"])}
    return [node for node in head.cluster.worker_nodes if raylet(node) in parents]


def raylet(node: Any) -> int:
    """Return the process id of a node's raylet."""
    from ray._private import ray_constants

    return int(node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid)


@fault("kill -9 of one raylet of three")
def node_lost(bench: Bench, tally: Tally) -> None:
    head = of_three_nodes(bench)
    try:
        with bench.run(tally.fault, head=head, max_attempts=1, resources={"actors": 3, "decode_threads": 2}) as run:
            run.control.hold()
            driver = run.start()
            with repeated(tally):
                node = wait_for(lambda: victims(head, run), "work on a node beside the head")[0]
                os.kill(raylet(node), signal.SIGKILL)
                time.sleep(1)
                run.control.free()
                tally.ends(driver, 0)
            tally.compare(bench.reference(), run)
    finally:
        head.close()


@fault("a node that joins")
def node_joins(bench: Bench, tally: Tally) -> None:
    head = Head(cpus=2)
    try:
        with bench.run(tally.fault, head=head, resources={"decode_threads": 1}) as run:
            run.control.pace(2.0)
            driver = run.start()
            with repeated(tally):
                wait_for(run.working, "an actor at work")
                head.add_node(2)
                wait_for(lambda: victims(head, run) or not driver.running, "work on the node that joined")
                tally.expect(driver.running, "the node that joined stayed idle until the end")
                run.control.pace(0)
                tally.ends(driver, 0)
            tally.compare(bench.reference(), run)
    finally:
        head.close()


@fault("kill -9 of the GCS")
def head_lost(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run:
        head = Head()
        try:
            run.environment = run.environment | head.environment
            run.control.hold()
            driver = run.start()
            with repeated(tally):
                wait_for(run.working, "an actor at work")
                head.kill_gcs()
                tally.ends(driver, 3, "the same command")
        finally:
            head.close()
        run.control.free()
        run.environment = run.environment | bench.head.environment
        finished(bench, tally, run)


@fault("SIGSTOP of a worker")
def stopped(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, timeout_s=STOPPED_TIMEOUT_S) as run:
        run.control.hold()
        driver = run.start()
        with repeated(tally):
            victim = wait_for(run.working, "an actor at work")[0]["pid"]
            process = psutil.Process(victim)
            os.kill(victim, signal.SIGSTOP)
            run.control.free()
            try:
                limit_s = (STOPPED_TIMEOUT_S + GRACE_S) * patience()
                process.wait(limit_s)
            except psutil.TimeoutExpired:
                tally.expect(False, f"the stopped worker still stood there after {limit_s:g} s")
                os.kill(victim, signal.SIGKILL)
            tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


def with_file(bench: Bench, run: Run, name: str, value: float) -> None:
    """Give a run the corpus and one file more."""
    media = corpus.copied(bench.media, run.folder / "media")
    corpus.constant(media / name, value)
    run.keys["manifest"] = corpus.manifest_of(media, run.folder / "manifest.parquet")


def quarantined(bench: Bench, tally: Tally, run: Run, name: str, reason: str) -> None:
    """Check that a file is quarantined with a reason, and all others are as in an undisturbed run."""
    from tests.faults import oracle

    tables = oracle.read(run.path)
    tally.differ(oracle.compare(bench.reference(), tables.without({name})))
    statuses = {values[0][:2] for values in tables.only({name}).rows["ledger"].values()}
    tally.expect(statuses == {("failed", reason)}, f"{name} is {statuses or 'lost'}, not failed with {reason}")


@fault("a file that kills its process", subset=True)
def poison(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=2) as run:
        with_file(bench, run, corpus.POISON, 0.5)
        with repeated(tally):
            tally.ends(run.start(), 0)
            quarantined(bench, tally, run, corpus.POISON, "crashed")
        again = run.start()
        tally.ends(again, 0)
        tally.expect(again.result.get("nothing_to_do"), "the quarantined file was tried again")


@fault("a file that kills its process, and a killed driver")
def poison_and_driver(bench: Bench, tally: Tally) -> None:
    """The driver is killed after each death that counts: the deaths must be remembered across runs."""
    with bench.run(tally.fault, max_attempts=3) as run:
        with_file(bench, run, corpus.POISON, 0.5)
        run.control.pace(0.2)
        for _ in range(2):
            with repeated(tally):
                kill_after_death(run)
        run.control.pace(0)
        tally.ends(run.start(), 0)
        quarantined(bench, tally, run, corpus.POISON, "crashed")


def kill_after_death(run: Run) -> None:
    """Start the run, and kill its driver once an actor has died."""
    driver = run.start()
    wait_for(lambda: dead(run) or not driver.running, "a death")
    time.sleep(1)
    driver.kill()


def dead(run: Run) -> list[dict[str, Any]]:
    """Return the notes whose actor is gone."""
    return [note for note in run.notes() if not psutil.pid_exists(note["pid"])]


@fault("a file that hangs")
def tarpit(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=2, timeout_s=4) as run:
        with_file(bench, run, corpus.TARPIT, 0.25)
        with repeated(tally):
            tally.ends(run.start(), 0)
            quarantined(bench, tally, run, corpus.TARPIT, "timeout")
