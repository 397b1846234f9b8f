"""An evaluation refuses what is not trained, asks every network once, and leaves figures, answers and a page."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from mmray import cli
from mmray.errors import ConfigError
from mmray.fusion import fit_plan
from mmray.fusion.training import TrainConfig, load_train
from mmray.pipelines import epochs, evaluate
from mmray.tables.store import Store
from tests.fusion import making

CLASSES = np.arange(120) % 3
PICTURE = {"name": "image_cnn", "side_px": 8, "filters": [4], "width": 8}
SOUND = {"name": "sound_cnn", "n_mels": 16, "filters": [4, 8], "width": 8, "mask_mels": 2}
Trained = tuple[Path, dict[str, Any]]


def recordings() -> dict[str, np.ndarray[Any, Any]]:
    """Return tones of three heights, pictures with a bright stripe at three places, and plain vectors."""
    random = np.random.default_rng(0)
    time_s = np.arange(2000) / 8000
    waves = [np.sin(2 * np.pi * (300 + 500 * one + 40 * random.random()) * time_s) for one in CLASSES]
    pictures = 0.2 * random.random((120, 8, 8))
    pictures[np.arange(120), 2 * CLASSES] += 0.6
    noisy = np.array(waves) / 2 + 0.1 * random.normal(size=(120, 2000))
    flat = pictures.reshape(120, 64).astype(np.float32)
    return {"sound": noisy.astype(np.float32), "image": flat, "plain": making.clusters(CLASSES, 4, 2.0)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Make the same numbers on every machine, and leave the other cores to other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a store of 120 samples by four speakers; the last ones lack the picture."""
    columns = {"label": [f"<i>x{one}" for one in CLASSES], "group": [f"spëaker {n // 30}" for n in range(120)]}
    have = {"image": range(100)}
    return making.store(tmp_path_factory.mktemp("evaluate") / "store", columns, recordings(), have)


def written(folder: Path, store: str, **keys: Any) -> Path:
    """Write a configuration whose trained networks stand in FOLDER/out."""
    inputs = [
        {"extractor": "sound", "encoder": SOUND, "noise": {"kind": "snr_db", "train": [0, 20], "sweep": [10, -20]}},
        {"extractor": "image", "encoder": PICTURE, "noise": {"kind": "hidden", "train": [0, 0.5], "sweep": [0.75]}},
        {"extractor": "plain", "encoder": {"name": "mlp", "hidden": [8]}},
    ]
    two = {"inputs": ["sound", "image"]}
    networks = [
        {"inputs": "sound"}, {"inputs": "image"}, {**two, "fusion": "gated", "start_from": ["sound", "image"]},
        {**two, "fusion": "late", "start_from": ["sound", "image"]}, {"fusion": "attention"},
    ]  # fmt: skip
    about = {"store": store, "out": str(folder / "out"), "inputs": inputs, "networks": networks}
    about |= {"split": "group", "folds": 2, "schedule": {"epochs": 2, "batch_size": 32, "learning_rate": 0.02}}
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(about | keys))
    return path


def train(path: Path) -> TrainConfig:
    """Fit what is not fitted, here, without Ray Train."""
    config = load_train(str(path))
    plan = fit_plan.prepare(config)
    for fit in plan.fits:
        if fit.done(config.out) is None:
            fitting, rows = plan.make(fit, torch.device("cpu")), []
            while not fitting.over:
                about = {"fold": fit.fold, "network": fit.network, "epoch": len(rows) + 1, "key": fit.key}
                rows.append(about | fitting.epoch())
            fitting.export(fit.folder(config.out))
            epochs.put(config.out, fit, rows, over=True)
    epochs.gather(Store(config.out), plan.fits)
    return config


