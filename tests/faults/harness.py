"""Runs and what is seen of them: real processes of ``mmray``, their output, their store, and one Ray that they join."""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from tests.faults import corpus, oracle

if TYPE_CHECKING:
    from tests.faults.s3 import S3

SITE = Path(__file__).parent / "site"
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h
WAIT_S = 180.0
POLL_S = 0.05


class NeverError(Exception):
    """What a fault waits for did not happen: the fault shows nothing."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Wait until a condition holds; returns its value."""
    end = time.monotonic() + seconds * patience()
    while not (value := condition()):
        if time.monotonic() > end:
            raise NeverError(f"it did not come to this: {what}")
        time.sleep(POLL_S)
    return value


def patience() -> float:
    """Return by how much a busy machine may be slower (MMRAY_FAULTS_PATIENCE)."""
    return float(os.environ.get("MMRAY_FAULTS_PATIENCE", "1"))


class Driver:
    """One process of ``mmray``, leader of a group of its own; its output stands in files."""

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path, obeying: bool = False) -> None:
        """``obeying``: permissions of files hold for it even where it is root's."""
        self.words = words
        stem = folder / f"{words[0]}-{uuid.uuid4().hex[:8]}"
        self._out, self._err = stem.with_suffix(".out"), stem.with_suffix(".err")
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmray.cli", *words],
                env=environment,
                stdout=out,
                stderr=err,
                cwd=folder,
                start_new_session=True,
                preexec_fn=_without_root_powers if obeying and os.geteuid() == 0 else None,
            )

    @property
    def errors(self) -> str:
        """Return what it wrote to stderr so far."""
        return self._err.read_text(errors="replace")

    @property
    def result(self) -> dict[str, Any]:
        """Return the object it printed."""
        text = self._out.read_text()
        result: dict[str, Any] = json.loads(text) if text.strip() else {}
        return result

    @property
    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.running:
            self.process.send_signal(number)

    def interrupt(self) -> float:
        """Press Ctrl-C, which tells the whole group; returns the seconds until it has ended."""
        started = time.monotonic()
        if self.running:
            os.killpg(self.process.pid, signal.SIGINT)
        self.wait(60)
        return time.monotonic() - started

    def wait(self, seconds: float = WAIT_S) -> int:
        """Wait for the end; returns the exit code, -9 where it had to be killed."""
        try:
            return self.process.wait(seconds * patience())
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()


def _without_root_powers() -> None:
    """Give up the right of root to read and write what permissions forbid, for this process and its children."""
    library = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


class Head:
    """A Ray cluster on this machine that drivers join; its workers know the third party's extractors."""

    def __init__(self, cpus: float = 4, environment: dict[str, str] | None = None) -> None:
        from ray.cluster_utils import Cluster

        before = dict(os.environ)
        os.environ.update(
            {
                "PYTHONPATH": str(SITE),
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
            }
        )
        try:
            self.cluster = Cluster(initialize_head=True, head_node_args=_node(cpus))
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def environment(self) -> dict[str, str]:
        """Return what a driver needs to join."""
        return {"RAY_ADDRESS": self.cluster.address, "RAY_AUTH_MODE": "disabled"}

    def add_node(self, cpus: float) -> Any:
        """Add a node; returns it."""
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(SITE)
        try:
            return self.cluster.add_node(**_node(cpus))
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before

    def kill_gcs(self) -> None:
        """Kill the GCS server."""
        self.cluster.head_node.kill_gcs_server(check_alive=False)

    def close(self) -> None:
        """Stop every process of the cluster."""
        self.cluster.shutdown()


def _node(cpus: float) -> dict[str, Any]:
    return {"num_cpus": cpus, "object_store_memory": 100 * 2**20, "include_dashboard": False}


