"""What the endpoint costs above Ray Serve itself, what batching gains, and how soon the page is there.

    python -m tests.benchmarks.endpoint

Everything is measured in one run, in turns, so that other programs of the machine take from both sides.
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
from fastapi import FastAPI, Request
from ray import serve

from mmray.models import tiny
from mmray.pipelines import cluster
from mmray.pipelines.serving.app import application
from mmray.pipelines.serving.served import Served, prepare
from mmray.pipelines.serving.settings import ModelEntry, ServeConfig
from tests.pipelines.test_serve import port

DIM = 384
EMPTY = FastAPI()
BODY = {"model": "nothing", "input": "a sentence of eight words, as they come", "encoding_format": "float"}
CLIENTS = 8


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100)
class Nothing:
    """A model that has nothing to compute."""

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        return [np.zeros(DIM, np.float32).tolist() for _ in texts]


@serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100)
@serve.ingress(EMPTY)
class Empty:
    """The least that answers the same request in the same words."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @EMPTY.post("/v1/embeddings")
    async def embeddings(self, request: Request) -> Any:
        body = await request.json()
        (vector,) = await self._model.remote([body["input"]])
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": vector}],
            "model": "nothing",
        }


class NothingLoader:
    """The same model behind mmray's endpoint."""

    def load(self, device: str) -> Callable[..., Any]:
        return lambda texts, progress: [np.zeros(DIM, np.float32) for _ in texts]


def overhead(url: str, requests: int) -> dict[str, float]:
    """Return the median ms of a request to both, by one client, and of their difference pair by pair."""
    taken: dict[str, list[float]] = {"/empty": [], "": []}
    with httpx2.Client(base_url=url, timeout=60) as http:
        for number in range(requests + 20):
            for prefix, times in taken.items():
                began = time.perf_counter()
                answer = http.post(f"{prefix}/v1/embeddings", json=BODY)
                if number >= 20:  # the first ones find caches cold
                    times.append(1000 * (time.perf_counter() - began))
                assert len(answer.json()["data"][0]["embedding"]) == DIM
    more = [own - empty for own, empty in zip(taken[""], taken["/empty"], strict=True)]
    return {
        "empty_ms": statistics.median(taken["/empty"]), "mmray_ms": statistics.median(taken[""]),
        "overhead_ms": statistics.median(more),
    }  # fmt: skip


def throughput(url: str, rounds: int) -> dict[str, float]:
    """Return pictures per second of 8 clients, alone in each pass and together, and the ratio round by round."""
    rates: dict[str, list[float]] = {"alone": [], "together": []}
    seeds = count()
    with httpx2.Client(base_url=url, timeout=120) as http, ThreadPoolExecutor(CLIENTS) as pool:

        def one(model: str) -> None:
            asked = {"model": model, "prompt": "a cat", "size": "64x64", "seed": next(seeds)}
            http.post("/v1/images/generations", json=asked).raise_for_status()

        for number in range(rounds + 1):
            for model, found in rates.items():
                began = time.perf_counter()
                list(pool.map(one, [model] * 4 * CLIENTS))
                if number:
                    found.append(4 * CLIENTS / (time.perf_counter() - began))
    ratios = [many / one for many, one in zip(rates["together"], rates["alone"], strict=True)]
    return {**{name: statistics.median(found) for name, found in rates.items()}, "ratio": statistics.median(ratios)}


def page_s(url: str, times: int) -> float:
    """Return the median seconds from nothing to a loaded page, in a browser that has never seen it."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(times):
            page = browser.new_context().new_page()
            page.goto(url, wait_until="load")
            page.wait_for_selector("[role=tab]")
            found.append(page.evaluate("performance.now()") / 1000)
        browser.close()
    return statistics.median(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    with TemporaryDirectory() as folder, cluster.connected():
        tiny.make_tiny(Path(folder), names=["stable_diffusion"])
        sd = {"name": "image", "model": str(Path(folder) / "stable_diffusion"), "steps": 10}
        alone = {**sd, "as": "alone", "batch_size": 1}
        together = {**sd, "as": "together", "batch_size": CLIENTS, "wait_ms": 50}  # who asks again is a few ms late
        config = ServeConfig.model_validate({"port": port(), "models": [alone, together]})
        entry = ModelEntry.model_validate({"name": "sbert", "as": "nothing"})
        nothing = Served("nothing", "embedding", NothingLoader(), CLIENTS, entry, None, None, False)
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
        try:
            serve.run(Empty.bind(Nothing.bind()), name="empty", route_prefix="/empty")
            serve.run(application(config, (*prepare(config, "benchmark"), nothing), ()), name="mmray", route_prefix="/")
            url = f"http://{config.host}:{config.port}"
            print("one client, ms:", {key: round(value, 2) for key, value in overhead(url, asked.requests).items()})
            print("8 clients, pictures/s:", {k: round(v, 2) for k, v in throughput(url, asked.rounds).items()})
            print(f"page, s: {page_s(url, 5):.3f}")
        finally:
            serve.shutdown()


if __name__ == "__main__":
    main()