@pytest.fixture(scope="module")
def trained(ray_session: None, store: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train and evaluate all kinds of networks; returns the configuration and the account."""
    path = written(tmp_path_factory.mktemp("trained"), store)
    train(path)
    return path, evaluate.run(load_train(str(path)), str(path))


def test_an_evaluation_gives_figures_and_answers(trained: Trained) -> None:
    path, result = trained
    out = path.parent / "out"
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert (result["networks"], result["fits"], result["computed"], result["examples"]) == (5, 10, 10, 120)
    board = {row["network"]: row for row in result["leaderboard"]}
    assert [row["rank"] for row in result["leaderboard"]] == [1, 2, 3, 4, 5]
    assert {name: row["examples"] for name, row in board.items()} == {
        "sound": 120, "image": 100, "gated": 120, "late": 120, "attention": 120
    }  # fmt: skip
    assert board["image"]["unanswered"] == 20
    assert set(board["gated"]["removed"]) == {"sound", "image"}
    assert all(len(fold["held_out"]) == 2 for fold in result["folds"])
    held = [one for fold in result["folds"] for one in fold["held_out"]]
    assert sorted(held) == [f"spëaker {n}" for n in range(4)]
    assert sum(result["folds"][0]["counts"]["test"][""].values()) == result["folds"][0]["examples"]
    gated = result["figures"]["gated"]
    assert [(row["input"], row["level"]) for row in gated["noise"]] == [("sound", 10), ("sound", -20), ("image", 0.75)]
    assert [row["weights"].keys() for row in gated["weights"]] == [{"sound", "image"}] * 4
    assert result["figures"]["late"]["worst_gap"]["single"] in ("sound", "image")
    assert all(row["worst_gap"] is None for row in result["leaderboard"] if len(row["inputs"]) == 1)
    (clean, noisy) = result["disagreements"]
    assert (clean["networks"], clean["examples"], noisy["examples"]) == (["sound", "image"], 100, 300)

    answers = pl.read_parquet(out / "predictions.parquet")
    assert answers.columns == [
        "network", "fold", "condition", "input", "level", "sample_id_sound", "sample_id_image", "sample_id_plain",
        "label", "answer", "confidence", "probability",
    ]  # fmt: skip
    for name, row in board.items():
        own = answers.filter(network=name, condition="clean")
        assert own.height == row["examples"]
        assert (own["label"] == own["answer"]).mean() == pytest.approx(row["accuracy"], abs=1e-6)
        assert own["probability"].is_between(0, 1).all()
    assert answers.filter(network="sound", condition="clean")["sample_id_sound"].n_unique() == 120


def test_an_evaluation_is_a_page_and_a_report(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (trained[0].parent / "out" / "evaluation.html").read_text()
    assert "<i>x" not in page
    assert "&lt;i&gt;x0" in page
    for words in ("spëaker 3", "noise in sound", "reliability of late", "validation loss", "gated, noise in image"):
        assert words in page
    wrong = page.count("<img class=thumbnail")  # pictures that were answered wrongly, as the network reads them
    assert wrong > 0
    assert page.count("data:image/png") == 4 + wrong  # spectrograms and pictures, clean and noisy
    out = trained[0].parent / "out"
    assert cli.main(["report", str(out), "-o", str(tmp_path / "report.html"), "--json"]) == 0
    assert (tmp_path / "report.html").read_text() == page
    assert json.loads(capsys.readouterr().out)["of"] == "evaluation"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "train.json").write_text("{}")
    assert cli.main(["report", str(fresh), "-o", str(tmp_path / "none.html")]) == 2


def test_what_was_asked_is_not_asked_again(
    trained: Trained, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, result = trained
    out = path.parent / "out"
    kept = {file.name: file.stat().st_mtime_ns for file in (out / "evaluation").iterdir()}
    assert len(kept) == 10
    assert cli.main(["evaluate", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "0 of 10 evaluated now" in printed
    assert "image: 20 examples have none of its inputs" in printed
    assert all(f"{row['accuracy']:.3f}" in printed for row in result["leaderboard"])
    assert kept == {file.name: file.stat().st_mtime_ns for file in (out / "evaluation").iterdir()}
    again = evaluate.run(load_train(str(path), ["inputs=" + json.dumps(swept(path))]))
    assert again["computed"] == 8  # the network of sound alone hears nothing of it
    assert [row["level"] for row in again["figures"]["late"]["noise"]] == [10, -20, 0.75, 0.9]
    assert again["figures"]["sound"] == result["figures"]["sound"]

    weights = out / "networks" / "fold-0" / "image" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])  # one that cannot be read takes no other with it
    shutil.rmtree(out / "evaluation")
    assert cli.main(["evaluate", str(path)]) == 3
    assert "1 of 10 networks could not be evaluated; fold 0, image: ConfigError" in caplog.text
    assert len(list((out / "evaluation").iterdir())) == 9
    (out / "networks" / "fold-0" / "image" / "config.json").unlink()
    assert cli.main(["train", str(path)]) == 0
    assert not (out / "evaluation.json").exists(), "what was said of a network that is replaced is not said any more"
    assert cli.main(["report", str(out), "-o", str(out / "none.html")]) == 2
    answers = next((out / "evaluation").iterdir())
    answers.write_bytes(answers.read_bytes()[:300])
    caplog.clear()
    assert cli.main(["evaluate", str(path)]) == 2
    assert f"{answers.name}: is damaged; delete it" in caplog.text


def swept(path: Path) -> list[Any]:
    """Return the inputs of a configuration with one more level of noise in the picture."""
    inputs = list(yaml.safe_load(path.read_text())["inputs"])
    inputs[1]["noise"]["sweep"].append(0.9)
    return inputs


def test_classes_are_counted_before_and_after_resampling(store: str, tmp_path: Path) -> None:
    rules = {"merge": {"both": ["<i>x0", "<i>x1"]}, "resample": "both"}
    job = evaluate.prepare(load_train(str(written(tmp_path, store, labels=rules))), str(tmp_path / "out"))
    for fold in evaluate._folds(job):
        before, after = fold["counts"]["train"][""], fold["counts"]["resampled"][""]
        assert before["both"] > 1.5 * before["<i>x2"]
        assert after["both"] == after["<i>x2"] == round(sum(before.values()) / 2)


def test_what_is_not_trained_or_trained_otherwise_is_refused(store: str, tmp_path: Path) -> None:
    path = written(tmp_path, store, networks=[{"inputs": "plain"}, {"inputs": "image"}])
    with pytest.raises(
        ConfigError, match=r"4 of 4 networks are not trained \(fold 0, plain; fold 0, image;.*mmray train"
    ):
        evaluate.run(load_train(str(path)), str(path))
    assert not (tmp_path / "out").exists()
    config = train(path)
    changed = config.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match=r"4 were trained by another configuration.*fold 1, image.*refused"):
        evaluate.run(changed)
    more = written(tmp_path, store, networks=[{"inputs": "plain"}, {"inputs": "image"}, {"inputs": "sound"}])
    with pytest.raises(ConfigError, match=r"2 of 6 networks are not trained \(fold 0, sound; fold 1, sound\): run"):
        evaluate.run(load_train(str(more)))
    assert cli.main(["evaluate", str(more)]) == 2
