"""`mmray train` finishes: in several processes, with one that is killed, and by the same command where all were."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load

from mmray import cli, storage
from mmray.errors import ConfigError
from mmray.fusion import network_files
from mmray.fusion.training import load_train
from mmray.pipelines import train
from tests.conftest import ROOT
from tests.fusion import fitted
from tests.near import assert_near
from tests.pipelines.conftest import wait_for

NETWORKS = [
    {"inputs": "a", "width": 16}, {"inputs": "b", "width": 16},
    # Wide, so that it takes a few seconds and has a middle to be killed in.
    {"fusion": "gated", "width": 16, "hidden": [512, 512], "start_from": ["a"]},
    {"fusion": "late", "width": 16, "start_from": ["a", "b"]},
]  # fmt: skip
EPOCHS = 10
SCHEDULE = {"epochs": EPOCHS, "epoch_size": 750, "batch_size": 64, "learning_rate": 0.003, "patience": EPOCHS}


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a configuration over one store; OUT is called after the file."""
    folder = tmp_path_factory.mktemp("train")
    noise = {"kind": "snr_db", "train": [0, 20], "sweep": [0]}
    inputs = [{**fitted.INPUTS[0], "noise": noise}, fitted.INPUTS[1]]
    store = fitted.store(folder / "store", 600, {"b": range(500)})

    def make(name: str, **keys: Any) -> Path:
        about = fitted.about(store, folder / name, inputs=inputs, networks=NETWORKS, schedule=SCHEDULE, validation=0.3)
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(about | keys))
        return path

    return make


@pytest.fixture(scope="module")
def undisturbed(write: Callable[..., Path]) -> str:
    """Do all fits in two processes without Ray; returns OUT."""
    path = write("undisturbed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.fusion.ranks", str(path)]
    running = [subprocess.Popen([*command, str(rank), "2", str(port)], cwd=ROOT) for rank in range(2)]
    assert [one.wait() for one in running] == [0, 0]
    return load_train(str(path)).out


