"""A machine of the cluster that is lost costs time, and nothing else."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from types import SimpleNamespace

from ray.cluster_utils import Cluster

from mmray.pipelines import cluster, guarded, study

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for _ in range(2):
    nodes.add_node(num_cpus=1)
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes.worker_nodes]
os.environ["RAY_ADDRESS"] = nodes.address

def squared(number):
    time.sleep(0.3)
    return number * number

def lose_a_node(done):
    # Each of two CPUs works on something of a lost node's machine, 0.3 s at a time: one of them is lost with it.
    if done >= 20 and len(raylets) > left:
        os.kill(raylets.pop(), signal.SIGKILL)

with cluster.connected() as ray:
    left, done = 1, 0
    # A lost node that counted as a death would leave a result of None.
    guarded.AT_ONCE, guarded.DEATHS = 1, 1
    def told(count):
        global done
        done += count
        lose_a_node(done)
    assert guarded.each(ray, squared, list(range(100)), 60, told) == [number * number for number in range(100)]
    assert len(raylets) == left == 1

    left = 0
    # A lost node that counted as a crash would leave a failed cell.
    study.MOST_LOSSES["process"] = 0
    study._cell = lambda cell, config, material: {"status": "done", "square": squared(cell)}
    config = SimpleNamespace(cpus_per_cell=1, timeout_s=60)
    records = {}
    for cell, record in study._compute(ray, list(range(60)), config, None):
        records[cell] = record
        lose_a_node(len(records))
    assert records == {cell: {"status": "done", "square": cell * cell} for cell in range(60)}
    assert not raylets
nodes.shutdown()
print("nothing lost")
"""


@pytest.mark.slow
def test_probing_and_cells_on_a_lost_node_are_done_again_elsewhere() -> None:
    # In a process of its own: this one may be connected to the Ray of the test session.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "RAY_ADDRESS": ""}, capture_output=True, text=True,
        check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing lost\n")
