"""The oracle: what a store holds after a successful run, compared by key and number with an undisturbed one.

It reads the tables by plain globs, as anybody would, and counts: ``lost`` (rows that should be there), ``doubled``
(rows there more than once) and ``wrong`` (rows that say something else, or that should not be there).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

TOLERANCE = 1e-4
LEDGER = ["status", "reason", "rows", "frames", "input"]
WINDOW_KEY = ["sample_id", "segment", "window", "token"]
PASSING = ("flags/*.parquet", "probes/*.parquet", "attempts/*.json", "lock.json", "**/.tmp-*")
SHOWN = 3  # details of each kind and table
Row = tuple[Any, ...]
Rows = dict[Row, list[Row]]


@dataclass(slots=True)
class Difference:
    """How many rows of a store are not those of an undisturbed run, and some of them in words."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, detail: str) -> None:
        """Count rows of one kind."""
        setattr(self, kind, getattr(self, kind) + count)
        if sum(known.startswith(kind) for known in self.details) < SHOWN:
            self.details.append(f"{kind} {count} x {detail}")


@dataclass(frozen=True, slots=True)
class Tables:
    """Every row of a store: table name -> key -> values of the rows with that key."""

    rows: dict[str, Rows]

    def without(self, samples: Collection[str]) -> "Tables":
        """Leave out samples."""
        return Tables(
            {
                table: {key: values for key, values in rows.items() if key[0] not in samples}
                for table, rows in self.rows.items()
            }
        )

    def only(self, samples: Collection[str]) -> "Tables":
        """Keep some samples."""
        return Tables(
            {
                table: {key: values for key, values in rows.items() if key[0] in samples}
                for table, rows in self.rows.items()
            }
        )


def read(store: Path) -> Tables:
    """Read ledger, windows and features by plain globs."""
    rows: dict[str, Rows] = {"ledger": _ledger(store)}
    for folder in sorted(store.glob("windows/extractor=*")):
        frame = _frame(folder)
        if frame is not None:
            key = [name for name in WINDOW_KEY if name in frame.columns]
            rows[f"windows/{folder.name}"] = _keyed(frame.drop("run_id"), key)
    for folder in sorted(store.glob("features/*/*")):
        frame = _frame(folder)
        if frame is not None:
            rows[f"features/{folder.parent.name}/{folder.name}"] = _keyed(frame, ["sample_id"])
    return Tables(rows)


def leftovers(store: Path) -> list[str]:
    """List what the successful end of a run should have put away: second ledger files, flags, attempts, a lease."""
    ledger = sorted(path.name for path in store.glob("ledger/*.parquet"))[:-1]
    return ledger + [str(path.relative_to(store)) for name in PASSING for path in store.glob(name)]


def _frame(folder: Path) -> pl.DataFrame | None:
    parts = sorted(folder.glob("*.parquet"))
    return pl.concat([pl.read_parquet(part, hive_partitioning=False) for part in parts]) if parts else None


def _ledger(store: Path) -> Rows:
    """Read the ledger; the input of an extractor that reads another names runs, which differ, and is left out."""
    frame = _frame(store / "ledger")
    if frame is None:
        return {}
    derived = [path.stem for path in store.glob("provenance/*.json") if '"origin": null' not in path.read_text()]
    frame = frame.with_columns(
        input=pl.when(pl.col("extractor").is_in(derived)).then(pl.lit("derived")).otherwise("input")
    )
    return _keyed(frame.select("sample_id", "segment", "extractor", *LEDGER), ["sample_id", "segment", "extractor"])


def _keyed(frame: pl.DataFrame, key: list[str]) -> Rows:
    values = [name for name in frame.columns if name not in key]
    result: Rows = {}
    for row in frame.select(*key, *values).iter_rows():
        result.setdefault(row[: len(key)], []).append(row[len(key) :])
    return result


def compare(expected: Tables, observed: Tables) -> Difference:
    """Compare a store with an undisturbed one."""
    difference = Difference()
    for table in sorted({*expected.rows, *observed.rows}):
        for kind, count, detail in _compared(expected.rows.get(table, {}), observed.rows.get(table, {})):
            difference.add(kind, count, f"{table} {detail}")
    return difference


def _compared(expected: Rows, observed: Rows) -> Iterator[tuple[str, int, str]]:
    for key, rows in expected.items():
        seen = observed.get(key, [])
        if len(seen) < len(rows):
            yield "lost", len(rows) - len(seen), f"{key}"
        elif len(seen) > len(rows):
            yield "doubled", len(seen) - len(rows), f"{key}"
        elif not all(_same(left, right) for left, right in zip(_sorted(rows), _sorted(seen), strict=True)):
            yield "wrong", 1, f"{key}: {_short(rows)} became {_short(seen)}"
    for key in observed.keys() - expected.keys():
        yield "wrong", len(observed[key]), f"{key} should not be there: {_short(observed[key])}"


def _sorted(rows: list[Row]) -> list[Row]:
    return rows if len(rows) == 1 else sorted(rows, key=repr)


def _short(rows: list[Row]) -> str:
    return str(rows)[:120]


def _same(left: Row, right: Row) -> bool:
    return all(_equal(*pair) for pair in zip(left, right, strict=True))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and np.allclose(left, right, TOLERANCE, TOLERANCE, equal_nan=True)
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.isclose(left, right, TOLERANCE, TOLERANCE, equal_nan=True))
    return bool(left == right)
