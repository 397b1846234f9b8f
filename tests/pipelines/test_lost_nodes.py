"""A machine of the cluster that is lost costs time, and nothing else."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from mmray.pipelines import cluster, guarded
from tests.pipelines.conftest import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Start three nodes of one CPU each on this machine, and be connected."""
    assert not ray.is_initialized(), "the session's Ray is there: run this file by itself"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    try:
        with cluster.connected():
            yield nodes
    finally:
        nodes.shutdown()


def lose_a_node(nodes: Cluster, when: Callable[[], bool]) -> threading.Thread:
    """Kill the raylet of the last node as soon as something is so."""
    pid = list(nodes.worker_nodes)[-1].all_processes["raylet"][0].process.pid

    def kill() -> None:
        wait_for(when)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def squared(number: int) -> int:
    time.sleep(0.05)
    return number * number


def test_probing_on_a_lost_node_is_nobodys_death(three_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "DEATHS", 1)  # a lost node that counted would leave results of None
    monkeypatch.setattr(guarded, "AT_ONCE", 10)
    done: list[int] = []
    thread = lose_a_node(three_nodes, lambda: sum(done) >= 50)
    results = guarded.each(ray, squared, list(range(600)), 60, done.append)
    thread.join()
    assert results == [number * number for number in range(600)]
    assert sum(done) == 600
