"""What Prometheus is told: requests as they were answered, models as they were asked, jobs.

Ray tells the rest (batches, queues, replicas, memory) on a port of its own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mmray.pipelines.serving.refusals import Refusal

SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Requests:
    """Requests by route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter("mmray_http_requests", "Answers", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "mmray_http_request_seconds", "Until the answer began", ["route"], buckets=SECONDS, registry=registry
        )
        self.under_way = Gauge("mmray_http_requests_under_way", "Requests under way", registry=registry)


class Asking:
    """Models as one process asks them, by name: the endpoint for those who wait, or the jobs."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        said = "Until a model answered: ok, or the code of its refusal"
        labels = ["model", "outcome"]
        self._seconds = Histogram(f"{prefix}_seconds", said, labels, buckets=SECONDS, registry=registry)
        self._under_way = Gauge(f"{prefix}_under_way", "Calls that wait or are worked on", ["model"], registry=registry)

    @contextmanager
    def one(self, model: str) -> Iterator[None]:
        """Count one call of a model."""
        began, outcome = time.monotonic(), "cancelled"
        self._under_way.labels(model).inc()
        try:
            yield
            outcome = "ok"
        except Refusal as refusal:
            outcome = refusal.code
            raise
        finally:
            self._under_way.labels(model).dec()
            self._seconds.labels(model, outcome).observe(time.monotonic() - began)
