"""Connect to Ray: an embedded one on this machine, or the cluster that RAY_ADDRESS names."""

import contextlib
import importlib
import inspect
import io
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmray import storage
from mmray.config import Resources
from mmray.errors import ConfigError, MmrayError, in_words, plainly
from mmray.pipelines import interrupts

log = logging.getLogger(__name__)

MOST_THREADS = 16  # of an actor that decode, each into 64 MB at most
BROKEN = 3  # the exit code of a run that failed as a whole
CHECK_S = 2.0  # between checks of Ray's head, and the time limit of each
MISSES = 5  # checks in a row without an answer: the head is lost. Ray itself waits 62 s and ends with 1, silently
NODE_CHECKS = 5  # of them between two looks at the node of this process
LOST = "the connection to Ray's head (%s) was lost; what was committed is kept: run the same command again"
# "mmray.errors.ConfigError: ...", the last line of a traceback.
LAST_LINE = re.compile(r"^\s*(?:\w+\.)*(\w+(?:Error|Exception|Exit|Interrupt)): (.+)$", re.MULTILINE)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Yield the ``ray`` module, connected; an embedded Ray is stopped again at the end.

    Where Ray's head is lost meanwhile, this process ends with exit code 3. MmrayError where Ray does not start.
    """
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",  # also stops the probes of cloud metadata addresses
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ side logs restartable actors as errors (ray issue 53727)
        # Start-up on a busy machine: the limits of the GCS (30 s), of the raylet's wait for its agents (30 s)
        # and of workers (60 s).
        "RAY_gcs_server_port_wait_time_s": "120",
        "RAY_agent_register_timeout_ms": "240000",
        "RAY_worker_register_timeout_seconds": "240",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    # Ray prints the deaths of workers on stdout, which belongs to the account.
    with contextlib.redirect_stdout(sys.stderr if log.isEnabledFor(logging.DEBUG) else _NotOfRay()):
        _start(ray)
        try:
            with _head_watched(ray):
                yield ray
        finally:
            ray.shutdown()


class _NotOfRay(io.TextIOBase):
    """Writes to stderr what others than Ray's own threads print."""

    def write(self, text: str) -> int:
        if not threading.current_thread().name.startswith("ray_"):
            sys.stderr.write(text)
        return len(text)


def _start(ray: Any) -> None:
    """Connect; MmrayError in one sentence where that fails."""
    if address := os.environ.get("RAY_ADDRESS"):
        log.info("using the Ray cluster at %s", address)
        if failure := _failure(ray, address):
            raise MmrayError(
                f"the Ray cluster at {address} (RAY_ADDRESS) cannot be used: {failure}; start it, or unset "
                "RAY_ADDRESS: then mmray starts a Ray of its own"
            )
    else:
        _start_embedded(ray)
    _quiet()


def _start_embedded(ray: Any) -> None:
    """Start a Ray of our own, at the second attempt with a fresh session."""
    log.info("starting Ray")
    failure = _failure(ray, None)
    if failure is not None:
        log.warning("Ray did not start (%s); trying once more", failure)
        failure = _failure(ray, None)
    if failure is not None:
        raise MmrayError(
            f"Ray does not start on this machine: {failure}; it may be too busy or lack memory: end other programs, "
            "or try again later; --verbose shows what Ray says"
        )


def _failure(ray: Any, address: str | None) -> str | None:
    """Connect; returns what went wrong, with nothing left of the attempt, or None."""
    # ERROR: Ray warns at every start that its token authentication, which is on by default, is on.
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": log.isEnabledFor(logging.DEBUG)}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    before = _children()
    try:
        if address is None:
            with _agents_not_awaited(), _without_stderr():
                # "local": without it Ray would try to join whatever a killed `ray start` left behind.
                ray.init(address="local", num_cpus=cores(), include_dashboard=False, **options)
        elif _is_silent(address):
            return "nothing answers there"
        else:
            with _without_stderr():
                ray.init(address=address, **options)
    except SystemExit:  # Ray's own handler of SIGTERM
        _kill_ray(ray, before)
        raise KeyboardInterrupt from None
    except KeyboardInterrupt:
        _kill_ray(ray, before)
        raise
    except Exception as error:  # Ray raises plain Exception, and whatever its parts raise
        log.debug("Ray did not start", exc_info=True)
        _kill_ray(ray, before)
        return _first_line(error)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own, which skips every clean-up
    return None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send what C++ writes to stderr nowhere, except with --verbose: Ray logs there that it was told to log less."""
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _agents_not_awaited() -> Iterator[None]:
    """Let the raylet start without its two agents, which come up beside it.

    It waits for the files with their ports, for 15 s and with no setting (node_manager.cc,
    WaitForDashboardAgentPorts); the agents' imports take longer than that on a busy machine. An embedded Ray needs
    neither the dashboard's agent (-1: there is none) nor, before a worker wants an environment, the other one.
    """
    from ray._private import services

    raylet: Any = importlib.import_module("ray._raylet")
    start = services.start_raylet

    def start_raylet(*values: Any, **named: Any) -> Any:
        call = inspect.signature(start).bind(*values, **named)
        for name in (
            raylet.METRICS_AGENT_PORT_NAME, raylet.METRICS_EXPORT_PORT_NAME, raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        ):  # fmt: skip
            raylet.persist_port(call.arguments["session_dir"], call.arguments["node_id"], name, -1)
        call.arguments["runtime_env_agent_port"] = _free_port()
        return start(*call.args, **call.kwargs)

    services.start_raylet = start_raylet
    try:
        yield
    finally:
        services.start_raylet = start


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _children() -> set[int]:
    """Return the ids of the processes that this one has started."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for pids in lists for pid in pids.split()}