class Control:
    """The folder that holds, paces and frees the third party's extractors of one run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def hold(self, name: str = "hold") -> None:
        """Stop every model where it stands (``hold_load``: before it is loaded)."""
        (self.folder / name).touch()

    def free(self, name: str = "hold") -> None:
        """Let them go on."""
        (self.folder / name).unlink(missing_ok=True)

    def pace(self, seconds: float) -> None:
        """Let each item take so long."""
        temporary = self.folder / ".pace"
        temporary.write_text(str(seconds))
        temporary.replace(self.folder / "pace")


class Run:
    """One store, its configuration, and the processes that work on it."""

    def __init__(self, bench: "Bench", folder: Path, environment: dict[str, str], **keys: Any) -> None:
        self.bench, self.folder, self.environment = bench, folder, environment
        folder.mkdir(parents=True, exist_ok=True)
        self.control = Control(folder / "control")
        self.store = keys.pop("store", str(folder / "store"))
        self.keys = {
            "manifest": bench.manifest,
            "store": self.store,
            "segment_s": corpus.SEGMENT_S,
            "max_error_rate": 1,
            "resources": {"actors": 2, "decode_threads": 2},
            "extractors": extractors(),
        } | keys
        self.drivers: list[Driver] = []

    @property
    def path(self) -> Path:
        """Return the local folder of the store."""
        return Path(self.store)

    def configured(self, **keys: Any) -> Path:
        """Write the configuration; keyword arguments replace keys."""
        data = self.keys | keys
        data["extractors"] = [self._controlled(entry) for entry in data["extractors"]]
        path = self.folder / f"config-{uuid.uuid4().hex[:8]}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    def _controlled(self, entry: dict[str, Any]) -> dict[str, Any]:
        controlled = entry["name"] in {"gauge", "heard", "letters"}
        return entry | ({"control": str(self.control.folder)} if controlled else {})

    def start(self, fault: dict[str, Any] | None = None, obeying: bool = False, **keys: Any) -> Driver:
        """Start ``mmray extract``; ``fault`` is what MMRAY_FAULT says to it."""
        return self.verb("extract", str(self.configured(**keys)), fault=fault, obeying=obeying)

    def verb(self, *words: str, fault: dict[str, Any] | None = None, obeying: bool = False) -> Driver:
        """Start any verb, with ``--json``."""
        asked = (fault or {}) | ({"switches": self.bench.switches} if self.bench.switches else {})
        environment = self.environment | ({"MMRAY_FAULT": json.dumps(asked)} if asked else {})
        driver = Driver([*words, "--json"], environment, self.folder, obeying)
        self.drivers.append(driver)
        return driver

    def struck(self, signal_name: str, **strike: Any) -> tuple[Driver, float]:
        """Start ``mmray extract``, which a signal hits at a step; returns the process and the seconds it then took.

        ``strike``: as MMRAY_FAULT has it. NeverError where the process ends without coming to that step.
        """
        mark = self.folder / f"struck-{uuid.uuid4().hex[:8]}"
        driver = self.start(fault={"strike": {"signal": signal_name, "mark": str(mark), **strike}})
        wait_for(lambda: mark.exists() or not driver.running, f"the step {strike}")
        if not mark.exists():
            raise NeverError(f"the run ended without {strike}: {driver.errors[-300:]}")
        driver.wait(60)
        return driver, time.time() - mark.stat().st_mtime

    def commits(self) -> list[Path]:
        """List the files of the ledger."""
        return sorted(self.path.glob("ledger/*.parquet"))

    def parts(self) -> list[Path]:
        """List the parts of the windows tables."""
        return sorted(self.path.glob("windows/*/*.parquet"))

    def notes(self) -> list[dict[str, Any]]:
        """Return what actors wrote down before they began."""
        found = []
        for path in self.path.glob("attempts/*.json"):
            try:
                found.append(json.loads(path.read_text()))
            except (FileNotFoundError, ValueError):
                continue  # its actor has just finished
        return found

    def working(self) -> list[dict[str, Any]]:
        """Return the notes of actors that live and have begun a segment (not those that load a model)."""
        return [
            note
            for note in self.notes()
            if psutil.pid_exists(note["pid"]) and any(segment[0] for segment in note["segments"])
        ]

    def close(self) -> None:
        """End what still runs, whatever state it is in."""
        self.control.free()
        self.control.free("hold_load")
        for driver in self.drivers:
            if driver.running:
                driver.signal(signal.SIGCONT)
                driver.kill()


def extractors() -> list[dict[str, Any]]:
    """Return the extractors of most runs: none needs torch, and one is under the control of the test."""
    return [
        {"name": "descriptors"},
        {"name": "pixels", "fps": 2, "side_px": 6},
        {"name": "gauge"},
    ]


def derived() -> list[dict[str, Any]]:
    """Return extractors of which one reads the text of another."""
    return [{"name": "pixels", "fps": 2, "side_px": 6}, {"name": "heard"}, {"name": "letters", "source": "heard.text"}]


class Bench:
    """What all faults share: a corpus, one Ray, undisturbed runs; made when first needed."""

    def __init__(
        self, folder: Path, seed: int = 0, switches: Collection[str] = (), undisturbed: "Bench | None" = None
    ) -> None:
        """``switches``: promises that all runs break on purpose; ``undisturbed``: the bench that knows better."""
        self.folder, self.seed, self.switches = folder, seed, list(switches)
        self._undisturbed = undisturbed or self
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "MMRAY_FAULT"},
            "PYTHONPATH": str(SITE),
            "RAY_ADDRESS": "",
            "OMP_NUM_THREADS": "1",
        }
        self._head: Head | None = None
        self._s3: S3 | None = None
        self._references: dict[str, oracle.Tables] = {}

    @cached_property
    def media(self) -> Path:
        """Return the folder of the corpus."""
        if self._undisturbed is not self:
            return self._undisturbed.media
        return corpus.make(self.folder / "media", self.seed)

    @cached_property
    def manifest(self) -> str:
        """Return the manifest of the corpus."""
        if self._undisturbed is not self:
            return self._undisturbed.manifest
        return corpus.manifest_of(self.media, self.folder / "manifest.parquet")

    @property
    def head(self) -> Head:
        """Return the Ray that most drivers join."""
        if self._head is None:
            fault = {"MMRAY_FAULT": json.dumps({"switches": self.switches})} if self.switches else {}
            self._head = Head(environment=fault)
        return self._head

    @property
    def s3(self) -> "S3":
        """Return the S3 server; runs that use it join its own Ray, whose workers know where it is."""
        if self._s3 is None:
            from tests.faults.s3 import S3

            self._s3 = S3(self.folder, self.media, self.seed)
        return self._s3

    def random(self, name: str) -> random.Random:
        """Return the random numbers of one fault: those of the seed, whatever else ran."""
        return random.Random(f"{self.seed} {name}")

    @contextmanager
    def run(self, name: str, embedded: bool = False, head: Head | None = None, **keys: Any) -> Iterator[Run]:
        """Give a run a folder of its own; whatever it started has ended afterwards."""
        joined = {} if embedded else (head or self.head).environment
        if self._s3 is not None:
            joined = joined | self._s3.environment
        folder = self.folder / "runs" / f"{name.replace(' ', '-').replace('/', '-')}-{uuid.uuid4().hex[:6]}"
        run = Run(self, folder, self.environment | joined, **keys)
        try:
            yield run
        finally:
            run.close()

    def reference(self, name: str = "standard", head: Head | None = None, **keys: Any) -> oracle.Tables:
        """Return the tables of an undisturbed run."""
        if self._undisturbed is not self:
            return self._undisturbed.reference(name, head, **keys)
        if name not in self._references:
            with self.run(f"undisturbed {name}", head=head, **keys) as run:
                driver = run.start()
                if driver.wait() != 0:
                    raise NeverError(f"the undisturbed run itself failed: {driver.errors}")
                self._references[name] = oracle.read(run.path)
        return self._references[name]

    def close(self) -> None:
        """Stop Ray."""
        if self._s3 is not None:
            self._s3.close()
        if self._head is not None:
            self._head.close()
