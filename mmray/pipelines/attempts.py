"""Attempts: what each worker processes, written down before it starts, so that a crash is blamed on its segment.

A worker keeps one small file under STORE/attempts that names the segments it processes. When the worker dies, the file
stays, and the worker that receives the same segments next judges it: a crash, or an interruption (a lost node, a
stopped process, memory that other programs used up). Only a crash counts against a segment. It can only be judged
while the driver of the same run lives, so an interrupted or killed driver never counts; crashes that were judged
survive the driver. A crash of a worker that processed several segments makes them suspects, which then run alone.
"""

import contextlib
import faulthandler
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from mmray import storage
from mmray.errors import MmrayError, Reason
from mmray.pipelines.watchdog import NEIGHBOUR, STOPPED, Watchdog
from mmray.tables.store import Store

Key = tuple[str, str, int, str]  # sample_id, source, segment, input
LOADING: Key = ("", "", -1, "")  # stands for the loading of models, which may crash as well
CRASH, INTERRUPTION = "crash", "interruption"
MAX_INTERRUPTIONS = 20  # of one segment in one run: a machine that keeps interrupting must not keep a run for ever
WORDS_DAYS = 7
WORDS_LINES = 12
WORDS_DELAY_S = 0.5  # the outer watchdog writes them when the worker is gone


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker that died was processing, its last words, and the verdict on its death (None: not judged yet)."""

    name: str
    run_id: str
    keys: frozenset[Key]
    node: str
    node_id: str
    pid: int
    words: str
    verdict: str | None

    @property
    def alone(self) -> bool:
        """Tell whether only one segment can have caused the death."""
        return len(self.keys) == 1

    @property
    def process_is_gone(self) -> bool:
        """Tell whether the process ran on this node and exists no longer."""
        if self.node != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def judged(self, lost: Callable[[str], bool]) -> "Attempt":
        """Return the attempt with its verdict; ``lost`` tells whether a node (by its id) is no longer there."""
        interrupted = self.words.startswith((STOPPED, NEIGHBOUR)) or (self.node_id and lost(self.node_id))
        return replace(self, verdict=INTERRUPTION if interrupted else CRASH)


@dataclass(frozen=True, slots=True)
class CrashHistory:
    """How often the process that worked on a segment crashed, and whether the segment must run alone."""

    crashes: int
    interruptions: int
    suspect: bool
    words: str

    @property
    def reason(self) -> Reason:
        """Return ``timeout`` where the watchdog ended the process, else ``crashed``."""
        return Reason.TIMEOUT if "Timeout (" in self.words else Reason.CRASHED

    @property
    def detail(self) -> str:
        """Describe the crashes in words."""
        last = self.words.strip() or "none: the process ended without a message (out of memory, kill -9, exit)"
        hint = "; where it is slow and does not hang, raise timeout_s" if self.reason is Reason.TIMEOUT else ""
        return f"its process died {self.crashes} times{hint}; last words: {last}"


class AttemptLog:
    """The attempt file of this worker, and the watchdogs that guard the segments it names.

    ``node_id``: Ray's id of the node, empty without Ray.
    """

    def __init__(self, store: Store, run_id: str, timeout_s: float, node_id: str = "") -> None:
        self._store, self._run_id, self._node_id = store, run_id, node_id
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self.name = f"{run_id}-{uuid.uuid4().hex[:12]}"
        path = _words_path(self.name)
        self._words = path.open("w")
        faulthandler.enable(self._words)
        self._watchdog = Watchdog(timeout_s, path)

    def begin(self, keys: Sequence[Key], extractor_count: int = 1) -> None:
        """Name the segments that are processed from now on, and give the newest ``timeout_s`` seconds.

        While its models make progress (see ``heartbeat``) it has as many times that as there are extractors.
        """
        content = {
            "run_id": self._run_id,
            "segments": sorted(keys),
            "node": socket.gethostname(),
            "node_id": self._node_id,
            "pid": os.getpid(),
            "verdict": None,
        }
        storage.put(self._path, json.dumps(content, ensure_ascii=False).encode())
        self._deadline = time.monotonic() + self._timeout_s * extractor_count
        self.heartbeat()

    def heartbeat(self) -> None:
        """Report progress: the watchdog waits another ``timeout_s``, up to the total limit."""
        left_s = min(self._timeout_s, self._deadline - time.monotonic())
        faulthandler.dump_traceback_later(max(0.001, left_s), exit=True, file=self._words)

    def end_process(self, words: str) -> NoReturn:
        """End this process with some last words; the segments it names count as begun."""
        self._words.write(f"{words}\n")
        self._words.flush()
        os._exit(1)

    def finish(self) -> None:
        """Record that nothing is being processed."""
        faulthandler.cancel_dump_traceback_later()
        storage.delete([self._path])

    @property
    def _path(self) -> str:
        return _path(self._store, self.name)


def _path(store: Store, name: str) -> str:
    return store.path("attempts", f"{name}.json")


def _words_path(name: str) -> Path:
    """Return where a worker's last words go on its node; words older than a week are deleted."""
    folder = Path(tempfile.gettempdir()) / f"mmray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.glob("*.txt"):
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            if time.time() - path.stat().st_mtime > WORDS_DAYS * 86_400:
                path.unlink()
    return folder / f"{name}.txt"


