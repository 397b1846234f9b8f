"""Training on a GPU: as good as on a CPU, killed and gone on with, and files that a CPU reads."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from mmray import cli
from mmray.fusion import network_files, pairs
from mmray.fusion.training import load_train
from mmray.models.tiny import make_tiny
from mmray.pipelines import evaluate, study_crossmodal, train
from mmray.tables.store import open_store, write_parquet
from tests.fusion import fitted
from tests.fusion.test_crossmodal import config as crossmodal_config
from tests.fusion.test_crossmodal import put
from tests.fusion.test_encoders import each, known, made
from tests.pipelines.conftest import wait_for
from tests.pipelines.test_evaluate import written
from tests.pipelines.test_train import NETWORKS, SCHEDULE, kept, networks

from .conftest import DEVICE

WORDS = {"sea": "waves sail boat", "town": "cars streets brick", "wood": "ferns moss pine"}
COMMAND = [sys.executable, "-m", "mmray.cli", "train", "--json"]


@each
def test_an_encoder_gives_the_numbers_of_a_cpu(settings: Any, windows: torch.Tensor) -> None:
    encoder, there = made(settings, windows), known(windows)
    expected = encoder(windows, there)
    found = encoder.to(DEVICE)(windows.to(DEVICE), there.to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that writes a configuration over one store, with one GPU for its one worker."""
    folder = tmp_path_factory.mktemp("train")
    inputs = [{**fitted.INPUTS[0], "noise": {"kind": "snr_db", "train": [0, 20], "sweep": [0]}}, fitted.INPUTS[1]]
    store = fitted.store(folder / "store", 600, {"b": range(500)})
    keys = {"inputs": inputs, "networks": NETWORKS, "schedule": SCHEDULE, "validation": 0.3, "gpus_per_worker": 1}

    def make(name: str) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(fitted.about(store, folder / name, **keys)))
        return path

    return make


@pytest.fixture(scope="module")
def trained(write: Any, ray_session: None) -> dict[str, Any]:
    path = write("trained")
    return train.run(load_train(str(path)), str(path))


def test_networks_learn_as_well_as_on_a_cpu(trained: dict[str, Any], write: Any, tmp_path: Path) -> None:
    _, expected = fitted.fit_all(load_train(str(write("trained")), [f"out={tmp_path}"]))
    for one in trained["networks"]:
        accuracy = expected[one["network"]]["validation_accuracy"]
        assert one["validation_accuracy"] == pytest.approx(accuracy, abs=0.05)
    network, _ = network_files.load(f"{trained['out']}/networks/fold-0/gated")
    assert {one.device.type for one in network.state_dict().values()} == {"cpu"}


def test_a_killed_run_goes_on_to_the_same_networks(trained: dict[str, Any], write: Any) -> None:
    path = write("killed")
    out, environment = load_train(str(path)).out, {**os.environ, "RAY_ADDRESS": ""}
    with subprocess.Popen(
        [*COMMAND, str(path)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        try:
            wait_for(lambda: kept(out).get("network") == "gated", 120)
        finally:
            killed.send_signal(signal.SIGKILL)
    done = subprocess.run([*COMMAND, str(path)], env=environment, capture_output=True, text=True, check=True)
    account = json.loads(done.stdout)
    assert account["done_before"] == 2
    found, expected = networks(out), networks(trained["out"])
    for name, tensors in expected.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[name][key], tensor, rtol=1e-4, atol=1e-4, msg=f"{name}: {key}")


def test_sounds_and_pictures_train_and_are_evaluated(ray_session: None, recorded: str, tmp_path: Path) -> None:
    schedule = {"epochs": 6, "batch_size": 32, "learning_rate": 0.02}
    path = written(tmp_path, recorded, gpus_per_worker=1, schedule=schedule)
    config = load_train(str(path))
    assert train.run(config, str(path))["computed"] == 10
    board = {row["network"]: row for row in evaluate.run(config, str(path))["leaderboard"]}
    assert board["gated"]["accuracy"] > 0.6, "a third would be chance"


def test_texts_are_tuned(ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = make_tiny(tmp_path, names=["distilbert"])
    random = np.random.default_rng(0)
    labels = [list(WORDS)[place % 3] for place in range(60)]
    texts = [" ".join(random.permutation(WORDS[label].split())[:2]) for label in labels]
    table = pa.table({"sample_id": [f"s{place}" for place in range(60)], "text": texts, "label": labels})
    write_parquet(table, str(tmp_path / "texts.parquet"))
    about = {"kind": "text", "manifest": str(tmp_path / "texts.parquet"), "out": str(tmp_path / "out")}
    about |= {"inputs": ["text"], "networks": [{"inputs": "text", "model": str(model)}], "gpus_per_worker": 1}
    about["schedule"] = {"epochs": 6, "learning_rate": 0.006, "batch_size": 8, "patience": 5}
    path = tmp_path / "text.yaml"
    path.write_text(yaml.safe_dump(about | {"test_fraction": 0.25}))
    assert cli.main(["train", str(path), "--json"]) == 0
    assert cli.main(["evaluate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["figures"]["text"]["accuracy"] > 0.8


def test_maps_are_learnt(tmp_path: Path) -> None:
    sources, targets = pairs.synthetic(0, pairs=1500)
    store = open_store(str(tmp_path / "store"), create=True)
    ids = [f"s{place:04}" for place in range(len(sources))]
    put(store, "seen", "mean", ids, sources)
    put(store, "told", "first", ids, targets)
    store.write(pa.table({"sample_id": ids}), "manifest.parquet")
    figures = {}
    for device in ("cpu", DEVICE):
        keys = {"device": device, "out": str(tmp_path / device), "held_out": 150, "maps": ["contrastive"]}
        figures[device] = study_crossmodal.run(crossmodal_config(tmp_path, **keys))["maps"]["contrastive"]
    assert figures[DEVICE]["recall_at_10"] == pytest.approx(figures["cpu"]["recall_at_10"], abs=0.1)
