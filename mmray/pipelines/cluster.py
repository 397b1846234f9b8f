"""Connect to Ray: an embedded one on this machine, or the cluster that RAY_ADDRESS names."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mmray import storage
from mmray.config import Resources
from mmray.errors import ConfigError

log = logging.getLogger(__name__)

MOST_THREADS = 16  # of an actor that decode, each into 64 MB at most


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Yield the ``ray`` module, connected; an embedded Ray is stopped again at the end."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",  # also stops the probes of cloud metadata addresses
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ side logs restartable actors as errors (ray issue 53727)
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    # Ray prints the deaths of workers on stdout, which belongs to the account.
    with contextlib.redirect_stdout(sys.stderr):
        _init(ray)
        try:
            yield ray
        finally:
            ray.shutdown()


def _init(ray: Any) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # ERROR: Ray warns at every start that its token authentication, which is on by default, is on.
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": log.isEnabledFor(logging.DEBUG)}
    if address := os.environ.get("RAY_ADDRESS"):
        log.info("using the Ray cluster at %s", address)
        ray.init(address=address, **options)
    else:
        # "local": without it Ray would try to join whatever a killed `ray start` left behind.
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own, which skips every clean-up
    _quiet()


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


def node_is_lost(node_id: str) -> bool:
    """Tell whether a node, by its id, is no longer part of the cluster."""
    import ray

    alive: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return all(node["NodeID"] != node_id for node in alive if node["Alive"])


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
