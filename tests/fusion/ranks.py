"""Be one of several processes that share fits, without Ray: ``python -m tests.fusion.ranks CONFIG RANK WORLD PORT``."""

import sys

import torch
from torch import distributed

from mmray.fusion import fit_plan
from mmray.fusion.training import load_train
from tests.fusion import fitted


def main(file: str, rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    config = load_train(file)
    plan = fit_plan.prepare(config)
    for fit in plan.fits:
        fitted.epochs(plan, fit).export(fit.folder(config.out))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
