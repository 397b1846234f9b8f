"""Work that nobody waits for: bounded, told step by step, cancelled on demand; each ends once and in one way."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from ray.serve.handle import DeploymentHandle

from mmray.pipelines.serving import settings
from mmray.pipelines.serving.asked import Asked, Body
from mmray.pipelines.serving.counts import Asking
from mmray.pipelines.serving.making import Maker
from mmray.pipelines.serving.models import Models
from mmray.pipelines.serving.refusals import Refusal, described
from mmray.pipelines.serving.settings import Limits

OVER = ("succeeded", "failed", "cancelled")
KEPT_BYTES = 2**29  # of results
SILENCE_S = 15  # after which those who listen hear that the line still stands


class Job:
    """One piece of work and what has become of it."""

    def __init__(self, route: str, owner: str) -> None:
        self.id = f"job-{uuid.uuid4().hex}"
        self.owner, self.route, self.created = owner, route, int(time.time())
        self.status, self.done, self.total = "queued", 0, 0
        self.result: Body | None = None
        self.error: Body | None = None
        self.ended = 0.0
        self.size_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()

    def change(self, **values: Any) -> None:
        """Change what is told of it, and wake those who listen; what is over stays as it is."""
        if self.status in OVER:
            return
        for name, value in values.items():
            setattr(self, name, value)
        if self.status in OVER:
            self.ended = time.monotonic()
        self.changed.set()
        self.changed = asyncio.Event()

    def told(self, whole: bool = True) -> Body:
        """Return what clients see; the list leaves the results out."""
        seen = {
            "id": self.id, "object": "job", "status": self.status, "route": self.route, "created": self.created,
            "progress": {"done": self.done, "total": self.total}, "error": self.error,
        }  # fmt: skip
        return {**seen, "result": self.result} if whole else seen


class JobServer:
    """All jobs, in one process. Where it dies, its jobs are gone, and asking for one says so."""

    def __init__(
        self,
        about: Mapping[str, Mapping[str, Any]],
        handles: Mapping[str, DeploymentHandle[Any]],
        limits: Limits,
        allowed: settings.Jobs,
    ) -> None:
        self._registry = CollectorRegistry()
        self._kept = Gauge("mmray_jobs", "Jobs that are kept", ["status"], registry=self._registry)
        self._models = Models(about, handles, Asking(self._registry, "mmray_job_model"))
        self._limits, self._allowed = limits, allowed
        self._jobs: dict[str, Job] = {}
        self._slots = asyncio.Semaphore(allowed.running)

    async def start(self, maker: Maker, body: Asked, route: str, owner: str) -> Body | Refusal:
        """Begin a job; a Refusal where too many wait already. (Serve logs what is raised as a fault.)"""
        self._forget()
        if self._unfinished() >= self._allowed.running + self._allowed.waiting:
            return Refusal(503, "queue_full", "too many jobs are waiting; come again", None, 10)
        job = Job(route, owner)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, maker, body))
        return job.told()

    async def _run(self, job: Job, maker: Maker, body: Asked) -> None:
        def tell(done: int, total: int) -> None:
            job.change(done=done, total=total)

        try:
            async with self._slots:
                job.change(status="running")
                result = await maker(self._models, self._limits, body, tell)
            job.size_bytes = sum(len(value) for value in _texts(result))
            job.change(status="succeeded", result=result, done=max(job.done, job.total))
        except asyncio.CancelledError:
            job.change(status="cancelled")
            raise
        except Exception as error:  # noqa: BLE001 — whatever it is, it is told: a job ends in one of three ways
            job.change(status="failed", error=described(error).body)

    def _unfinished(self) -> int:
        return sum(job.status not in OVER for job in self._jobs.values())

    def _forget(self) -> None:
        """Drop finished jobs that are old, or more than are kept: the oldest first."""
        over = sorted((job for job in self._jobs.values() if job.status in OVER), key=lambda job: job.ended)
        size_bytes, count = sum(job.size_bytes for job in over), len(over)
        for job in over:
            old = time.monotonic() - job.ended > self._allowed.kept_s
            if not old and count <= self._allowed.kept and size_bytes <= KEPT_BYTES:
                break
            del self._jobs[job.id]
            size_bytes, count = size_bytes - job.size_bytes, count - 1

    def _own(self, number: str, owner: str) -> Job | None:
        job = self._jobs.get(number)
        return job if job is not None and job.owner == owner else None

    async def all(self, owner: str) -> list[Body]:
        """Return the jobs of a key, the newest first, without their results."""
        own = [job for job in self._jobs.values() if job.owner == owner]
        return [job.told(whole=False) for job in reversed(own)]

    async def one(self, number: str, owner: str) -> Body | Refusal:
        """Return one job."""
        job = self._own(number, owner)
        return missing(number) if job is None else job.told()

    async def end(self, number: str, owner: str) -> Body | Refusal:
        """Cancel a job, or forget one that is over."""
        job = self._own(number, owner)
        if job is None:
            return missing(number)
        if job.status in OVER:
            del self._jobs[job.id]
        elif job.task is not None:
            job.change(status="cancelled")
            job.task.cancel()
        return job.told()

    async def events(self, number: str, owner: str) -> AsyncIterator[tuple[str, Body]]:
        """Yield how far a job is, whenever that changes, and at last the job itself; ("", {}) in long silence."""
        job = self._own(number, owner)
        if job is None:  # forgotten since somebody asked for it
            return
        while job.status not in OVER:
            changed = job.changed
            yield "progress", {"status": job.status, "done": job.done, "total": job.total}
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), SILENCE_S)
                except TimeoutError:
                    yield "", {}
        yield job.status, job.told()

    async def idle(self) -> bool:
        """Tell whether nothing is left to do."""
        return self._unfinished() == 0

    async def figures(self) -> bytes:
        """Return what Prometheus is told of jobs."""
        statuses = [job.status for job in self._jobs.values()]
        for status in ("queued", "running", *OVER):
            self._kept.labels(status).set(statuses.count(status))
        return generate_latest(self._registry)


def missing(number: str) -> Refusal:
    """Return the refusal of a job that is not there, or not the caller's."""
    return Refusal(404, "job_not_found", f"there is no job {number}: it was dropped, or its server died", "id")


def _texts(value: Any) -> list[str]:
    """Return all texts of an answer, which are nearly all of its bytes."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]
