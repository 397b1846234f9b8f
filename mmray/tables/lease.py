"""The lease of a store: one writer at a time, and a token that grows with every holder.

``STORE/lock.json`` is the lease. It is taken and renewed by compare-and-swap only. A lease is stale when its process is
gone from this machine, or when it was not renewed for STALE_S by the clock of the storage; clocks of machines are never
compared. ``STORE/generation.json`` keeps the token after the lease is released.

A suspended process cannot notice that it was suspended. So a holder asks the storage again before it writes
(``Lease.check``) where its last answer is older than CHECK_S, and what it still writes in between carries its token,
which readers put behind that of a later holder (see ``mmray.tables.ledger``).
"""

import contextlib
import errno
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmray import storage
from mmray.errors import MmrayError
from mmray.storage_cas import age_s, compare_and_delete, compare_and_swap, read_tagged
from mmray.tables.store import Store

log = logging.getLogger(__name__)

VERSION = 1
STALE_S = 120.0  # by the clock of the storage: a lease not renewed for so long belongs to a dead run
RENEW_S = 20.0
CHECK_S = 10.0  # an answer of the storage this young is believed
MARGIN_S = 30.0  # a holder gives up so much earlier than another run may take over
RELEASE_S = 5.0  # how long a renewal that hangs may delay the end of a run
TOKEN = re.compile(r"^part-(\d{8,})-")  # starts the names of files of the ledger
FILE, GENERATION = "lock.json", "generation.json"


class LeaseLostError(MmrayError):
    """Another run took over the store, or this one cannot tell whether it did; nothing more may be written."""


class Held(NamedTuple):
    """The content of a lease file and its tag; ``content`` is None where it is no JSON."""

    content: dict[str, Any] | None
    tag: str


class Lease:
    """A held lease, renewed by a thread until ``release``."""

    def __init__(self, store: Store, run_id: str, token: int, tag: str, nonce: str, asked_s: float) -> None:
        self.store, self.run_id, self.token = store, run_id, token
        self.note: str | None = None
        self._uri = store.path(FILE)
        self._tag, self._nonce = tag, nonce
        self._confirmed_s = asked_s
        self._failures = 0
        self._lost: str | None = None
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        """Start to renew the lease."""
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLostError unless this run is the holder; cheap where the storage said so just now."""
        if self._lost is None and now_s() - self._confirmed_s < CHECK_S:
            return
        with self._mutex:
            if self._lost is None and now_s() - self._confirmed_s >= CHECK_S:
                self._renew()
            unsure_s = now_s() - self._confirmed_s
        if self._lost is not None:
            raise LeaseLostError(f"{self.store.uri}: {self._lost}")
        if unsure_s > STALE_S - MARGIN_S:
            raise LeaseLostError(
                f"{self.store.uri}: the lease could not be renewed for {unsure_s:.0f} s, so another run may have taken "
                "over; what was committed is kept, run the same command again"
            )

    def release(self) -> None:
        """Delete the lease where it is still this run's; it becomes stale where the storage does not answer."""
        self._stop.set()
        self._thread.join(RELEASE_S)
        if self._thread.is_alive() or self._lost is not None:
            return
        try:
            self.delete()
        except (OSError, MmrayError) as error:
            log.warning("%s could not be deleted (%s); the next run takes it over", self._uri, error)

    def delete(self) -> None:
        """Delete the lease file where it is this run's."""
        held = read(self.store)
        if held is not None and self._is_own(held):
            compare_and_delete(self._uri, held.tag)

    def raise_token(self, token: int) -> bool:
        """Put a higher token into the lease before anything is written under it; tell whether that succeeded."""
        self.token = token
        tag = compare_and_swap(self._uri, self._tag, ticket(self.run_id, token, self._nonce))
        self._tag = tag or self._tag
        return tag is not None

    def _keep(self) -> None:
        wait_s = RENEW_S
        while not self._stop.wait(wait_s):
            with self._mutex:
                if self._stop.is_set() or self._lost is not None:
                    return
                self._renew()
                wait_s = RENEW_S if self._failures == 0 else RENEW_S / 4

    def _renew(self) -> None:
        """Renew, or find out who holds the lease now. What the storage does not answer is counted, and tried again."""
        asked_s = now_s()
        try:
            tag = compare_and_swap(self._uri, self._tag, ticket(self.run_id, self.token, self._nonce))
            if tag is None:
                tag = self._explained()
        except MmrayError as error:  # a lease of another version
            self._lost = str(error)
            return
        except OSError as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("%s could not be renewed, trying again: %s", self._uri, error)
            return
        if tag is None:
            return
        if self._failures:
            log.info("%s is renewed again, after %d failure(s)", self._uri, self._failures)
        self._tag, self._confirmed_s, self._failures = tag, asked_s, 0

    def _explained(self) -> str | None:
        """Return the lease's tag where a swap failed though it is still this run's; else note who took over."""
        held = read(self.store)
        if held is not None and self._is_own(held):  # an earlier renewal had arrived after all
            return held.tag
        if held is None and stored_token(self.store) == self.token:  # deleted, and nobody was holder since
            tag = compare_and_swap(self._uri, None, ticket(self.run_id, self.token, self._nonce))
            if tag is not None:
                return tag
            held = read(self.store)
        about = (held.content if held else None) or {}
        self._lost = (
            f"the run {about['run_id']} took over this store while this run was suspended or cut off from it"
            if "run_id" in about
            else "its lease is gone: another run took over while this run was suspended, or the store was deleted"
        ) + "; what was committed is kept, run the same command again"
        return None

    def _is_own(self, held: Held) -> bool:
        content = held.content or {}
        return content.get("nonce") == self._nonce and content.get("token") == self.token


