"""The application: deployments of all models, the jobs, and the HTTP ingress before them.

``build`` is what `serve run` and `serve deploy` call: ``mmray.pipelines.serving.app:build`` with ``config`` (a file).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry
from ray import serve
from ray.serve.handle import DeploymentHandle

import mmray
from mmray.pipelines.serving import refusals, routes
from mmray.pipelines.serving.counts import Asking, Requests
from mmray.pipelines.serving.guard import Guard
from mmray.pipelines.serving.jobs import JobServer
from mmray.pipelines.serving.models import Models
from mmray.pipelines.serving.replica import Model, ModelPool
from mmray.pipelines.serving.served import Served, fitting, prepare
from mmray.pipelines.serving.settings import ModelEntry, Pool, ServeConfig, key_digests, load_serve

NAME = "mmray"  # of the application
JOBS = "jobs"
UNABLE = frozenset({"UPDATING", "UNHEALTHY", "DEPLOY_FAILED"})  # of what Serve says: what scales can be asked
STOPPING: dict[str, Any] = {"graceful_shutdown_wait_loop_s": 0.2}  # how often a replica looks whether it is idle
STUCK = 4  # times what a client is kept waiting: after so long without a step a pass hangs
# What holds requests while models work.
LIGHT: dict[str, Any] = {"max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0}, **STOPPING}


@serve.deployment(**LIGHT)
@serve.ingress()
class Endpoint:
    """The HTTP ingress: checks requests, asks models, answers."""

    def __init__(
        self,
        config: ServeConfig,
        keys: tuple[bytes, ...],
        about: Mapping[str, Mapping[str, Any]],
        handles: Mapping[str, DeploymentHandle[Any]],
        jobs: DeploymentHandle[Any],
    ) -> None:
        self.registry = CollectorRegistry()
        self.limits, self.jobs = config.limits, jobs
        self.models = Models(about, handles, Asking(self.registry, "mmray_model"))
        self._config, self._keys = config, keys
        self._guards: list[Guard] = []

    def __serve_build_asgi_app__(self) -> Any:
        """Return the ASGI application."""
        # FastAPI's own pages of the routes load scripts from elsewhere.
        api = FastAPI(
            title="mmray", version=mmray.__version__, description=mmray.__doc__ or "", docs_url=None, redoc_url=None
        )
        api.state.endpoint = self
        refusals.install(api, routes.KEYED + routes.OPEN)
        shown = [Security(HTTPBearer(auto_error=False))] if self._keys else []  # for OpenAPI: Guard looks at keys
        for router in routes.KEYED:
            api.include_router(router, dependencies=shown)
        for router in routes.OPEN:
            api.include_router(router)
        guard = Guard(api, self._keys, self._config.rate_per_minute, self.limits, Requests(self.registry))
        self._guards.append(guard)
        return guard

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Return whether all models can be asked, and the state of each."""
        status = await asyncio.to_thread(serve.status)
        found = status.applications[serve.get_replica_context().app_name].deployments
        homes = {name: about["pool"] or name for name, about in self.models.about.items()}
        able, states = readiness(homes, {name: str(one.status.value) for name, one in found.items()})
        return able and not any(guard.draining for guard in self._guards), states

    async def drain(self) -> bool:
        """Take no more work; returns whether all that was begun is done."""
        for guard in self._guards:
            guard.draining = True
        return not any(guard.under_way for guard in self._guards) and await self.jobs.idle.remote()


def readiness(homes: Mapping[str, str], told: Mapping[str, str]) -> tuple[bool, dict[str, str]]:
    """Return whether all models can be asked, and the state of each, from what Serve tells of deployments.

    It tells nothing of those that run where a newer version of the application failed to start.
    """
    states = {name: told.get(home, "UNKNOWN") for name, home in homes.items()}
    return not UNABLE.intersection(states.values()), states


def application(config: ServeConfig, served: tuple[Served, ...], keys: tuple[bytes, ...]) -> serve.Application:
    """Return all deployments, bound to each other."""
    homes = {one.as_: _model(one, config) for one in served if one.entry.pool is None}
    homes |= {name: _pool(name, [one for one in served if one.home == name], config) for name in config.pools}
    handles = {one.as_: homes[one.home] for one in served}
    about = {one.as_: one.about for one in served}
    jobs: Any = serve.deployment(JobServer)
    jobs = jobs.options(name=JOBS, **LIGHT)
    bound = jobs.bind(about, handles, config.limits, config.jobs)
    ingress: Any = Endpoint
    made: serve.Application = ingress.options(name="endpoint").bind(config, keys, about, handles, bound)
    return made


def _model(one: Served, config: ServeConfig) -> serve.Application:
    """Return the deployment of one model."""
    deployment: Any = serve.deployment(Model)
    options = _options(one.entry, one.batch, config)
    bound: serve.Application = deployment.options(name=one.as_, **options).bind(
        one.loader, one.batch, one.entry.wait_ms, _device(one.entry.gpus), STUCK * config.limits.seconds
    )
    return bound


def _pool(name: str, models: list[Served], config: ServeConfig) -> serve.Application:
    """Return the deployment of models that share processes."""
    pool = config.pools[name]
    known = {one.as_: (one.loader, one.batch, one.entry.wait_ms) for one in models}
    deployment: Any = serve.deployment(ModelPool)
    options = _options(pool, sum(one.batch for one in models), config)
    fit = fitting(pool, models, f"pools.{name}")
    bound: serve.Application = deployment.options(name=name, **options).bind(
        known, fit, _device(pool.gpus), STUCK * config.limits.seconds
    )
    return bound


def _device(gpus: float) -> str:
    return "cuda:0" if gpus else "cpu"


def _options(processes: ModelEntry | Pool, batch: int, config: ServeConfig) -> dict[str, Any]:
    """Return how a deployment runs; a replica takes two batches at once: one works while the next gathers."""
    replicas = processes.replicas
    scaled: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.min != replicas.max:
        scaled = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "initial_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": batch,
            }
        }
    return {
        "max_ongoing_requests": 2 * batch,
        "max_queued_requests": config.queue,
        "graceful_shutdown_timeout_s": config.drain_s,
        "ray_actor_options": {"num_cpus": processes.cpus, "num_gpus": processes.gpus},
        **STOPPING,
        **scaled,
    }


def build(args: Mapping[str, str]) -> serve.Application:
    """Return the application of a configuration file, for `serve run` and `serve deploy`.

    ConfigError where it cannot be served.
    """
    file = args["config"]
    config = load_serve(file)
    return application(config, prepare(config, file), key_digests(config))
