"""End a command in time: Ctrl-C and SIGTERM clean up for a few seconds, and no longer, wherever the main thread is.

Python runs a signal's handler in the main thread, between two steps of the interpreter: never, while native code runs
there. A thread of its own therefore reads the signals (``signal.set_wakeup_fd``), and ends the process after
``LIMIT_S`` seconds.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, the exit code of shells
MESSAGE = "interrupted; what is committed is kept, the same command goes on from there"
LIMIT_S = 7.0  # for the clean-up; with CALLBACKS_S and the start of an exit it stays under 10 s
CALLBACKS_S = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # SIGTERM is how `ray job stop` and most schedulers ask
STOP = b"\0"

_last_resorts: list[Callable[[], None]] = []
_watch: "_Watch | None" = None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt, ignore the next ones, end the process after LIMIT_S."""
    global _watch
    _watch = _Watch()
    try:
        yield
    finally:
        _watch.stop()
        _watch = None


def handled() -> None:
    """Call off the end of this process: the interruption was expected; the next one raises again."""
    if _watch is not None:
        _watch.handled()


@contextlib.contextmanager
def last_resort(callback: Callable[[], None]) -> Iterator[None]:
    """Run ``callback`` if this process has to end inside this context without its clean-up, in another thread."""
    _last_resorts.append(callback)
    try:
        yield
    finally:
        _last_resorts.remove(callback)


def end(code: int, message: str) -> NoReturn:
    """Print one line, run the last resorts for CALLBACKS_S at most, and end this process with no clean-up."""
    # Not by logging: a thread that is stuck may hold the lock of its handler.
    os.write(2 if _watch is None else _watch.stderr, f"{time.strftime('%H:%M:%S')} {message}\n".encode())
    thread = threading.Thread(target=_run_last_resorts, daemon=True)
    thread.start()
    thread.join(CALLBACKS_S)
    os._exit(code)


def _run_last_resorts() -> None:
    for callback in reversed(_last_resorts):
        with contextlib.suppress(Exception):  # the others run as well
            callback()


class _Watch:
    """The handlers of the signals, and the thread that reads the signals as well."""

    def __init__(self) -> None:
        self._raised = False
        self._deadline: float | None = None
        self.stderr = os.dup(2)  # cluster.py sends 2 elsewhere while Ray starts
        self._reader, self._writer = os.pipe()
        self._lock = threading.Lock()  # of what is read from the pipe, and the deadline that follows from it
        for end_of_pipe in (self._reader, self._writer):
            os.set_blocking(end_of_pipe, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handlers_before = {number: signal.signal(number, self._raise) for number in SIGNALS}
        self._thread = threading.Thread(target=self._run, name="interrupts", daemon=True)
        self._thread.start()

    def handled(self) -> None:
        with self._lock:
            self._read()
            self._raised, self._deadline = False, None

    def stop(self) -> None:
        """Put the handlers back; end the thread."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.write(self._writer, STOP)
        self._thread.join()
        for descriptor in (self._reader, self._writer, self.stderr):
            os.close(descriptor)

    def _raise(self, *_: object) -> None:
        if not self._raised:  # a second one would break off the clean-up
            self._raised = True
            raise KeyboardInterrupt

    def _read(self) -> bytes:
        try:
            return os.read(self._reader, 64)
        except BlockingIOError:
            return b""

    def _run(self) -> None:
        while True:
            left_s = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            readable = select.select([self._reader], [], [], left_s)[0]
            with self._lock:
                numbers = self._read() if readable else b""
                if STOP in numbers:
                    return
                if self._deadline is None and any(number in SIGNALS for number in numbers):
                    self._deadline = time.monotonic() + LIMIT_S
                late = self._deadline is not None and time.monotonic() >= self._deadline
            if late:
                end(INTERRUPTED, MESSAGE)
