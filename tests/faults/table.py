"""The faults by name, and the table of what came of them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults import oracle

if TYPE_CHECKING:
    from tests.faults.harness import Bench, Driver, Run

COUNTS = ("lost", "doubled", "wrong", "message", "exit_code")
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")
Body = Callable[["Bench", "Tally"], None]


@dataclass(slots=True)
class Tally:
    """What came of one fault: how many rows, messages and exit codes are not as promised."""

    fault: str
    repetitions: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    message: int = 0
    exit_code: int = 0
    seconds: float = 0.0
    skipped: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Tell whether the fault did what it should, and did no harm."""
        return not any(getattr(self, name) for name in COUNTS) and (self.repetitions > 0 or bool(self.skipped))

    def repeated(self) -> None:
        """Count one more time that the fault struck."""
        self.repetitions += 1

    def expect(self, condition: object, note: str) -> None:
        """Count something wrong, in words, unless a condition holds."""
        if not condition:
            self.wrong += 1
            self.notes.append(f"wrong: {note}")

    def ends(self, driver: "Driver", code: int, *words: str, seconds: float = 180.0) -> None:
        """Wait for a process; count another exit code than this one, and a message that is not mmray's own.

        Every line on stderr must be one of mmray's log; where it fails the last of them must say ``words``.
        """
        found = driver.wait(seconds)
        if found != code:
            self.exit_code += 1
            self.notes.append(f"exit code {found}, not {code}: {' '.join(driver.words)}: {driver.errors[-600:]}")
        self.says(driver, *words)

    def says(self, driver: "Driver", *words: str) -> None:
        """Count a message that is not one sentence of mmray's own with these words in it."""
        lines = driver.errors.splitlines()
        if foreign := [line for line in lines if not LOG_LINE.match(line)]:
            self.message += 1
            self.notes.append(f"message: not mmray's: {foreign[0][:200]} ({len(foreign)} lines)")
        if missing := [word for word in words if word.lower() not in driver.errors.lower()]:
            self.message += 1
            self.notes.append(f"message: nothing of {missing}: {lines[-1][:400] if lines else 'it says nothing'}")

    def compare(self, expected: oracle.Tables, run: "Run", path: Path | None = None) -> None:
        """Count how the tables of a finished run differ from those of an undisturbed one, and what verify finds."""
        from mmray.errors import MmrayError
        from mmray.pipelines.verify import verify

        folder = path or run.path
        self.differ(oracle.compare(expected, oracle.read(folder)))
        for leftover in oracle.leftovers(folder):
            self.expect(False, f"the end of the run left {leftover}")
        try:
            broken = verify(run.store)["broken"]
        except MmrayError as error:
            broken = [str(error)]
        for problem in broken:
            self.expect(False, f"verify: {problem}")

    def differ(self, difference: oracle.Difference) -> None:
        """Count a difference."""
        self.lost += difference.lost
        self.doubled += difference.doubled
        self.wrong += difference.wrong
        self.notes += difference.details


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its name, what it does, and whether it belongs to the subset that CI runs."""

    name: str
    body: Body
    subset: bool


FAULTS: dict[str, Fault] = {}


def fault(name: str, subset: bool = False) -> Callable[[Body], Body]:
    """Register a function as a fault."""

    def register(body: Body) -> Body:
        FAULTS[name] = Fault(name, body, subset)
        return body

    return register


@contextmanager
def repeated(tally: Tally) -> Iterator[None]:
    """Count a repetition, and one in which what the fault waits for never happens as wrong."""
    from tests.faults.harness import NeverError

    try:
        yield
    except NeverError as error:
        tally.expect(False, str(error))
    tally.repeated()


def printed(tallies: Iterable[Tally]) -> str:
    """Return the table."""
    lines = [f"{'fault':<52} {'times':>5} {'lost':>5} {'doubled':>7} {'wrong':>5} {'message':>7} {'exit':>4} {'s':>5}"]
    for tally in tallies:
        counts = f"{tally.repetitions:>5} {tally.lost:>5} {tally.doubled:>7} {tally.wrong:>5} {tally.message:>7}"
        lines.append(f"{tally.fault:<52} {counts} {tally.exit_code:>4} {tally.seconds:>5.0f} {tally.skipped}")
        lines += [f"    {note}" for note in tally.notes]
    return "\n".join(lines)


def written(tallies: Iterable[Tally], path: Path) -> None:
    """Write the table as JSON."""
    data: list[dict[str, Any]] = [asdict(tally) for tally in tallies]
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False))
