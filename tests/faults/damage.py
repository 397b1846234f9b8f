"""Stores that are damaged or of another version: one sentence, exit code 3, and verify says how to repair them."""

import json
from collections.abc import Callable

from tests.faults.harness import Bench, Run
from tests.faults.table import Tally, fault, repeated


def halved(run: Run, pattern: str) -> str:
    """Cut the first file of a pattern in half; returns its name."""
    path = min(run.path.glob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.name


def newer(run: Run) -> str:
    path = run.path / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    return "newer"


def broken_schema(run: Run) -> str:
    (run.path / "store.json").write_text("{")
    return "store.json"


def other_lease(run: Run) -> str:
    (run.path / "lock.json").write_text(json.dumps({"version": 99, "run_id": "future"}))
    return "lock.json"


DAMAGES: dict[str, Callable[[Run], str]] = {
    "a store of a newer mmray": newer,
    "a store whose schema is broken": broken_schema,
    "a ledger file cut in half": lambda run: halved(run, "ledger/*.parquet"),
    "a segment table cut in half": lambda run: halved(run, "segments.parquet"),
    "a lease of another version": other_lease,
}


def damaged(name: str, damage: Callable[[Run], str]) -> None:
    """Make the fault that finds a damaged store."""

    def body(bench: Bench, tally: Tally) -> None:
        with bench.run(tally.fault) as run, repeated(tally):
            tally.ends(run.verb("extract", str(run.configured()), "--limit", "5"), 0)
            word = damage(run)
            tally.ends(run.start(), 3, word)
            if damage is not other_lease:
                verified = run.verb("verify", run.store)
                tally.expect(verified.wait() in (1, 3), "verify finds nothing")
                tally.expect(word in verified.errors + str(verified.result), f"verify does not name {word}")

    fault(name)(body)


for label, function in DAMAGES.items():
    damaged(label, function)


@fault("a missing feature file")
def missing_features(bench: Bench, tally: Tally) -> None:
    """Features are derived: verify says that they are missing and the same command makes them again."""
    with bench.run(tally.fault) as run, repeated(tally):
        tally.ends(run.start(), 0)
        path = min(run.path.glob("features/*/*/*.parquet"))
        path.unlink()
        verified = run.verb("verify", run.store)
        tally.expect(verified.wait() == 1, "verify finds nothing")
        tally.expect(path.parent.parent.name in str(verified.result), "verify does not name the feature table")
        tally.ends(run.start(), 0)
        tally.compare(bench.reference(), run)


@fault("a missing part of a windows table")
def missing_part(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run, repeated(tally):
        tally.ends(run.start(), 0)
        path = run.parts()[0]
        path.unlink()
        verified = run.verb("verify", run.store)
        tally.expect(verified.wait() == 1, "verify finds nothing")
        tally.expect(path.name in str(verified.result), "verify does not name the part")