@contextmanager
def hold(store: Store, run_id: str) -> Iterator[Lease]:
    """Hold the store's lease; MmrayError, naming the holder, while another run is alive."""
    lease = _acquired(store, run_id)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


def holder(store: Store) -> dict[str, Any] | None:
    """Return what the lease file says of the run that is at work, None where none is."""
    held = read(store)
    if held is None or held.content is None or not _is_alive(store, held.content):
        return None
    return held.content


def token(store: Store) -> int:
    """Return the highest token that was ever given out, 0 where none was."""
    ledger = (entry.uri.rpartition("/")[2] for entry in storage.files(store.path("ledger"), ".parquet"))
    return max([stored_token(store), *(int(match[1]) for name in ledger if (match := TOKEN.match(name)))])


def stored_token(store: Store) -> int:
    """Return the token of the last holder, 0 where there was none, or its file is damaged."""
    try:
        return int(json.loads(read_tagged(store.path(GENERATION))[0])["token"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return 0


def read(store: Store) -> Held | None:
    """Return the lease, None where there is none; MmrayError for one of another version."""
    try:
        data, tag = read_tagged(store.path(FILE))
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return Held(None, tag)
    if content.get("version", 0) not in (0, VERSION):  # 0: written before leases had tokens
        raise MmrayError(
            f"{store.path(FILE)}: was written by another version of mmray (lease version {content['version']}, this "
            f"one knows {VERSION}): use that one, or delete the file if no run is at work"
        )
    return Held(content, tag)


def ticket(run_id: str, token: int, nonce: str) -> bytes:
    """Return the content of a lease file; ``renewed`` is for people, nothing compares it."""
    content = {
        "version": VERSION,
        "token": token,
        "nonce": nonce,
        "run_id": run_id,
        "node": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "renewed": time.time(),
    }
    return json.dumps(content).encode()


def now_s() -> float:
    """Return the seconds since this machine started; they run on while it or this process is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _acquired(store: Store, run_id: str) -> Lease:
    nonce, unreadable = uuid.uuid4().hex, 0
    for _ in range(20):
        held = read(store)
        if held is not None and held.content is None and unreadable < 2:
            unreadable += 1  # a lease that stays unreadable for a second belongs to a run killed while it wrote it
            time.sleep(0.5)
            continue
        if held is not None and held.content is not None and _is_alive(store, held.content):
            raise MmrayError(f"{store.uri}: {_named(held.content)} is writing to this store; wait for it")
        if (lease := _taken(store, run_id, nonce, held)) is not None:
            return lease
    raise MmrayError(f"{store.uri}: other runs keep taking the lease; start this one again later")


def _taken(store: Store, run_id: str, nonce: str, dead: Held | None) -> Lease | None:
    """Take a free lease, or that of a dead run; None where another run was faster."""
    content = (dead.content if dead else None) or {}
    number, asked_s = 1 + max(token(store), int(content.get("token", 0))), now_s()
    tag = compare_and_swap(store.path(FILE), dead.tag if dead else None, ticket(run_id, number, nonce))
    if tag is None:
        return None
    lease = Lease(store, run_id, number, tag, nonce, asked_s)
    try:
        if not _registered(lease):
            return None
    except BaseException:
        with contextlib.suppress(OSError):
            lease.delete()
        raise
    if dead is not None:
        where = content.get("node", "an unknown machine")
        lease.note = f"took over the lease of the dead run {content.get('run_id', 'unknown')} (on {where})"
    return lease


def _registered(lease: Lease) -> bool:
    """Write the token down before anything is committed under it; False where the lease was lost meanwhile.

    Another run may have come and gone since the token was chosen: it is raised above all there are.
    """
    uri = lease.store.path(GENERATION)
    while True:
        try:
            tag = read_tagged(uri)[1]
        except FileNotFoundError:
            tag = None
        highest = token(lease.store)
        if highest >= lease.token and not lease.raise_token(highest + 1):
            return False
        content = json.dumps({"token": lease.token, "run_id": lease.run_id}).encode()
        if compare_and_swap(uri, tag, content) is not None:
            return True


def _named(content: dict[str, Any]) -> str:
    where = f"on {content.get('node', 'an unknown machine')}, process {content.get('pid', 'unknown')}"
    return f"the run {content.get('run_id', 'unknown')} ({where})"


def _is_alive(store: Store, content: dict[str, Any]) -> bool:
    """Tell whether a lease is a living run's: its process is not gone, and it was renewed by the storage's clock.

    It counts as living where its age cannot be measured, for want of the right to write.
    """
    here = content.get("node") == socket.gethostname() and content.get("machine", _machine()) == _machine()
    if here and not _is_process(int(content["pid"]), content.get("started")):
        return False
    try:
        return age_s(store.path(FILE)) < STALE_S
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return True
        raise


def _is_process(pid: int, started: str | None) -> bool:
    """Tell whether a process of this machine runs, and is the one that started then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _started(pid)
    return now is None or (now != "" and started in (None, now))


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; empty for a dead one, None where that cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]


@cache
def _machine() -> str:
    """Return what tells the processes of two machines, or containers, of one name apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
