"""The lease of a store: takers at one moment, renewals that fail, clocks that are wrong, holders that slept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.harness import Bench, Run, wait_for
from tests.faults.interrupts import finished
from tests.faults.table import Tally, fault, repeated

TAKERS, TRIALS = 4, 30
LEASE = "mmray.tables.lease"
STALE_S = 8.0
QUICK = {"RENEW_S": 0.5, "CHECK_S": 0.5, "MARGIN_S": 3.0, "STALE_S": STALE_S}
QUICKLY = {"constants": {f"{LEASE}:{name}": value for name, value in QUICK.items()}}
FIRST_RENEWAL = 3  # swaps of a holder: the lease, its token, then renewals
FOREVER = 10**9
SKEW_S = 130.0


def raced(tally: Tally, bench: Bench, uri: str, trials: int, stale_s: float) -> None:
    """Let takers race for a stale lease; count two holders at once, and trials without a holder."""
    folder = bench.folder / f"takers-{len(list(bench.folder.glob('takers-*')))}"
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "tests.faults.takers", uri, str(TAKERS), str(trials), str(stale_s), str(folder)]
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=root, timeout=900)
    tally.repetitions += trials
    if done.returncode != 0:
        tally.expect(False, done.stderr[-600:])
        return
    counts = json.loads(done.stdout)
    tally.expect(counts["held"] >= trials, f"{counts}")
    tally.doubled += counts["at_once"]
    tally.lost += counts["nobody"]
    if counts["at_once"] or counts["nobody"]:
        tally.notes.append(f"takers: {counts}")


@fault("takers of a stale lease, on a disk", subset=True)
def takers(bench: Bench, tally: Tally) -> None:
    raced(tally, bench, str(bench.folder / "taken"), TRIALS, 120.0)


@fault("takers of a stale lease, on S3")
def takers_on_s3(bench: Bench, tally: Tally) -> None:
    raced(tally, bench, bench.s3.new_store("faults-leases"), 5, 2.0)


def stale(run: Run) -> Path:
    """Leave a lease of a run that died on another machine."""
    path = run.path / "lock.json"
    run.path.mkdir(parents=True, exist_ok=True)
    about = {"version": 1, "token": 1, "nonce": "dead", "run_id": "dead", "node": "another-machine", "pid": 1}
    path.write_text(json.dumps(about))
    age(path)
    return path


def age(path: Path) -> None:
    """Let a lease file look as if nobody renewed it for ten minutes."""
    os.utime(path, (0, time.time() - 600))


@fault("four runs that find a stale lease at once")
def runs_take(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run:
        tally.ends(run.verb("extract", str(run.configured()), "--limit", "5"), 0)
        stale(run)
        ready, go = run.folder / "ready", run.folder / "go"
        ready.mkdir()
        gate = {"gate": {"at": f"{LEASE}:hold", "ready": str(ready), "go": str(go)}}
        with repeated(tally):
            drivers = [run.start(fault=gate) for _ in range(TAKERS)]
            wait_for(lambda: len(list(ready.iterdir())) == TAKERS, "all four at the lease")
            go.touch()
            codes = sorted(driver.wait() for driver in drivers)
            tally.expect(codes == [0, 3, 3, 3], f"exit codes {codes}")
            for driver in drivers:
                tally.says(driver, "took over" if driver.wait() == 0 else "is writing to this store")
            tally.compare(bench.reference(), run)


def at_work(run: Run, fault: dict[str, Any] | None = None) -> Any:
    """Start a run and wait until it is at work; then it stands still."""
    run.control.hold()
    driver = run.start(fault=fault)
    wait_for(run.working, "an actor at work")
    return driver


def refused(tally: Tally, run: Run, fault: dict[str, Any] | None = None) -> None:
    """Check that a second run is refused, and says who is the holder."""
    lease = json.loads((run.path / "lock.json").read_text())["run_id"]
    tally.ends(run.start(fault=fault), 3, lease)


@fault("renewals of the lease that fail for a while")
def renewals_fail(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        failing = {"at": f"{LEASE}:compare_and_swap", "first": FIRST_RENEWAL, "last": FIRST_RENEWAL + 3}
        driver = at_work(run, QUICKLY | {"fail": failing})
        wait_for(lambda: "renewed again" in driver.errors, "a renewal behind the failures")
        refused(tally, run, QUICKLY)
        run.control.free()
        tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


@fault("renewals of the lease that fail for ever")
def renewals_end(bench: Bench, tally: Tally) -> None:
    """The holder must stop before another run may take over; that one then does the rest."""
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        failing = {"at": f"{LEASE}:compare_and_swap", "first": FIRST_RENEWAL, "last": FOREVER}
        driver = at_work(run, QUICKLY | {"fail": failing})
        time.sleep(STALE_S)
        run.control.free()
        tally.ends(driver, 3, "the same command")
        finished(bench, tally, run)


@fault("a clock that is ahead, beside a living run")
def clock_ahead(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        driver = at_work(run)
        refused(tally, run, {"clock_s": SKEW_S})
        run.control.free()
        tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


@fault("a living run whose clock is behind")
def clock_behind(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        driver = at_work(run, {"clock_s": -SKEW_S})
        refused(tally, run)
        run.control.free()
        tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


@fault("a clock that is set back between runs", subset=True)
def clock_set_back(bench: Bench, tally: Tally) -> None:
    """Killed and resumed, each time with an earlier clock."""
    with bench.run(tally.fault, max_attempts=1) as run:
        run.control.pace(0.3)
        for back_s in (0, -3600):
            with repeated(tally):
                before = set(run.commits())
                driver = run.start(fault={"clock_s": back_s})
                wait_for(lambda before=before: set(run.commits()) - before, "a commit")
                driver.kill()
        run.control.pace(0)
        tally.ends(run.start(fault={"clock_s": -86_400}), 0)
        tally.compare(bench.reference(), run)


def awoken(bench: Bench, tally: Tally, run: Run, fault: dict[str, Any]) -> None:
    """Suspend a run, let another take over and finish, and wake it up."""
    driver = at_work(run, fault)
    driver.signal(signal.SIGSTOP)
    run.control.free()
    time.sleep(QUICK["CHECK_S"])
    age(run.path / "lock.json")
    second = run.start(fault=fault)
    tally.ends(second, 0, "took over")
    driver.signal(signal.SIGCONT)
    tally.ends(driver, 3, "took over")
    tally.ends(run.start(), 0)  # the next run removes what the actors of the suspended one wrote for nobody
    tally.compare(bench.reference(), run)


@fault("a run that was suspended while another took over", subset=True)
def suspended(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        awoken(bench, tally, run, {"constants": {f"{LEASE}:CHECK_S": QUICK["CHECK_S"]}})


@fault("a run that was suspended alone")
def suspended_alone(bench: Bench, tally: Tally) -> None:
    """Ctrl-Z and fg: nobody took over, so it goes on."""
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        driver = at_work(run)
        driver.signal(signal.SIGSTOP)
        time.sleep(2)
        age(run.path / "lock.json")
        driver.signal(signal.SIGCONT)
        run.control.free()
        tally.ends(driver, 0)
        tally.compare(bench.reference(), run)
