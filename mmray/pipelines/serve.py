"""``mmray serve``: start the endpoint on Ray Serve, and stop it without losing what is under way."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from mmray.errors import ConfigError, MmrayError
from mmray.pipelines import cluster, interrupts
from mmray.pipelines.serving.app import NAME, application
from mmray.pipelines.serving.served import prepare
from mmray.pipelines.serving.settings import ServeConfig, key_digests

log = logging.getLogger(__name__)


def run(config: ServeConfig, file: str = "configuration") -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; returns what was served and for how long.

    What is under way then is finished, for ``drain_s`` at most. ConfigError before Ray starts.
    """
    began = time.monotonic()
    with serving(config, file) as url:
        log.info("serving at %s (Ctrl-C stops it)", url)
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            interrupts.handled()
            log.info("stopping: what is under way is finished, for %g s at most", config.drain_s)
    return {"url": url, "models": [entry.as_ for entry in config.models], "seconds": round(time.monotonic() - began, 3)}


@contextmanager
def serving(config: ServeConfig, file: str = "configuration") -> Iterator[str]:
    """Serve, and yield the URL as soon as all models answer; at the end drain and stop."""
    served = prepare(config, file)
    keys = key_digests(config)
    if config.open_to_all:
        log.warning("%s: others than this machine may ask, and no keys are wanted (keys_env, keys_file)", config.host)
    for one in served:
        log.info("%s: %s, %s", one.as_, one.kind, one.licence or "licence unknown")
    with cluster.connected() as ray:
        if not log.isEnabledFor(logging.DEBUG):
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
        log.info("logs of all processes: %s/logs/serve", ray._private.worker.global_worker.node.get_session_dir_path())
        check_room(ray, config, file)
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
        try:
            try:
                handle = serve.run(application(config, served, keys), name=NAME, route_prefix="/")
            except RuntimeError as error:
                raise MmrayError(f"{file}: the endpoint does not start: {error}") from error
            yield f"http://{config.host}:{config.port}"
            _drain(handle, config.drain_s)
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]


def check_room(ray: Any, config: ServeConfig, file: str) -> None:
    """Refuse more than this machine holds: Serve would wait for ever; a cluster may grow.

    ConfigError, naming the model or pool.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    homes = {entry.as_: entry for entry in config.models if entry.pool is None} | config.pools
    for name, one in homes.items():
        if cluster.room(ray, one.cpus, one.gpus, f"{file}: {name}: gpus") < max(1, one.replicas.min):
            need = f"{max(1, one.replicas.min)} replica(s) with {one.cpus:g} CPU and {one.gpus:g} GPU each"
            raise ConfigError(f"{file}: {name}: {need} do not fit: there is {cluster.described(ray)}")
    there = sum(node.get("GPU", 0) for node in cluster.nodes(ray))
    if (wanted := sum(one.gpus * one.replicas.min for one in homes.values())) > there:
        raise ConfigError(
            f"{file}: all models together reserve {wanted:g} GPU, and there is {there:g}; lower `gpus` (0.5: two share "
            "one), or let models share a pool"
        )


def _drain(handle: Any, seconds: float) -> None:
    """Wait until what was begun is done; more is refused meanwhile."""
    end = time.monotonic() + seconds
    try:
        while not handle.drain.remote().result(timeout_s=10) and time.monotonic() < end:
            time.sleep(0.2)
    except (TimeoutError, RayError, RayServeException) as error:  # somebody ended Ray's processes too
        log.warning("what was under way may be lost: the endpoint does not answer (%s)", type(error).__name__)