def _kill_ray(ray: Any, before: set[int]) -> None:
    """End what an attempt to start Ray has left: with it running, the next one has even less of a busy machine."""
    ray.shutdown()
    package = str(Path(ray.__file__).parent)
    for pid in _children() - before:
        with contextlib.suppress(OSError):  # it has just ended by itself
            if package in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


def _is_silent(address: str) -> bool:
    """Tell whether nothing answers at HOST:PORT; where Ray connects by other means, Ray says so itself."""
    host, _, port = address.rpartition(":")
    return port.isdecimal() and not any(_answers(host.rpartition("/")[2], int(port)) for _ in range(3))


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=CHECK_S).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _head_watched(ray: Any) -> Iterator[None]:
    """End this process when Ray's head does not answer any more; callbacks of interrupts.last_resort are run."""
    stopped = threading.Event()
    threading.Thread(target=_watch_head, args=(ray, stopped), name="head", daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


def _watch_head(ray: Any, stopped: threading.Event) -> None:
    address, node = ray.get_runtime_context().gcs_address, ray.get_runtime_context().get_node_id()
    host, _, port = address.rpartition(":")
    misses = checks = 0  # misses in a row, not seconds: a process that was suspended for an hour has missed nothing
    while not stopped.wait(CHECK_S):
        checks += 1
        misses = 0 if _answers(host, int(port)) else misses + 1
        # The GCS marks a node dead some 15 s after its raylet has gone; without the driver's own, Ray starts nothing.
        raylet_gone = not misses and not checks % NODE_CHECKS and node not in _living(ray)
        if (misses == MISSES or raylet_gone) and not stopped.is_set():
            interrupts.end(BROKEN, LOST % (f"the Ray process of this machine, {node[:8]}" if raylet_gone else address))


def _living(ray: Any) -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def root_cause(error: BaseException) -> MmrayError:
    """Return what an error of Ray comes from, as an error to raise in its place.

    ConfigError and MmrayError of a worker come back as they were; --verbose shows all of it.
    """
    log.debug("%s", error)
    inner = _innermost(error)
    if isinstance(inner, MmrayError):
        return type(inner)(*inner.args) if type(inner) in (ConfigError, MmrayError) else MmrayError(str(inner))
    if inner is not None:
        return MmrayError(f"the run broke off: {in_words(inner)}")
    import ray.exceptions

    # Ray Data keeps only the text of what was raised; it puts advice and exceptions of its own behind it.
    lines = [(kind, words) for kind, words in LAST_LINE.findall(str(error)) if not hasattr(ray.exceptions, kind)]
    kind, words = lines[-1] if lines else ("", _first_line(error))
    if kind == ConfigError.__name__:
        return ConfigError(words)
    if kind == MmrayError.__name__:
        return MmrayError(words)
    return MmrayError(f"the run broke off: {plainly(words) or (f'{kind}: {words}' if kind else words)}")


def _innermost(error: BaseException) -> BaseException | None:
    """Return the exception inside Ray's wrappers, or None where Ray kept only its text."""
    import ray.exceptions

    seen: list[BaseException] = []
    inside: BaseException | None = error
    while inside is not None and inside not in seen:
        seen.append(inside)
        inside = getattr(inside, "cause", None) or inside.__cause__
    causes = [cause for cause in seen if not isinstance(cause, ray.exceptions.RayError) and str(cause)]
    return causes[-1] if causes else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


@dataclass(frozen=True, slots=True)
class Pool:
    """The sizes of an actor pool that grows onto nodes that join."""

    least: int
    now: int  # at the start: what the nodes hold
    most: int
    gpus_each: float


def elastic_pool(ray: Any, resources: Resources, batches: int) -> Pool:
    """Return the sizes of a pool for so many calls; ConfigError where not even the least number of actors fits.

    Without ``resources.actors`` it may grow to one actor a call: Ray adds only what fits the nodes.
    """
    least, now, gpus_each = pool_size(ray, resources, batches)
    if resources.actors is None:
        return Pool(1, now, max(1, batches), gpus_each)
    return Pool(least, max(least, min(now, _fitting(ray, resources, gpus_each))), now, gpus_each)


def _fitting(ray: Any, resources: Resources, gpus_each: float) -> int:
    return room(ray, resources.cpus_per_actor, gpus_each, "resources.gpus_per_actor")


def _quiet() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # What Ray Data logs as an error is raised as well, and told once, by whoever asked for the run.
    level = logging.ERROR if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(level)


def check_shared(ray: Any, store: str, witness: str, key: str = "store") -> None:
    """Refuse a relative store, or one on a disk of a single node, where there are several nodes.

    Each would write its own. ``store`` is as configured under ``key``; ``witness`` is a file of it that every node must
    see.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if storage.is_remote(store) or len(nodes) < 2:
        return
    mend = "give a URL (s3://...) or a folder on a file system that all nodes mount"
    if storage.absolute(store) != str(storage.local_path(store)):
        raise ConfigError(
            f"{key}: {store!r} is relative, and each of the {len(nodes)} nodes would take it its own way; {mend}"
        )
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(storage.exists)
    on = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    seen = ray.get([look.options(scheduling_strategy=strategy).remote(witness) for strategy in on])
    if not all(seen):
        raise ConfigError(f"{key}: {store} is not there on {seen.count(False)} of {len(nodes)} nodes; {mend}")


def pool_size(ray: Any, resources: Resources, batches: int = sys.maxsize) -> tuple[int, int, float]:
    """Return least and most actors for so many calls, and GPUs for each; ConfigError where not even one fits."""
    gpus = max(node.get("GPU", 0) for node in nodes(ray))
    gpus_each = resources.gpus_per_actor if resources.gpus_per_actor is not None else float(min(gpus, 1))
    fit = room(ray, resources.cpus_per_actor, gpus_each, "resources.gpus_per_actor")
    least, most = resources.actors or (max(1, fit), max(1, fit))
    if fit < least:
        need = f"{least} actor(s) with {resources.cpus_per_actor:g} CPU and {gpus_each:g} GPU each"
        if not (os.environ.get("RAY_ADDRESS") and resources.actors):
            raise ConfigError(
                f"resources: {need} do not fit: there is {described(ray)}; lower resources.actors or gpus_per_actor"
            )
        log.warning("%s do not fit yet: the cluster has %s; waiting for it to grow", need, described(ray))
    return max(1, min(least, batches)), max(1, min(most, batches)), gpus_each


def decode_threads(ray: Any, actors: int) -> int:
    """Return how many segments each of some actors decodes at once, so that they fill the cluster."""
    cpus = sum(node.get("CPU", 0) for node in nodes(ray))
    return min(MOST_THREADS, max(2, int(cpus / actors)))


def nodes(ray: Any) -> list[dict[str, float]]:
    """Return what each living node has, by the name of the resource."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def described(ray: Any) -> str:
    """Say what the nodes have."""
    return " + ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes(ray))


def room(ray: Any, cpus: float, gpus: float, key: str) -> int:
    """Return how many processes with so many CPUs and GPUs the nodes hold; Ray shares one GPU, never a part of two.

    ConfigError, naming ``key``, for more than one GPU and a part of one, of which Ray starts none.
    """
    if gpus > 1 and gpus % 1:
        raise ConfigError(f"{key}: a share of one GPU, or whole ones (given: {gpus:g})")
    return sum(min(_times(node.get("CPU", 0), cpus), _on_gpus(node.get("GPU", 0), gpus)) for node in nodes(ray))


def _on_gpus(there: float, each: float) -> int:
    return int(there) * _times(1, each) if 0 < each < 1 else _times(there, each)


def _times(there: float, each: float) -> int:
    return int(there / each + 1e-9) if each else sys.maxsize  # 1 / 0.1 is 9.999...
