"""How many processes fit the nodes: Ray shares one GPU, and never puts a part of two together."""

from typing import Any

import pytest

from mmray.config import Resources
from mmray.errors import ConfigError
from mmray.pipelines import cluster


class Nodes:
    """Stands for ``ray``: nodes with so many CPUs and GPUs."""

    def __init__(self, *nodes: tuple[float, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        found = [
            {"Alive": True, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})} for cpus, gpus in self._nodes
        ]
        return [*found, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "fit"),
    [
        ([(4, 0), (8, 0)], 1, 0, 12),
        ([(4, 0), (8, 0)], 3, 0, 3),
        ([(16, 1)], 1, 1, 1),
        ([(16, 1)], 1, 0.1, 10),
        ([(16, 2)], 1, 0.6, 2),
        ([(16, 1), (16, 1)], 1, 2, 0),
        ([(16, 8), (4, 0)], 4, 2, 4),
        ([(2, 8)], 1, 1, 2),
        ([(4, 1)], 0, 0.5, 2),
    ],
)
def test_so_many_fit(nodes: list[tuple[float, float]], cpus: float, gpus: float, fit: int) -> None:
    assert cluster.room(Nodes(*nodes), cpus, gpus, "gpus") == fit


def test_a_run_fills_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = Nodes((16, 1))
    assert cluster.pool_size(here, Resources(), 9) == cluster.PoolSize(least=1, now=1, most=9, gpus_each=1.0)
    configured = cluster.pool_size(here, Resources(actors=(1, 4), gpus_per_actor=0.5), 9)
    assert configured == cluster.PoolSize(least=1, now=2, most=4, gpus_each=0.5)
    assert cluster.decode_threads(here, 1) == 16
    assert cluster.decode_threads(Nodes((2, 0)), 2) == 2
    with pytest.raises(
        ConfigError, match=r"4 actor\(s\) with 1 CPU and 0\.6 GPU each do not fit: there is 16 CPU and 1 GPU"
    ):
        cluster.pool_size(here, Resources(actors=(4, 4), gpus_per_actor=0.6))
    with pytest.raises(ConfigError, match=r"resources\.gpus_per_actor: a share of one GPU, or whole ones"):
        cluster.pool_size(here, Resources(gpus_per_actor=1.5))
