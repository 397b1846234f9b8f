"""Disks that are full, read-only, not permitted or gone."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.harness import Bench, wait_for
from tests.faults.interrupts import finished
from tests.faults.sources import UNSEEN, with_own_media
from tests.faults.table import Tally, fault, repeated

DISK_BYTES = 8 * 2**20
LEFT_KB = (40, 160, 320)  # of the disk: it is full at the first commits, or later
DENIED = ("clip-03.webm", "clip-09.avi", "medium.mp4")


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk in memory; yields whether this machine lets us."""
    folder.mkdir(parents=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], check=False, capture_output=True).returncode == 0


def filled(folder: Path, left_kb: int) -> Path:
    """Fill a disk up to so many KB; returns the file that does."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free
    ballast.write_bytes(bytes(max(0, free - left_kb * 1024)))
    return ballast


@fault("a full disk")
def full(bench: Bench, tally: Tally) -> None:
    for left_kb in LEFT_KB:
        folder = bench.folder / f"disk-{left_kb}"
        with disk(folder) as mounted, bench.run(tally.fault, store=str(folder / "store"), max_attempts=1) as run:
            if not mounted:
                tally.skipped = "skipped: mount is not permitted"
                return
            with repeated(tally):
                ballast = filled(folder, left_kb)
                tally.ends(run.start(), 3, "no space left on device")
                ballast.unlink()
                finished(bench, tally, run)


@fault("a store that turns read-only")
def read_only(bench: Bench, tally: Tally) -> None:
    folder = bench.folder / "disk-read-only"
    with disk(folder) as mounted, bench.run(tally.fault, store=str(folder / "store"), max_attempts=1) as run:
        if not mounted:
            tally.skipped = "skipped: mount is not permitted"
            return
        run.control.pace(0.3)
        driver = run.start()
        with repeated(tally):
            wait_for(run.commits, "a commit")
            wait_for(lambda: _mount("-o", "remount,ro", str(folder)), "a moment in which no file is written")
            run.control.pace(0)
            tally.ends(driver, 3, "read-only file system")
        with repeated(tally):
            tally.ends(run.start(), 3, "read-only file system")
        _mount("-o", "remount,rw", str(folder))
        finished(bench, tally, run)


@fault("sources without permission")
def denied(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, embedded=True) as run:
        media = with_own_media(bench, run)
        for sample in DENIED[:1]:
            (media / sample).chmod(0)
        with repeated(tally):
            tally.ends(run.start(obeying=True), 0)
        with repeated(tally):
            for sample in DENIED:
                (media / sample).chmod(0)
            tally.ends(run.start(obeying=True), 0, UNSEEN)
        for sample in DENIED:
            (media / sample).chmod(0o644)
        tally.ends(run.start(obeying=True), 0)
        tally.compare(bench.reference(), run)


@fault("a store without permission")
def store_denied(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, embedded=True) as run:
        run.path.mkdir()
        run.path.chmod(0o555)
        with repeated(tally):
            tally.ends(run.start(obeying=True), 2, "permission denied")
        run.path.chmod(0o755)
        tally.ends(run.start(obeying=True), 0)
        folders = [path for path in (run.path, *run.path.rglob("*")) if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        with repeated(tally):
            tally.ends(run.start(obeying=True), 3, "permission denied")
        for folder in folders:
            folder.chmod(0o755)
        tally.compare(bench.reference(), run)


@fault("a store that is deleted during a run")
def deleted(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault, max_attempts=1) as run:
        run.control.pace(0.3)
        driver = run.start()
        with repeated(tally):
            wait_for(run.commits, "a commit")
            run.path.rename(run.folder / "deleted")
            shutil.rmtree(run.folder / "deleted")
            run.control.pace(0)
            tally.ends(driver, 3, "store")
        shutil.rmtree(run.path, ignore_errors=True)
        finished(bench, tally, run)
