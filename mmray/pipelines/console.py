"""Progress: a bar with an ETA on a terminal, plain log lines elsewhere. Always on stderr."""

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

EVERY_S = 10.0  # between log lines


class Progress:
    """Show how far a stage of known length is."""

    def __init__(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._started = self._told = time.monotonic()
        self._first: tuple[float, int] | None = None  # when something was done: until then it was getting ready
        self._bar: Any = None
        self._row: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("eta"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._row = self._bar.add_task(self._stage, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            log.info("%s: %d of %d in %.1f s", self._stage, self._done, self._total, time.monotonic() - self._started)

    def say(self, text: str) -> None:
        """Say something that stays above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            log.info("%s", text)

    def advance(self, count: int, doing: str = "") -> None:
        """Say that so many more are done, and what is being done."""
        self._done += count
        now = time.monotonic()
        since, already = self._first = self._first or (now, self._done)
        if self._bar is not None:
            self._bar.update(self._row, completed=self._done, description=doing or self._stage)
        elif now - self._told >= EVERY_S and self._done > already:
            self._told = now
            left_s = (now - since) / (self._done - already) * (self._total - self._done)
            told = f" ({doing})" if doing else ""
            log.info("%s: %d of %d%s, about %d s to go", self._stage, self._done, self._total, told, left_s)