def read(store: Store) -> list[Attempt]:
    """Read the attempts of workers that died, and of those at work right now."""
    attempts = []
    for entry in storage.files(store.path("attempts"), ".json"):
        try:
            content = json.loads(storage.read_bytes(entry.uri))
        except FileNotFoundError:
            continue  # its worker has just finished
        except ValueError:
            continue  # a file that a full disk cut short blames nobody
        keys = frozenset((str(s), str(c), int(n), str(i)) for s, c, n, i in content["segments"])
        name = entry.uri.rpartition("/")[2].removesuffix(".json")
        here = content["node"] == socket.gethostname()
        words = content.get("words") or (_words_of(name) if here else "")
        attempts.append(
            Attempt(
                name, content["run_id"], keys, content["node"], content["node_id"], int(content["pid"]), words,
                content["verdict"],
            )
        )  # fmt: skip
    return attempts


def _words_of(name: str) -> str:
    """Return the last words of a worker on this node, empty where it left none."""
    try:
        lines = _words_path(name).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[:WORDS_LINES])


def judge(store: Store, run_id: str, keys: Iterable[Key], lost: Callable[[str], bool]) -> dict[Key, CrashHistory]:
    """Judge the deaths of workers of this run that processed some segments; return the history of each segment.

    The caller has just received these segments, so no other worker of its run processes them any more.
    """
    keys = list(keys)
    named = [attempt for attempt in read(store) if not attempt.keys.isdisjoint(keys)]
    judged = [_with_verdict(store, attempt, run_id, lost) for attempt in named]
    return {key: _history(key, judged) for key in keys}


def judge_loading(store: Store, run_id: str, lost: Callable[[str], bool]) -> CrashHistory:
    """Judge the workers of this run that died while they loaded models."""
    named = [attempt for attempt in read(store) if LOADING in attempt.keys and attempt.run_id == run_id]
    gone = [attempt for attempt in named if attempt.verdict or attempt.process_is_gone]
    return _history(LOADING, [_with_verdict(store, attempt, run_id, lost) for attempt in gone])


def _with_verdict(store: Store, attempt: Attempt, run_id: str, lost: Callable[[str], bool]) -> Attempt:
    if attempt.verdict is not None or attempt.run_id != run_id:
        return attempt
    if not attempt.words and attempt.node == socket.gethostname():
        time.sleep(WORDS_DELAY_S)
        attempt = replace(attempt, words=_words_of(attempt.name))
    judged = attempt.judged(lost)
    content = {
        "run_id": judged.run_id,
        "segments": sorted(judged.keys),
        "node": judged.node,
        "node_id": judged.node_id,
        "pid": judged.pid,
        "verdict": judged.verdict,
        "words": judged.words,
    }
    storage.put(_path(store, judged.name), json.dumps(content, ensure_ascii=False).encode())
    return judged


def _history(key: Key, attempts: Sequence[Attempt]) -> CrashHistory:
    involved = [attempt for attempt in attempts if key in attempt.keys]
    crashes = [attempt for attempt in involved if attempt.verdict == CRASH]
    interruptions = [attempt for attempt in involved if attempt.verdict == INTERRUPTION]
    # A crash among several segments counts once the segment has also crashed a worker alone.
    counted = len(crashes) if any(attempt.alone for attempt in crashes) else 0
    words = next((attempt.words for attempt in reversed(crashes) if attempt.words), "")
    return CrashHistory(counted, len(interruptions), bool(crashes), words)


def check_interruptions(history: CrashHistory, sample_id: str) -> None:
    """Raise MmrayError where a segment was interrupted so often that the run cannot get past it."""
    if history.interruptions >= MAX_INTERRUPTIONS:
        raise MmrayError(
            f"the worker on {sample_id} was interrupted {history.interruptions} times in this run (lost nodes, stopped "
            f"processes or memory that other programs use up); mend the machines and run the same command again"
        )


def forget_interrupted(store: Store) -> None:
    """Delete what earlier drivers left without a verdict: they were interrupted, which blames no segment."""
    names = [attempt.name for attempt in read(store) if attempt.verdict != CRASH]
    storage.delete(_path(store, name) for name in names)


def forget_all(store: Store) -> None:
    """Delete every attempt: the run is over and all segments are in the ledger."""
    storage.delete(entry.uri for entry in storage.files(store.path("attempts"), ".json"))
