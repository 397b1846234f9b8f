"""``python -m tests.faults``: run the faults, print the table, end with 1 where it is not all zeros."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import everything
from tests.faults.harness import Bench, NeverError
from tests.faults.table import FAULTS, Fault, Tally, printed, written


def run(fault: Fault, bench: Bench) -> Tally:
    """Let one fault strike; what it waits for in vain counts as wrong."""
    tally, started = Tally(fault.name), time.monotonic()
    try:
        fault.body(bench, tally)
    except NeverError as error:
        tally.expect(False, str(error))
    tally.seconds = round(time.monotonic() - started, 1)
    return tally


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PART", help="only faults with this in their name")
    parser.add_argument("--subset", action="store_true", help="only what CI runs")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder and leave it")
    arguments = parser.parse_args()
    chosen = [
        fault
        for fault in everything()
        if (fault.subset or not arguments.subset)
        and (not arguments.names or any(name in fault.name for name in arguments.names))
    ]
    if arguments.list or not chosen:
        print("\n".join(fault.name for fault in chosen) or f"no such fault; there are: {', '.join(FAULTS)}")
        return 0 if chosen else 2
    with tempfile.TemporaryDirectory(prefix="mmray-faults-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tallies = _all(chosen, Bench(folder, arguments.seed), arguments.json)
    print(printed(tallies))
    return 0 if all(tally.clean for tally in tallies) else 1


def _all(faults: list[Fault], bench: Bench, report: Path | None) -> list[Tally]:
    """Run faults one after the other; what came of them is written as they end."""
    tallies = []
    try:
        for fault in faults:
            print(f"... {fault.name}", file=sys.stderr, flush=True)
            tallies.append(run(fault, bench))
            print(printed(tallies[-1:]).partition("\n")[2], file=sys.stderr, flush=True)
            if report:
                written(tallies, report)
    finally:
        bench.close()
    return tallies


if __name__ == "__main__":
    sys.exit(main())
