"""``python -m tests.faults.soak``: random faults over random runs, for so many minutes, from one seed.

Trial n is that of the seed and its number, however long it takes: ``--first N --trials 1`` repeats it alone.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import corpus
from tests.faults.deaths import dead
from tests.faults.harness import Bench, NeverError, Run, wait_for
from tests.faults.interrupts import COMMIT, COMPACTION, POOL, PROBE
from tests.faults.table import Tally, printed

Act = Callable[[Run, random.Random], str]
STEPS = [*PROBE, *COMMIT, *POOL, *COMPACTION]


def moment(run: Run, driver: Any, rng: random.Random) -> None:
    """Wait for a random moment: an actor at work, or so many more commits; or the end of the run."""
    if rng.random() < 0.4:
        wait_for(lambda: run.working() or not driver.running, "an actor at work")
        return
    target = len(run.commits()) + rng.randrange(1, 3)
    wait_for(lambda: len(run.commits()) >= target or not driver.running, f"{target} commits")


def kill_driver(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    driver.kill()
    return "kill -9"


def interrupt(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    driver.interrupt()
    return "Ctrl-C"


def strike(run: Run, rng: random.Random) -> str:
    step, name = rng.choice(STEPS), rng.choice(["SIGINT", "SIGKILL"])
    try:
        run.struck(name, **step)
    except NeverError:
        return "nothing left to strike"
    return f"{name} at {step['at'][0].rpartition(':')[2]}"


def kill_actor(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    for note in run.working()[:1]:
        try:
            os.kill(note["pid"], signal.SIGKILL)
        except ProcessLookupError:
            break
    driver.wait()
    return "kill -9 of an actor"


def take_away(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    media = run.folder / "media"
    elsewhere = media.rename(run.folder / "elsewhere")
    driver.wait()
    elsewhere.rename(media)
    return "media away"


def suspend(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    driver.signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 3))
    driver.signal(signal.SIGCONT)
    driver.wait()
    return "suspended"


def second(run: Run, rng: random.Random) -> str:
    driver = run.start()
    moment(run, driver, rng)
    verbs = [("verify", run.store), ("retry", run.store, "--reason", "crashed"), ("status", run.store)]
    run.verb(*rng.choice(verbs)).wait()
    driver.wait()
    return "other verbs"


ACTS: tuple[Act, ...] = (kill_driver, interrupt, strike, strike, kill_actor, take_away, suspend, second)


def trial(bench: Bench, seed: int, number: int) -> Tally:
    """Let random faults strike one store, finish it, and compare."""
    rng = random.Random(f"{seed} trial {number}")
    tally, started = Tally(f"trial {number}"), time.monotonic()
    resources = {"actors": rng.choice([1, 2, 3]), "decode_threads": rng.choice([1, 2])}
    with bench.run(f"trial {number}", resources=resources, max_attempts=3) as run:
        media = corpus.copied(bench.media, run.folder / "media")
        run.keys["manifest"] = corpus.manifest_of(media, run.folder / "manifest.parquet")
        run.control.pace(rng.choice([0.05, 0.2, 0.5]))
        struck = []
        for _ in range(rng.randrange(1, 6)):
            struck.append(rng.choice(ACTS)(run, rng))
            tally.repeated()
        run.control.pace(0)
        tally.ends(run.start(), 0)
        tally.expect(not dead(run), "notes of dead actors are left")
        tally.compare(bench.reference(), run)
    tally.fault += ": " + ", ".join(struck)
    tally.seconds = round(time.monotonic() - started, 1)
    return tally


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--trials", type=int, default=10**6, help="at most so many")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    tallies = []
    with tempfile.TemporaryDirectory(prefix="mmray-soak-") as temporary:
        bench = Bench(Path(temporary), arguments.seed)
        try:
            bench.reference()
            for number in range(arguments.first, arguments.first + arguments.trials):
                if time.monotonic() > end:
                    break
                tallies.append(trial(bench, arguments.seed, number))
                print(printed(tallies[-1:]).partition("\n")[2], file=sys.stderr, flush=True)
        finally:
            bench.close()
    print(printed(tallies))
    return 0 if tallies and all(tally.clean for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
