"""Faults from within a process of mmray: Python imports this file at its start wherever it is on the path.

MMRAY_FAULT holds JSON; without it nothing happens. Keys, all optional:

- ``strike``: {"signal": "SIGINT", "at": ["mmray.storage:put"], "inside": "mmray.pipelines.pool:run", "number": 2,
  "when": "before", "delay_s": 0, "mark": FILE}: the driver gets the signal before the second such call within such a
  call (``after``: behind it), ``delay_s`` later, and writes FILE just then.
- ``gate``: {"at": "mmray.tables.lease:hold", "ready": FOLDER, "go": FILE}: the driver waits there until FILE exists,
  and leaves a file in FOLDER when it has come there.
- ``fail``: {"at": "mmray.tables.lease:compare_and_swap", "first": 3, "last": 6}: these calls raise OSError.
- ``constants``: {"mmray.tables.lease:RENEW_S": 0.5}: other values of constants, in the driver.
- ``clock_s``: how far the driver's clock is ahead.
- ``switches``: names of SWITCHES, each of which breaks a promise on purpose.
"""

import functools
import importlib.abc
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]
LATE_S = 5.0


def in_driver() -> bool:
    return "mmray.cli" in sys.orig_argv


class Patcher(importlib.abc.MetaPathFinder):
    """Changes modules of mmray as soon as they are loaded, before anybody imports from them."""

    def __init__(self, patches: dict[str, list[Patch]], every: list[Patch]) -> None:
        self._patches, self._every = patches, every
        self._busy = threading.local()

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("mmray.") or getattr(self._busy, "name", None) == name:
            return None
        self._busy.name = name
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy.name = None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._patching(spec.loader.exec_module, name)  # type: ignore[method-assign]
        return spec

    def _patching(self, execute: Callable[[ModuleType], None], name: str) -> Callable[[ModuleType], None]:
        def patched(module: ModuleType) -> None:
            execute(module)
            for patch in [*self._patches.get(name, []), *self._every]:
                patch(module)

        return patched


class Strike:
    """Sends the driver a signal at the n-th call of some functions, once."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._signal = signal.Signals[about["signal"]]
        self._left, self._when = int(about.get("number", 1)), about.get("when", "before")
        self._at, self._inside = about["at"], about.get("inside")
        self._delay_s, self._mark = float(about.get("delay_s", 0)), about["mark"]
        self._depth = 0 if self._inside else 1

    def patches(self) -> dict[str, list[Patch]]:
        result: dict[str, list[Patch]] = {}
        for target in self._at:
            _add(result, target, self._counting)
        if self._inside:
            _add(result, self._inside, self._entered)
        return result

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            self._left -= self._depth > 0
            due = self._left == 0 and self._depth > 0
            if due:
                self._left = -1
            if due and self._when == "before":
                self._now()
            result = function(*arguments, **named)
            if due and self._when == "after":
                self._now()
            return result

        return counted

    def _entered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def entered(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1

        return entered

    def _now(self) -> None:
        if self._delay_s:
            threading.Timer(self._delay_s, self._send).start()
        else:
            self._send()

    def _send(self) -> None:
        Path(self._mark).touch()
        if self._signal is signal.SIGINT:
            os.killpg(os.getpgid(0), self._signal)  # a terminal tells the whole group
        else:
            os.kill(os.getpid(), self._signal)


def _add(patches: dict[str, list[Patch]], target: str, wrap: Callable[[Any], Any]) -> None:
    """Have ``module:name`` or ``module:Class.name`` replaced by ``wrap`` of it."""
    name, _, path = target.partition(":")

    def patch(module: ModuleType) -> None:
        *owners, last = path.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, last, wrap(getattr(owner, last)))

    patches.setdefault(name, []).append(patch)


def _late(write: Callable[..., Any]) -> Callable[..., Any]:
    """Break the commit order: the part is written long after the ledger names it."""

    def late(*arguments: Any) -> int:
        threading.Timer(LATE_S, write, arguments).start()
        return 0

    return late


def _never(check: Callable[..., Any]) -> Callable[..., None]:
    """Leave a check out: without that of the fence, whoever lost the lease goes on writing."""
    return lambda *_: None


def _blaming(judge: Callable[..., Any]) -> Callable[..., Any]:
    """Break the count of attempts: whoever died, and whatever ended it, its segments are blamed."""

    def blaming(store: Any, attempt: Any, run_id: str, lost: Any) -> Any:
        return replace(attempt, verdict="crash")

    return blaming


SWITCHES: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    "ledger before part": [("mmray.pipelines.worker:write_parquet", _late)],
    "no fence": [("mmray.tables.lease:Lease.check", _never)],
    "every death counts": [
        ("mmray.pipelines.attempts:_with_verdict", _blaming),
        ("mmray.pipelines.attempts:forget_interrupted", _never),
    ],
}


def _gated(about: dict[str, str]) -> Callable[[Any], Any]:
    """Let all who come to a function go on at one moment."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def waiting(*arguments: Any, **named: Any) -> Any:
            (Path(about["ready"]) / str(os.getpid())).touch()
            while not Path(about["go"]).exists():
                time.sleep(0.001)
            return function(*arguments, **named)

        return waiting

    return wrap


def _failing(about: dict[str, Any]) -> Callable[[Any], Any]:
    """Let some calls of a function fail, as a storage that does not answer."""
    calls = itertools.count(1)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def failing(*arguments: Any, **named: Any) -> Any:
            if about["first"] <= next(calls) <= about["last"]:
                raise OSError("injected: the storage does not answer")
            return function(*arguments, **named)

        return failing

    return wrap


def _shift_clock(seconds: float) -> list[Patch]:
    """Set the clock of this process, as mmray's modules see it."""
    import datetime

    true = time.time
    time.time = lambda: true() + seconds

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    def patch(module: ModuleType) -> None:
        if getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Shifted

    return [patch]


def install(about: dict[str, Any]) -> None:
    """Install what MMRAY_FAULT asks for."""
    patches: dict[str, list[Patch]] = {}
    every: list[Patch] = []
    if in_driver():
        if "strike" in about:
            patches |= Strike(about["strike"]).patches()
        if "gate" in about:
            _add(patches, about["gate"]["at"], _gated(about["gate"]))
        if "fail" in about:
            _add(patches, about["fail"]["at"], _failing(about["fail"]))
        for target, value in about.get("constants", {}).items():
            _add(patches, target, lambda _, value=value: value)
        if "clock_s" in about:
            every += _shift_clock(float(about["clock_s"]))
    for name in about.get("switches", []):
        for target, wrap in SWITCHES[name]:
            _add(patches, target, wrap)
    sys.meta_path.insert(0, Patcher(patches, every))


if os.environ.get("MMRAY_FAULT"):
    import importlib.util

    install(json.loads(os.environ["MMRAY_FAULT"]))
