"""The process behind ``watchdog.Watchdog``. It runs without mmray: standard library only.

Arguments: the longest silence in seconds, and the file for the worker's last words. Standard input: one byte for every
heartbeat; the end of it means that the worker is gone.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

STOPPED = "the worker was stopped from outside"
NEIGHBOUR = "other programs used up the memory"
TICK_S = 1.0
# Ray kills workers when this share of the memory is in use (its default), the kernel a little later.
MEMORY_THRESHOLD = float(os.environ.get("RAY_memory_usage_threshold", "0.95"))  # noqa: SIM112 - Ray spells it so
MEMORY_MARGIN = 0.05  # usage is read once a second, and grows until the kill


def watch(pid: int, limit_s: float, words: Path) -> None:
    """Watch a process until it ends; kill it after ``limit_s`` without a heartbeat."""
    silent_s, last, starved = 0.0, time.monotonic(), False
    while silent_s < limit_s:
        ready, _, _ = select.select([0], [], [], TICK_S)
        now = time.monotonic()
        # A tick that took longer means that this process was stopped as well: the worker is not to blame.
        silent_s += min(now - last, 2 * TICK_S)
        last = now
        if not ready:
            continue
        if not os.read(0, 4096):
            if starved:
                _say(words, NEIGHBOUR)
            return
        silent_s, starved = 0.0, _starved_by_others(pid)
    if _stopped(pid):
        _say(words, f"{STOPPED} for {limit_s:g} s")
    else:
        _say(words, f"Timeout (no sign of life for {limit_s:g} s)")
    os.kill(pid, signal.SIGKILL)


def _say(words: Path, text: str) -> None:
    """Write last words, unless the worker wrote its own."""
    if not words.exists() or not words.stat().st_size:
        words.write_text(f"{text}\n")


def _stopped(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state in "Tt"


def _starved_by_others(pid: int) -> bool:
    """Tell whether memory is nearly used up, and less than half of it by the worker."""
    try:
        sizes = {line.partition(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (OSError, KeyError, ValueError):
        return False
    total = int(sizes["MemTotal"])
    used = total - int(sizes["MemAvailable"])
    return used / total > MEMORY_THRESHOLD - MEMORY_MARGIN and resident < used / 2


if __name__ == "__main__":
    watch(os.getppid(), float(sys.argv[1]), Path(sys.argv[2]))
