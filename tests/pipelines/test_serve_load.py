"""The endpoint under load and under fire: nothing is lost, nothing is answered twice, nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from mmray.pipelines.serving.settings import ServeConfig
from tests.pipelines.test_serve import port

pytestmark = pytest.mark.slow
QUEUE = 4


@pytest.fixture(scope="module")
def url(ray_session: None, tiny: Path) -> Iterator[str]:
    """Serve one model in a process of its own: up to 2 x 4 requests at work, 4 waiting."""
    from mmray.pipelines.serve import serving

    model = {"name": "image", "as": "sd", "model": str(tiny / "stable_diffusion"), "batch_size": 4, "steps": 4}
    given = {"port": port(), "models": [model], "queue": QUEUE, "limits": {"steps": 1000}}
    given |= {"jobs": {"running": 1, "waiting": 3}, "drain_s": 5}
    with serving(ServeConfig.model_validate(given)) as found:
        yield found


def replicas() -> list[int]:
    """Return the processes of the model: there may be none for a moment."""
    own = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    return [process.pid for process in own if "ServeReplica:mmray:sd" in " ".join(process.info["cmdline"])]


def make(http: httpx2.Client, **asked: Any) -> httpx2.Response:
    return http.post("/v1/images/generations", json={"prompt": "a cat", "size": "64x64", **asked})


def test_twice_what_it_can_do_gives_200_and_503_and_nothing_is_lost(url: str) -> None:
    most = 2 * 4 + QUEUE
    with httpx2.Client(base_url=url, timeout=120, limits=httpx2.Limits(max_connections=200)) as http:
        make(http)
        (pid,) = replicas()
        before = psutil.Process(pid).memory_info().rss

        def one(seed: int) -> httpx2.Response:
            return make(http, seed=seed, steps=20)

        with ThreadPoolExecutor(2 * most) as pool:
            answers = list(pool.map(one, range(12 * most)))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503}
        assert sum(statuses.values()) == 12 * most
        for seed, answer in enumerate(answers):
            if answer.status_code == 200:
                assert answer.json()["data"][0]["seed"] == seed
            else:
                assert answer.json()["error"]["code"] == "queue_full"
                assert int(answer.headers["retry-after"]) >= 1
        assert psutil.Process(pid).memory_info().rss - before < 150 * 2**20
        assert make(http).status_code == 200


def test_a_job_whose_process_is_killed_fails_once_with_a_code(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        job = make(http, n=4, steps=800, size="128x128", background=True).json()["id"]
        wait(lambda: http.get(f"/v1/jobs/{job}").json()["progress"]["done"] > 2)
        (pid,) = replicas()
        os.kill(pid, signal.SIGKILL)
        wait(lambda: http.get(f"/v1/jobs/{job}").json()["status"] not in ("queued", "running"))
        over = http.get(f"/v1/jobs/{job}").json()
        assert (over["status"], over["result"], over["error"]["code"]) == ("failed", None, "replica_died")
        wait(lambda: make(http).status_code == 200)
        assert http.get(f"/v1/jobs/{job}").json() == over


def test_more_jobs_than_may_wait_are_refused_and_each_ends_once(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        wait(lambda: make(http).status_code == 200)
        answers = [make(http, steps=100, seed=seed, background=True) for seed in range(8)]
        assert [answer.status_code for answer in answers] == [202] * 4 + [503] * 4
        jobs = [answer.json()["id"] for answer in answers[:4]]
        wait(lambda: all(http.get(f"/v1/jobs/{job}").json()["status"] == "succeeded" for job in jobs))
        made = [http.get(f"/v1/jobs/{job}").json()["result"]["data"][0]["seed"] for job in jobs]
        assert made == [0, 1, 2, 3]


def test_ctrl_c_finishes_what_is_under_way_and_refuses_more(tiny: Path, tmp_path: Path) -> None:
    """The command as in a terminal, where Ctrl-C reaches all processes; its model is loaded by the first request."""
    model = {"name": "image", "as": "sd", "model": str(tiny / "stable_diffusion"), "replicas": {"min": 0, "max": 1}}
    file, url = tmp_path / "serve.yaml", f"http://127.0.0.1:{(number := port() + 1)}"
    file.write_text(json.dumps({"port": number, "models": [model], "drain_s": 30}))
    command = [sys.executable, "-m", "mmray.cli", "serve", str(file), "--json"]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        wait(lambda: answers(url), 120)
        with httpx2.Client(base_url=url, timeout=120) as http, ThreadPoolExecutor(1) as pool:
            assert make(http, steps=2).status_code == 200
            under_way = pool.submit(make, http, steps=100, n=4, size="128x128")
            time.sleep(1)
            os.killpg(running.pid, signal.SIGINT)
            wait(lambda: http.get("/ready").status_code == 503)
            refused = make(http)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert under_way.result().status_code == 200
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 0
        assert json.loads(out)["models"] == ["sd"]
    finally:
        if running.poll() is None:
            running.kill()


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/ready").status_code == 200
    except httpx2.TransportError:
        return False


def wait(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)
