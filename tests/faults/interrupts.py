"""Ctrl-C four times at each stage: exit code 130 within 10 s, nobody is blamed, and the same command goes on."""

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.harness import Bench, Driver, Run, wait_for
from tests.faults.table import Tally, fault, repeated

TIMES = 4
END_S = 10.0
WRITES = ["mmray.storage:put", "mmray.storage:delete"]
Press = Callable[[Run, int, random.Random], tuple[Driver, float]]


# Where the signal comes, each time elsewhere in the stage.
START = [
    {"at": ["mmray.tables.store:open_store"]},
    {"at": ["mmray.pipelines.state:look"], "when": "after"},
    {"at": ["mmray.pipelines.cluster:_start"], "delay_s": 0.5},
    {"at": ["mmray.pipelines.cluster:_start"], "when": "after"},
]
PROBE = [
    {"at": ["mmray.pipelines.state:probed"], "delay_s": 0.2},
    {"at": ["mmray.pipelines.state:probed"], "delay_s": 0.8},
    {"at": ["mmray.storage:put"], "inside": "mmray.pipelines.state:probed"},
    {"at": ["mmray.storage:put"], "inside": "mmray.pipelines.state:probed", "number": 2, "when": "after"},
]
COMMIT = [
    {"at": ["mmray.tables.ledger:append"]},
    {"at": ["mmray.storage:put"], "inside": "mmray.tables.ledger:append"},
    {"at": ["mmray.storage:put"], "inside": "mmray.tables.ledger:append", "when": "after"},
    {"at": ["mmray.tables.ledger:append"], "when": "after"},
]
POOL = [
    {"at": ["mmray.pipelines.pool:pooled"], "number": 1},
    {"at": ["mmray.pipelines.pool:pooled"], "number": 2, "when": "after"},
    {"at": ["mmray.storage:put"], "inside": "mmray.pipelines.pool:run", "number": 1},
    {"at": ["mmray.storage:put"], "inside": "mmray.pipelines.pool:run", "number": 2, "when": "after"},
]
COMPACTION = [
    {"at": ["mmray.pipelines.tidy:windows_and_ledger"]},
    {"at": WRITES, "inside": "mmray.pipelines.tidy:windows_and_ledger", "number": 1},
    {"at": WRITES, "inside": "mmray.pipelines.tidy:windows_and_ledger", "number": 1, "when": "after"},
    {"at": WRITES, "inside": "mmray.pipelines.tidy:windows_and_ledger", "number": 2},
]


def interrupted(tally: Tally, driver: Driver, seconds: float) -> None:
    """Check how a run ended that was interrupted."""
    from tests.faults.harness import patience

    tally.ends(driver, 130, "interrupted", "the same command")
    tally.expect(seconds < END_S * patience(), f"it took {seconds:.1f} s to end")


def at_steps(bench: Bench, tally: Tally, steps: list[dict[str, Any]], embedded: bool = False) -> None:
    """Interrupt one store four times, each at another step, and finish it."""
    with bench.run(tally.fault, embedded=embedded, max_attempts=1) as run:
        for step in steps:
            with repeated(tally):
                interrupted(tally, *run.struck("SIGINT", **step))
        finished(bench, tally, run)


def finished(bench: Bench, tally: Tally, run: Run) -> None:
    """Run the same command to its end; its tables must be those of an undisturbed run."""
    tally.ends(run.start(), 0)
    tally.compare(bench.reference(), run)


def held(bench: Bench, tally: Tally, name: str, begun: Callable[[Run], Any]) -> None:
    """Interrupt one store four times while all actors stand still, and finish it."""
    with bench.run(tally.fault, max_attempts=1) as run:
        for _ in range(TIMES):
            run.control.hold(name)
            driver = run.start()
            with repeated(tally):
                wait_for(lambda: begun(run), f"an actor at work ({name})")
                interrupted(tally, driver, driver.interrupt())
        run.control.free(name)
        finished(bench, tally, run)


@fault("Ctrl-C while it starts")
def while_starting(bench: Bench, tally: Tally) -> None:
    at_steps(bench, tally, START)


@fault("Ctrl-C while it starts a Ray of its own")
def while_starting_ray(bench: Bench, tally: Tally) -> None:
    at_steps(bench, tally, START[2:], embedded=True)


@fault("Ctrl-C while it probes")
def while_probing(bench: Bench, tally: Tally) -> None:
    at_steps(bench, tally, PROBE)


@fault("Ctrl-C while models are loaded")
def while_loading(bench: Bench, tally: Tally) -> None:
    held(bench, tally, "hold_load", lambda run: run.notes())


@fault("Ctrl-C while segments are decoded", subset=True)
def while_decoding(bench: Bench, tally: Tally) -> None:
    held(bench, tally, "hold", lambda run: run.working())


@fault("Ctrl-C while it commits")
def while_committing(bench: Bench, tally: Tally) -> None:
    at_steps(bench, tally, COMMIT)


@fault("Ctrl-C while it pools")
def while_pooling(bench: Bench, tally: Tally) -> None:
    at_steps(bench, tally, POOL)


def uncompacted(bench: Bench, tally: Tally) -> Iterator[Run]:
    """Yield runs whose store is extracted, and was killed before it was compacted."""
    with bench.run(f"{tally.fault} before", max_attempts=1) as first:
        first.struck("SIGKILL", at=["mmray.pipelines.tidy:windows_and_ledger"])
        for number in range(TIMES):
            with bench.run(f"{tally.fault} {number}", max_attempts=1) as run:
                shutil.copytree(first.path, run.path)
                yield run


@fault("Ctrl-C while it compacts")
def while_compacting(bench: Bench, tally: Tally) -> None:
    for run, step in zip(uncompacted(bench, tally), COMPACTION, strict=False):
        with repeated(tally):
            interrupted(tally, *run.struck("SIGINT", **step))
        finished(bench, tally, run)


@fault("SIGTERM, as a scheduler sends it")
def terminated(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run:
        run.control.hold()
        driver = run.start()
        with repeated(tally):
            wait_for(run.working, "an actor at work")
            driver.signal(signal.SIGTERM)
            tally.ends(driver, 130, "interrupted")
        run.control.free()
        finished(bench, tally, run)
