"""The outer watchdog of a worker: a small process that kills a worker which gives no sign of life.

The inner watchdog (``faulthandler``) ends a worker whose work hangs, even when native code holds the GIL. It cannot act
in a process that was stopped (SIGSTOP, a debugger, a frozen container), and a process that was killed cannot say why.
The outer watchdog sees both: it reads heartbeats from a pipe, and writes last words for the worker.
"""

import contextlib
import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

from mmray.pipelines import watchdog_process

STOPPED, NEIGHBOUR = watchdog_process.STOPPED, watchdog_process.NEIGHBOUR
HEARTBEAT_S = 1.0
GRACE_S = 30.0  # the inner watchdog ends a hanging worker first, with a traceback


@functools.cache
def guard(timeout_s: float) -> "Watchdog":
    """Guard this process, once, where nobody asks for its last words."""
    return Watchdog(timeout_s, Path(os.devnull))


class Watchdog:
    """Start the outer watchdog of this process; it ends by itself when this process does.

    ``timeout_s``: the longest silence of a worker that may still be healthy; ``words``: the file for last words.
    """

    def __init__(self, timeout_s: float, words: Path) -> None:
        # -I -S: no site-packages and no mmray, so that it starts in 20 ms and takes 8 MB.
        command = [sys.executable, "-I", "-S", watchdog_process.__file__, str(timeout_s + GRACE_S), str(words)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        pause = threading.Event()
        with contextlib.suppress(OSError):  # somebody killed the watchdog: the inner one remains
            while not pause.wait(HEARTBEAT_S):
                pipe.write(b".")
                pipe.flush()
