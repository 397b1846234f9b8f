"""A job submitted to a Ray cluster, stopped and submitted again, ends with the account of an undisturbed run."""

import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mmray.pipelines.status import status
from tests.conftest import ROOT
from tests.pipelines.conftest import environment, joined, ray_session, wait_for, write  # noqa: F401 — fixtures

RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def head(environment: dict[str, str]) -> Iterator[dict[str, str]]:  # noqa: F811
    """Start a head on loopback ports of its own, with a token; end what it started, and nothing else."""
    folder = Path(f"/tmp/mmray-ray-{secrets.token_hex(4)}")  # Ray's sockets need a short path
    settings = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, dashboard, agent, agent_grpc, client, metrics = free_ports(6)
    settings |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    settings["RAY_TMPDIR"] = str(folder)
    settings["PATH"] = f"{Path(sys.executable).parent}:{settings['PATH']}"  # where the job's `python` is found
    settings.pop("RAY_ADDRESS")
    words = f"--head --port {port} --dashboard-host 127.0.0.1 --dashboard-port {dashboard}"
    words += f" --dashboard-agent-listen-port {agent} --dashboard-agent-grpc-port {agent_grpc}"
    words += f" --ray-client-server-port {client} --metrics-export-port {metrics}"
    words += f" --num-cpus 2 --object-store-memory 200000000 --temp-dir {folder} --disable-usage-stats"
    command = [RAY, "start", *words.split()]
    begun = subprocess.run(command, env=settings, check=False, capture_output=True, text=True, timeout=300)
    try:
        assert begun.returncode == 0, begun.stdout + begun.stderr
        yield settings
    finally:
        own = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
        for process in own:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(own, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def job(words: list[str], settings: dict[str, str]) -> str:
    done = subprocess.run([RAY, "job", *words], env=settings, capture_output=True, text=True, check=False, timeout=600)
    return done.stdout + done.stderr


def test_a_driver_that_is_stopped_as_jobs_are_goes_on_where_it_was(
    joined: dict[str, str],  # noqa: F811
    write: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    """What `ray job` starts and stops: jobs/extract.py on a Ray that is there, by SIGTERM; the slow test has a head."""
    config, store = write("store", [f"slow {number}" for number in range(80)]), tmp_path / "store"
    command = [sys.executable, str(ROOT / "jobs" / "extract.py"), str(config), "--json"]
    with subprocess.Popen(command, env=joined, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            wait_for(lambda: bool(list(store.glob("ledger/*.parquet"))))
            first.send_signal(signal.SIGTERM)
            assert first.wait(300) == 130
        finally:
            first.kill()
    begun = sum(counts["ok"] for counts in status(str(store))["accounts"].values())
    assert 0 < begun < 80
    assert not (store / "lock.json").exists()
    command += ["--set", "resources.actors=2"]
    done = subprocess.run(command, env=joined, capture_output=True, text=True, check=True, timeout=600)
    account = json.loads(done.stdout)
    (counts,) = account["accounts"].values()
    assert (counts["ok"], counts["pending"]) == (80, 0)
    assert account["adds_up"]


@pytest.mark.slow
def test_a_stopped_job_goes_on_where_it_was(
    head: dict[str, str],
    write: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    config = write("store", [f"slow {number}" for number in range(80)])
    store = tmp_path / "store"
    entry = ["--", "python", "jobs/extract.py", str(config), "--json"]
    said = job(["submit", "--no-wait", "--submission-id", "first", "--working-dir", str(ROOT), *entry], head)
    assert "first" in said
    try:
        wait_for(lambda: bool(list(store.glob("ledger/*.parquet"))))
    except AssertionError:
        pytest.fail(job(["logs", "first"], head))
    assert "stopped" in job(["stop", "first"], head)
    begun = sum(counts["ok"] for counts in status(str(store))["accounts"].values())
    assert 0 < begun < 80
    wait_for(lambda: not (store / "lock.json").exists())
    wider = ["--set", "resources.actors=2"]
    said = job(["submit", "--submission-id", "second", "--working-dir", str(ROOT), *entry, *wider], head)
    assert "succeeded" in said, said
    account = json.loads(next(line for line in said.splitlines() if line.startswith('{"run_id"')))
    (counts,) = account["accounts"].values()
    assert (counts["ok"], counts["pending"]) == (80, 0)
    assert account["adds_up"]
