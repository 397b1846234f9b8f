"""The sizes of actor pools, from what the nodes have."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmray.config import Resources
from mmray.errors import ConfigError
from mmray.pipelines import cluster
from mmray.pipelines.cluster import PoolSize


def ray_of(*cpus: float) -> Any:
    """Return a stand-in for ray with one living node for each number of CPUs, and one that is lost."""
    living = [{"Alive": True, "Resources": {"CPU": count}} for count in cpus]
    return SimpleNamespace(nodes=lambda: [*living, {"Alive": False, "Resources": {"CPU": 64.0}}])


@pytest.mark.parametrize(
    ("resources", "batches", "pool"),
    [
        ({}, 100, PoolSize(1, 3, 100, 0.0)),  # fills the two nodes, may grow onto others
        ({}, 2, PoolSize(1, 2, 2, 0.0)),
        ({"cpus_per_actor": 2}, 100, PoolSize(1, 1, 100, 0.0)),  # not one of 1.5 on each
        ({"actors": 2}, 100, PoolSize(2, 2, 2, 0.0)),
        ({"actors": [1, 8]}, 100, PoolSize(1, 3, 8, 0.0)),
        ({"actors": [1, 8]}, 5, PoolSize(1, 3, 5, 0.0)),
    ],
)
def test_a_pool_begins_with_what_fits_and_may_grow(resources: dict[str, Any], batches: int, pool: PoolSize) -> None:
    assert cluster.pool_size(ray_of(2.0, 1.0), Resources(**resources), batches) == pool


def test_actors_that_do_not_fit_one_machine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="4 actor"):
        cluster.pool_size(ray_of(2.0, 1.0), Resources(actors=4), 100)


def test_a_pool_that_waits_for_a_cluster_to_grow_begins_with_its_least_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert cluster.pool_size(ray_of(2.0, 1.0), Resources(actors=(4, 9)), 100) == PoolSize(4, 4, 9, 0.0)
