"""``python -m tests.faults.fuzz``: mutants of awkward media and of the demo corpus, in runs of many.

No mutant may break a run: every run ends with 0, its account adds up, and verify finds nothing. Awkward media are those
of MMRAY_TEST_DATA (``../shared/data`` beside the checkout); without them the demo corpus alone is mutated.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import corpus
from tests.faults.harness import Bench, Run
from tests.faults.table import Tally, printed

AT_ONCE = 250  # mutants of a run
LARGEST_BYTES = 400_000
TIMEOUT_S = 20.0
AWKWARD = ("video/awkward", "audio/awkward", "images/awkward")
Bytes = bytearray


def flipped(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Flip bits of some bytes."""
    for _ in range(rng.choice((1, 4, 32, 256))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flipped_ahead(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Change bytes of the first kilobyte, where headers stand."""
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(len(data), 1024))] = rng.randrange(256)
    return data


def truncated(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Cut the file off."""
    return data[: rng.randrange(len(data))]


def spliced(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Go on with the rest of another file."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def zeroed(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Fill a block with zeros, as a disk that lost a sector."""
    start = rng.randrange(len(data))
    size = min(len(data) - start, rng.choice((64, 512, 4096, 65_536)))
    data[start : start + size] = bytes(size)
    return data


def repeated(data: Bytes, other: Bytes, rng: random.Random) -> Bytes:
    """Insert a block a second time."""
    start = rng.randrange(len(data))
    return data[:start] + data[max(0, start - rng.choice((16, 512, 8192))) :]


MUTATIONS: tuple[Callable[[Bytes, Bytes, random.Random], Bytes], ...] = (
    flipped, flipped_ahead, truncated, spliced, zeroed, repeated,
)  # fmt: skip


def originals(bench: Bench) -> list[Path]:
    """List what is mutated: the corpus of the suite, and small awkward media where they are."""
    root = Path(__file__).resolve().parent.parent.parent
    data = Path(os.environ.get("MMRAY_TEST_DATA", root.parent / "shared" / "data"))
    awkward = [path for folder in AWKWARD for path in (data / folder).rglob("*.*") if path.is_file()]
    media = [path for path in [*bench.media.iterdir(), *awkward] if 0 < path.stat().st_size <= LARGEST_BYTES]
    return sorted(media)


def mutants(media: list[Path], folder: Path, first: int, count: int, seed: int) -> None:
    """Write mutants; each is that of its number and the seed."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        rng = random.Random(f"{seed} mutant {number}")
        path, other = rng.choice(media), rng.choice(media)
        mutation = rng.choice(MUTATIONS)
        data = mutation(Bytes(path.read_bytes()), Bytes(other.read_bytes()), rng)
        (folder / f"{number:05d}-{mutation.__name__}-{path.stem[:30]}{path.suffix}").write_bytes(data)


def batches(count: int) -> Iterator[tuple[int, int]]:
    """Yield number of the first and how many, for each run."""
    for first in range(0, count, AT_ONCE):
        yield first, min(AT_ONCE, count - first)


def worked_on(tally: Tally, run: Run, count: int) -> dict[str, Any]:
    """Run the extractors over mutants; returns how many ended how."""
    driver = run.start(timeout_s=TIMEOUT_S, segment_s=288)
    tally.ends(driver, 0, seconds=900)
    tally.expect(driver.result.get("adds_up"), "the account does not add up")
    tally.expect(driver.result.get("samples") == count, f"{driver.result.get('samples')} of {count} mutants")
    verified = run.verb("verify", run.store)
    tally.ends(verified, 0)
    tally.repetitions += count
    return dict(driver.result.get("accounts", {}))


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    tally = Tally(f"mutants, seed {arguments.seed}")
    totals: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mmray-fuzz-") as temporary:
        bench = Bench(Path(temporary), arguments.seed)
        try:
            media = originals(bench)
            for first, count in batches(arguments.count):
                folder = bench.folder / f"mutants-{first}"
                mutants(media, folder, first, count, arguments.seed)
                manifest = corpus.manifest_of(folder, bench.folder / f"mutants-{first}.parquet")
                with bench.run(f"mutants {first}", manifest=manifest) as run:
                    for counts in worked_on(tally, run, count).values():
                        for status in ("ok", "partial", "failed", "skipped", "pending"):
                            totals[status] = totals.get(status, 0) + counts[status]
                shutil.rmtree(folder)
                print(f"{first + count} mutants of {len(media)} media: {totals}", file=sys.stderr, flush=True)
        finally:
            bench.close()
    print(printed([tally]))
    print(f"(mutant, extractor): {totals}")
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
