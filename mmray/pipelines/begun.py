"""What an actor is at work on, written down before it begins, so that a death is blamed on the right segment.

An actor keeps one small file under STORE/begun. A file whose owner died stays behind. One that names a single
segment is an attempt of that segment; one that names several makes them suspects, which then run alone.
"""

import contextlib
import faulthandler
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mmray import storage
from mmray.errors import Reason
from mmray.tables.store import Store

Key = tuple[str, str, int, str]  # sample_id, source, segment, input
LOADING: Key = ("", "", -1, "")  # stands for the loading of models, which may crash as well


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a dead actor was at work on, and what it said last."""

    name: str
    keys: frozenset[Key]
    words: str
    dead: bool  # for certain: its process ran on this node and is gone

    @property
    def alone(self) -> bool:
        """Tell whether there is no doubt which segment it was."""
        return len(self.keys) == 1


@dataclass(frozen=True, slots=True)
class Record:
    """How often a segment killed the process that worked on it."""

    deaths: int
    suspect: bool
    words: str

    @property
    def reason(self) -> Reason:
        """Return ``timeout`` where the watchdog ended it, else ``crashed``."""
        return Reason.TIMEOUT if "Timeout (" in self.words else Reason.CRASHED

    @property
    def detail(self) -> str:
        """Say what happened in words."""
        last = self.words.strip() or "none: killed from outside (out of memory, kill -9, a lost machine)"
        hint = "; where it is slow and does not hang, raise timeout_s" if self.reason is Reason.TIMEOUT else ""
        return f"its process died {self.deaths} times{hint}; last words: {last}"


class Begun:
    """The file of this actor, and the watchdog that guards what it names."""

    def __init__(self, store: Store, run_id: str, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._until = 0.0
        self.name = f"{run_id}-{uuid.uuid4().hex[:12]}"
        self._words = _words_file(self.name).open("w")
        faulthandler.enable(self._words)

    def set(self, keys: Sequence[Key], extractors: int = 1) -> None:
        """Name what is worked on from now on, and give it ``timeout_s`` seconds.

        Where it gets on (see ``alive``) it has as many times that as there are extractors.
        """
        about = {
            "segments": sorted(keys),
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "at": time.time(),
        }
        storage.put(self._path, json.dumps(about, ensure_ascii=False).encode())
        self._until = time.monotonic() + self._timeout_s * extractors
        self.alive()

    def alive(self) -> None:
        """Say that work gets on: the watchdog waits another ``timeout_s``, though not for ever."""
        left_s = min(self._timeout_s, self._until - time.monotonic())
        faulthandler.dump_traceback_later(max(0.001, left_s), exit=True, file=self._words)

    def die(self, words: str) -> NoReturn:
        """End this process with some last words; what it named counts as begun."""
        self._words.write(f"{words}\n")
        self._words.flush()
        os._exit(1)

    def clear(self) -> None:
        """Say that nothing is being worked on."""
        faulthandler.cancel_dump_traceback_later()
        storage.delete([self._path])

    @property
    def _path(self) -> str:
        return self._store.path("begun", f"{self.name}.json")


def _words_file(name: str) -> Path:
    """Return where an actor's last words go on its node; words of an earlier week are thrown away."""
    folder = Path(tempfile.gettempdir()) / f"mmray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for old in folder.glob("*.txt"):
        with contextlib.suppress(FileNotFoundError):  # another actor was faster
            if time.time() - old.stat().st_mtime > 7 * 86_400:
                old.unlink()
    return folder / f"{name}.txt"


def leftovers(store: Store) -> list[Leftover]:
    """Read what dead actors (and those at work right now) have named."""
    found = []
    for entry in storage.files(store.path("begun"), ".json"):
        try:
            about = json.loads(storage.read_bytes(entry.uri))
        except FileNotFoundError:
            continue  # its owner has just finished
        keys = frozenset((str(s), str(c), int(n), str(i)) for s, c, n, i in about["segments"])
        name = Path(entry.uri).stem
        found.append(Leftover(name, keys, _last_words(about, name), _is_dead(about)))
    return found


def _is_dead(about: dict[str, Any]) -> bool:
    if about["node"] != socket.gethostname():
        return False
    try:
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _last_words(about: dict[str, Any], name: str) -> str:
    if about["node"] != socket.gethostname():
        return ""
    try:
        lines = _words_file(name).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[:12])


def record(key: Key, left: Sequence[Leftover]) -> Record:
    """Return what the leftovers say of one segment that nobody else works on now."""
    own = [leftover for leftover in left if key in leftover.keys]
    alone = sum(leftover.alone for leftover in own)
    deaths = len(own) if alone else 0
    words = next((leftover.words for leftover in reversed(own) if leftover.words), "")
    return Record(deaths, bool(own), words)


def forget(store: Store) -> None:
    """Delete every note: the run is over and all it named is in the ledger."""
    storage.delete(entry.uri for entry in storage.files(store.path("begun"), ".json"))