def networks(out: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of every trained network."""
    found = storage.files(f"{out}/networks", "model.safetensors")
    return {entry.uri.split("/")[-2]: load(storage.read_bytes(entry.uri)) for entry in found}


def same(one: str, other: str) -> None:
    first, second = networks(one), networks(other)
    assert first.keys() == second.keys() == {"a", "b", "gated", "late"}
    for name, tensors in first.items():
        for key, tensor in tensors.items():
            assert_near(tensor, second[name][key], 1e-3, f"{name}: {key}")  # as tests.near says of trainings


def workers() -> list[psutil.Process]:
    """Return the training workers of this process's own Ray."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            found += [one] * (one.name().startswith("ray::RayTrain") or "RayTrainWorker" in " ".join(one.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return found


def kept(out: str) -> dict[str, Any]:
    """Return the metrics of the epoch that Ray's last checkpoint was taken after."""
    for entry in storage.files(f"{out}/train", "checkpoint_manager_snapshot.json"):
        with contextlib.suppress(ValueError):  # it is being written
            last = json.loads(storage.read_bytes(entry.uri))["latest_checkpoint_result"]
            return dict(last["metrics"]) if last else {}
    return {}


class Killer(threading.Thread):
    """Kill one worker when a network is in its middle, after a checkpoint."""

    def __init__(self, out: str, network: str) -> None:
        super().__init__(daemon=True)
        self.out, self.network, self.last = out, network, {}
        self.start()

    def run(self) -> None:
        while not self.last:
            if (found := kept(self.out)).get("network") == self.network:
                workers()[-1].send_signal(signal.SIGKILL)
                self.last = found
            time.sleep(0.05)


@pytest.fixture(scope="module")
def trained(ray_session: None, write: Callable[..., Path]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Train in two workers, one of which is killed; returns the account, OUT, and the last epoch kept before that."""
    path = write("trained", workers=2)
    killer = Killer(load_train(str(path)).out, "gated")
    account = train.run(load_train(str(path)), str(path))
    assert killer.last
    return account, account["out"], killer.last


def test_a_killed_worker_changes_nothing(trained: Any, undisturbed: str) -> None:
    _, out, _ = trained
    same(out, undisturbed)


def test_two_workers_learn_as_well_as_one(trained: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    account, out, _ = trained
    alone = load_train(str(write("trained")), [f"out={tmp_path}"])
    _, found = fitted.fit_all(alone)
    for one in account["networks"]:
        assert one["validation_accuracy"] == pytest.approx(found[one["network"]]["validation_accuracy"], abs=0.05)
        assert one["validation_accuracy"] > 0.55, "a third would be chance"
    told = pl.read_parquet(f"{out}/epochs.parquet")
    assert set(told["workers"]) == {2}


def test_every_epoch_is_told_once(trained: Any) -> None:
    account, out, last = trained
    told = pl.read_parquet(f"{out}/epochs.parquet")
    assert told.columns[:9] == [
        "fold", "network", "epoch", "train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds",
        "workers",
    ]  # fmt: skip
    by = {row["network"]: row for row in account["networks"]}
    for name in ("a", "b", "gated"):
        rows = told.filter(pl.col("network") == name)
        assert rows["epoch"].to_list() == list(range(1, by[name]["epochs"] + 1)), "also those before the kill"
        assert by[name]["seconds"] == pytest.approx(rows["seconds"].sum(), abs=0.01)
        best = rows.filter(pl.col("epoch") == by[name]["best_epoch"])
        assert best["validation_loss"].item() == rows["validation_loss"].min()
    assert by["late"]["epochs"] == 0
    assert last["epoch"] < EPOCHS
    gated = told.filter(pl.col("network") == "gated", pl.col("epoch") == last["epoch"])
    assert gated["seconds"].item() == last["seconds"], "what was kept was not trained again"


def test_what_is_done_is_accounted_for_and_not_done_again(
    trained: Any, write: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account, out, _ = trained
    assert (account["fits"], account["done_before"], account["computed"]) == (4, 0, 4)
    assert account["notes"] == ["b: 100 of 600 samples have no vectors"]
    assert not Path(out, "train").exists()
    assert not Path(out, "lock.json").exists()
    written = json.loads(Path(out, "train.json").read_text())
    assert written == account
    assert {"epochs", "best_epoch", "validation_accuracy", "temperature", "parameters", "seconds"} <= set(
        written["networks"][0]
    )
    assert json.loads(Path(out, "provenance.json").read_text())["config"]["workers"] == 2
    monkeypatch.setattr(train.cluster, "connected", lambda: pytest.fail("there is nothing to do"))
    assert cli.main(["train", str(write("trained", workers=2)), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["done_before"], again["computed"]) == (4, 0)
    assert again["networks"] == account["networks"]
    assert cli.main(["train", str(write("trained", workers=2))]) == 0
    printed = capsys.readouterr().out
    assert "4 networks: 0 trained now, 4 before" in printed
    assert "note: b: 100 of 600 samples have no vectors" in printed


def test_a_trained_network_is_a_folder_of_its_own(trained: Any) -> None:
    account, out, _ = trained
    network, about = network_files.load(f"{out}/networks/fold-0/gated")
    assert about.classes == ("class 0", "class 1", "class 2")
    assert [(one.as_, one.extractor, one.pooling) for one in about.inputs] == [
        ("a", "a-00000000", "mean"), ("b", "b-00000000", "mean"),
    ]  # fmt: skip
    figures = next(one for one in account["networks"] if one["network"] == "gated")
    assert about.provenance["figures"].items() <= figures.items()
    assert float(network.log_temperature.exp()) == pytest.approx(figures["temperature"], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 5}, r"workers: 5 worker\(s\) with 1 CPU and 0 GPU each do not fit: this machine has 4 CPU"),
        ({"cpus_per_worker": 4.5}, r"workers: 1 worker\(s\) with 4\.5 CPU"),
        ({"gpus_per_worker": 1}, r"1 CPU and 1 GPU each do not fit"),
        ({"gpus_per_worker": 1.5}, r"gpus_per_worker: a share of one GPU, or whole ones"),
    ],
)
def test_more_workers_than_there_is_room_for_are_refused(
    ray_session: None, write: Callable[..., Path], settings: dict[str, Any], words: str
) -> None:
    path = write("refused", **settings)
    with pytest.raises(ConfigError, match=rf"refused\.yaml: .*{words}"):
        train.run(load_train(str(path)), str(path))
    left = {file.name for file in Path(load_train(str(path)).out).glob("[!.]*")}
    assert left == {"generation.json"}, "nothing was begun"


def test_leaks_are_loud_or_an_error(write: Callable[..., Path]) -> None:
    path = write("leaky", leaks="error")
    with pytest.raises(ConfigError, match=r"leaky\.yaml: leaks: 79 group\(s\)"):
        train.run(load_train(str(path)), str(path))


@pytest.mark.slow
def test_a_killed_run_goes_on_by_the_same_command_on_object_storage(
    write: Callable[..., Path], undisturbed: str, s3_bucket: str
) -> None:
    path = write("killed", out=f"{s3_bucket}/out", workers=2)
    command = [sys.executable, "-m", "mmray.cli", "train", str(path), "--json"]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        try:
            wait_for(lambda: kept(f"{s3_bucket}/out").get("network") == "gated", 600)
        finally:
            killed.send_signal(signal.SIGKILL)
    before = {entry.uri: entry.tag for entry in storage.files(f"{s3_bucket}/out/networks", ".safetensors")}
    assert before
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    account = json.loads(done.stdout)
    assert account["done_before"] == len(before)
    assert account["computed"] == 4 - len(before)
    after = {entry.uri: entry.tag for entry in storage.files(f"{s3_bucket}/out/networks", ".safetensors")}
    assert before.items() <= after.items(), "what was finished was not repeated"
    same(account["out"], undisturbed)
    assert not storage.files(f"{s3_bucket}/out/train")
