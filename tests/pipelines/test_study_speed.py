"""What is promised of a large study: all cores at work, and nothing done twice after a kill. Wants a quiet machine."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from mmray import cli
from mmray.fusion import cells
from mmray.fusion.config import load_study
from tests.fusion import making
from tests.pipelines.conftest import wait_for

SAMPLES, CLASSES, CHANNELS, CELLS = 2280, 15, 400, 200
DIMS = {"sound": 256, "objects": 80, "text": 768}
BUSY = 0.85


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import three embeddings of as many samples as QuerYD has, about as hard to tell apart, in 15 uneven classes."""
    folder, random = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    classes = random.choice(CLASSES, SAMPLES, p=np.arange(1, CLASSES + 1) / 120)
    ids = np.array([f"video-{place:04d}" for place in range(SAMPLES)])
    for seed, (name, dim) in enumerate(DIMS.items()):
        matrix = making.clusters(classes, dim, 0.45 * dim**0.5, seed)
        if name == "objects":  # most are not seen, and of some samples none is
            matrix = np.maximum(matrix - 3, 0)
        np.savez(folder / f"{name}.npz", ids=ids, matrix=matrix, labels=classes.astype(str))
    listed = folder / "channels.csv"
    numbers = ",".join(f"e{place}" for place in range(2))
    lines = [f"{one},channel-{random.integers(CHANNELS)},{place},1" for place, one in enumerate(ids)]
    listed.write_text(f"sample_id,group,{numbers}\n" + "\n".join(lines))
    for file in (listed, *(folder / f"{name}.npz" for name in DIMS)):
        assert cli.main(["import", str(file), "--store", str(folder / "store"), "--as", file.stem]) == 0
    return folder / "store"


def configuration(store: Path, folder: Path, **keys: Any) -> Path:
    """Write the study: every combination (77) and 23 late fusions of several classifiers, with two seeds."""
    names = itertools.product(["logistic", "linear_svc", "naive_bayes"], repeat=len(DIMS))
    mixed = [list(chosen) for chosen in names if len(set(chosen)) > 1][:23]
    about = {"store": str(store), "out": str(folder / "out"), "split": "group", "seeds": [0, 1]}
    about |= {"embeddings": [{"extractor": name} for name in DIMS]}
    about |= {"rows": [{"embeddings": [*DIMS], "fusion": "late", "classifier": chosen} for chosen in mixed]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(about | keys))
    return path


def check(path: Path, kill_after: int) -> dict[str, Any]:
    """Run a study, kill it after so many cells, run it to the end; returns the account of the second run."""
    command = [sys.executable, "-m", "mmray.cli", "study", str(path), "--json"]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    written = path.parent / "out" / "cells"
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(written.glob("*.json"))) >= kill_after, seconds=1800)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {file.name: file.stat().st_mtime_ns for file in written.glob("*.json")}
    time.sleep(10)  # Ray's processes notice within 6 s that their driver is gone
    before = psutil.cpu_times()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    after = psutil.cpu_times()
    assert done.returncode == 0, done.stderr[-2000:]
    account: dict[str, Any] = json.loads(done.stdout)
    assert account["done"] == account["cells"]
    assert account["computed"] == account["cells"] - len(kept)
    assert {file.name: file.stat().st_mtime_ns for file in written.glob("*.json") if file.name in kept} == kept
    names = ("user", "nice", "system", "idle", "iowait")
    spent = {name: getattr(after, name) - getattr(before, name) for name in names}
    account["used"] = 1 - (spent["idle"] + spent["iowait"]) / sum(spent.values())  # start and report included
    return account


def test_the_study_has_200_cells(tmp_path: Path) -> None:
    config = load_study(str(configuration(tmp_path, tmp_path)))
    assert len(set(cells.enumerate_cells(config))) == CELLS


@pytest.mark.slow
def test_200_cells_keep_all_cores_busy_and_none_is_done_twice(store: Path, tmp_path: Path) -> None:
    account = check(configuration(store, tmp_path), kill_after=10)
    print(json.dumps({name: account[name] for name in ("cells", "computed", "busy", "used", "seconds")}))
    assert account["cells"] == CELLS
    assert account["busy"] >= BUSY
    assert account["used"] >= BUSY
