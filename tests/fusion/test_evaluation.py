"""All networks are asked the same under the same conditions, none answers from nothing, figures are what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from mmray.fusion import answers, evaluation, examples, material, networks
from mmray.fusion.answers import CLEAN, Condition
from mmray.fusion.examples import Examples, Split
from mmray.fusion.material import Material
from mmray.fusion.networks import Fusion, Shape
from mmray.fusion.training import TrainConfig
from tests.fusion import making

CLASSES = np.arange(90) % 3
NOISE = {"kind": "snr_db", "train": [0, 20], "sweep": [10, -10]}
HIDDEN = {"kind": "hidden", "train": [0, 0.5], "sweep": [0.5, 0]}
NETWORKS = [
    {"as": "sound", "inputs": "sound"}, {"as": "image", "inputs": "image"},
    {"fusion": "early"}, {"fusion": "gated"}, {"fusion": "attention"},
    {"fusion": "late", "start_from": ["sound", "image"]},
]  # fmt: skip
Ready = tuple[TrainConfig, Material, Split]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Make the same numbers on every machine, and leave the other cores to other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ready(folder: Path, **keys: Any) -> Ready:
    """Return a configuration, its material and its split; a third of the samples lack the image."""
    columns = {"label": [f"class {one}" for one in CLASSES], "group": [str(place // 9) for place in range(90)]}
    matrices = {"sound": making.clusters(CLASSES, 6, 1.5), "image": making.clusters(CLASSES, 5, 1.0, 1)}
    store = making.store(folder / "store", columns, matrices, {"image": [n for n in range(90) if n % 9 < 6]})
    encoder = {"name": "mlp", "hidden": [8]}
    inputs = [
        {"extractor": "sound", "encoder": encoder, "noise": NOISE},
        {"extractor": "image", "encoder": encoder, "noise": HIDDEN},
    ]
    about = {"store": store, "out": str(folder / "out"), "inputs": inputs, "networks": NETWORKS, "folds": 3}
    config = TrainConfig.model_validate(about | {"schedule": {"batch_size": 7}} | keys)
    loaded = material.load(config)
    return config, loaded, examples.split(loaded, config)


def made(given: Ready, name: str, fold: int = 0, steps: int = 0) -> Fusion:
    """Return a network, trained for some steps on all of the train part."""
    config, loaded, split = given
    settings = next(one for one in config.networks if one.as_ == name)
    torch.manual_seed(fold)
    inputs = {one.as_: one for one in config.inputs}
    used = config.inputs_of(settings)
    shapes = {one: Shape(loaded.modalities[one].dim, inputs[one].encoder) for one in used}
    network = networks.make(shapes, len(split.classes), settings)
    columns = [list(inputs).index(one) for one in used]
    train = split.folds[fold].train.examples().of(columns)
    (batch,) = examples.batches(train, used, loaded.modalities, len(train))
    for one in used:
        there = batch.there[one].any(1)
        network.encoders[one].fit(batch.windows[one][there], batch.there[one][there])
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network.logits(batch), batch.classes).backward()
        optimizer.step()
    torch.nn.init.constant_(network.log_temperature, 0.5)
    return network


def asked(given: Ready, name: str, fold: int = 0, steps: int = 0) -> tuple[Fusion, Examples, pl.DataFrame]:
    config, loaded, split = given
    network = made(given, name, fold, steps)
    test = split.folds[fold].test.examples(config.test_size, (config.seed, fold))
    return network, test, answers.answer(network, fold, test, config, loaded.modalities)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["sound", "early", "gated", "attention", "late"])
def test_what_is_encoded_once_is_answered_as_example_by_example(tmp_path: Path, name: str, paired: bool) -> None:
    given = ready(tmp_path, **({"pair_on": "label", "test_size": 100} if paired else {}))
    config, loaded, _ = given
    network, test, frame = asked(given, name)
    every = [one.as_ for one in config.inputs]
    seen = test.places[:, [every.index(one) for one in network.names]]
    for condition in answers.conditions(config, network.names):
        part = frame.filter(
            pl.col("condition") == condition.kind,
            pl.col("input").eq_missing(condition.input),
            pl.col("level").eq_missing(condition.level),
        )
        numbers = np.flatnonzero((seen >= 0).any(1))
        own = Examples(seen[numbers], test.classes[numbers])
        (batch,) = examples.batches(own, network.names, loaded.modalities, len(own))
        if condition.kind == "removed":
            batch = batch.without(str(condition.input))
            numbers = numbers[network.present(batch).any(1).numpy()]
        elif condition.kind == "noise":
            noise = answers.Noisy(config, 0, condition)
            one = str(condition.input)
            there = batch.there[one].any(1)
            level = torch.full((int(there.sum()),), noise.level)
            batch.windows[one][there] = network.encoders[one].disturbed(
                batch.windows[one][there], batch.there[one][there], noise.kind, level, noise.generator
            )
        with torch.no_grad():
            some = network.present(batch).any(1)
            sure, raw = (one(batch)[some].softmax(1).numpy() for one in (network, network.logits))
        assert part["example"].to_list() == numbers.tolist()
        assert part["class"].to_list() == test.classes[numbers].tolist()
        right = np.arange(len(numbers)), test.classes[numbers]
        for prefix, expected in (("", sure), ("raw_", raw)):
            np.testing.assert_allclose(part[f"{prefix}confidence"], expected.max(1), atol=1e-5)
            np.testing.assert_allclose(part[f"{prefix}probability"], expected[right], atol=1e-5)
            truth = np.eye(3)[test.classes[numbers]]
            np.testing.assert_allclose(part[f"{prefix}brier"], ((expected - truth) ** 2).sum(1), atol=1e-5)
        assert (part["answer"].to_numpy() == sure.argmax(1)).mean() > 0.99
        assert np.abs(sure - raw).max() > 0.01
        if name == "gated":
            weights = np.array(part["weights"].to_list())
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
            if condition.kind == "removed":
                assert (weights[:, network.names.index(str(condition.input))] == 0).all()
        else:
            assert part["weights"].null_count() == part.height


def test_all_networks_hear_the_same_noise_and_each_example_its_own(tmp_path: Path) -> None:
    given = ready(tmp_path)
    config, loaded, _ = given
    heard: dict[str, list[torch.Tensor]] = {}
    for name in ("sound", "gated"):
        network = made(given, name)
        windows = heard.setdefault(name, [])
        network.encoders["sound"].register_forward_pre_hook(lambda _, given, windows=windows: windows.append(given[0]))
        test = given[2].folds[0].test.examples()
        for _ in range(2):
            answers.answer(network, 0, test, config, loaded.modalities)
    alone, joined = (torch.cat(heard[name]) for name in ("sound", "gated"))
    torch.testing.assert_close(alone, joined)
    torch.testing.assert_close(*alone.chunk(2))
    clean, loud, louder = alone.chunk(2)[0].chunk(3)
    assert len({tuple(one) for one in (loud - clean).flatten(1).tolist()}) == len(clean)
    assert float((louder - clean).square().mean()) > 10 * float((loud - clean).square().mean())
    assert not torch.allclose(louder - clean, 10 * (loud - clean), rtol=0.1)  # another draw at each level
    assert answers.conditions(config, ("sound", "image")) == [
        CLEAN, Condition("removed", "sound"), Condition("removed", "image"), Condition("noise", "sound", 10),
        Condition("noise", "sound", -10), Condition("noise", "image", 0.5), Condition("noise", "image", 0),
    ]  # fmt: skip


def test_where_nobody_has_anything_left_nobody_answers(tmp_path: Path) -> None:
    given = ready(tmp_path)
    config, loaded, split = given
    test = split.folds[0].test.examples()
    alone = test.places[:, 1] < 0
    deaf = Examples(test.places[alone], test.classes[alone])
    frame = answers.answer(made(given, "attention"), 0, deaf, config, loaded.modalities)
    found = evaluation.Answers(
        frame.with_columns(network=pl.lit("attention"), fold=pl.lit(0)), {"attention": ("sound", "image")}, [len(deaf)]
    )
    removed = evaluation.measure(found, split.classes)["attention"]["removed"]
    assert [(row["input"], row["examples"], row["unanswered"], row["accuracy"] is None) for row in removed] == [
        ("sound", 0, len(deaf), True), ("image", len(deaf), 0, False)
    ]  # fmt: skip


def test_figures_count_who_cannot_answer_and_compare_only_who_can(tmp_path: Path) -> None:
    given = ready(tmp_path)
    config, loaded, split = given
    frames, sizes = [], []
    tested = [fold.test.examples() for fold in split.folds]
    for fold in range(3):
        sizes.append(len(tested[fold]))
        for one in config.networks:
            frame = asked(given, one.as_, fold, 15)[2]
            frames.append(frame.with_columns(network=pl.lit(one.as_), fold=pl.lit(fold)))
    frame = pl.concat(frames)
    inputs = {one.as_: config.inputs_of(one) for one in config.networks}
    found = evaluation.Answers(frame, inputs, sizes)
    measured = evaluation.measure(found, split.classes)
    assert {name: about["examples"] for name, about in measured.items()} == {
        "sound": 90, "image": 60, "early": 90, "gated": 90, "attention": 90, "late": 90
    }  # fmt: skip
    assert measured["image"]["unanswered"] == 30
    gated = measured["gated"]
    assert [one["examples"] for one in gated["folds"]] == sizes
    assert sum(map(sum, gated["confusion"])) == 90
    assert [(one["input"], one["examples"], one["unanswered"]) for one in gated["removed"]] == [
        ("sound", 60, 30), ("image", 90, 0)
    ]  # fmt: skip
    assert measured["sound"]["removed"] == []
    assert gated["accuracy"] > 0.6
    assert gated["accuracy_low"] < gated["accuracy"] < gated["accuracy_high"]
    answered = evaluation.predictions(frame, tested, loaded.dataset.ids, ["sound", "image"], split.classes)
    clean = answered.filter(pl.col("condition") == "clean")
    rights = {
        name: dict(zip(part["sample_id_sound"], part["label"] == part["answer"], strict=True))
        for (name,), part in clean.partition_by("network", as_dict=True).items()
    }
    common = set(clean.filter(network="image")["sample_id_sound"])  # whose image is there
    assert len(common) == 60
    best = max(np.mean([rights[name][one] for one in common]) for name in ("sound", "image"))
    for name in ("early", "gated", "attention", "late"):
        own = np.mean([rights[name][one] for one in common])
        point = evaluation.gaps(found, name)[0]
        assert point["gap"] == pytest.approx(best - own, abs=1e-6)
        assert point["examples"] == 60
        assert measured[name]["worst_gap"]["gap"] >= point["gap"]
        assert len(measured[name]["noise"]) == 4
        assert measured[name]["calibration"]["noise"]["examples"] == 4 * 90
        assert (measured[name]["weights"] != []) == (name == "gated")
    assert measured["sound"]["worst_gap"] is None
    manifest = dict(zip(loaded.dataset.ids, loaded.dataset.columns["label"], strict=True))
    assert all(manifest[sample] == label for sample, label in clean.select("sample_id_sound", "label").rows())
    absent = answered.filter(pl.col("sample_id_image").is_null())
    assert set(absent["network"]) == {"sound", "early", "gated", "attention", "late"}
    for name, errors in evaluation.worst_errors(answered).items():
        sure = [one["confidence"] for one in errors]
        assert sure == sorted(sure, reverse=True)
        wrong = clean.filter(pl.col("network") == name, pl.col("label") != pl.col("answer"))
        assert len(errors) == min(20, wrong.height)
        assert not errors or sure[0] == wrong["confidence"].max()


def test_who_was_right_where_two_disagree_adds_up() -> None:
    # Ten examples of class 0; the answers of two single networks and of what joins them.
    said = {
        "a": [0, 0, 0, 1, 1, 2, 2, 0, 1, -1],
        "b": [0, 1, 1, 0, 0, 1, 2, 0, 2, 1],
        "both": [0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
    }
    frames = []
    for name, given in said.items():
        given = np.array(given)
        numbers = np.flatnonzero(given >= 0)
        sure = 0.1 + 0.7 * np.eye(3, dtype=np.float32)[given[numbers]]
        for condition in (CLEAN, Condition("noise", "x", 1.0)) if name != "b" else (CLEAN,):
            own = sure if condition is CLEAN else np.roll(sure, 1, axis=1)
            classes = np.zeros(len(numbers), np.int64)
            frame = answers.answered(condition, numbers, classes, own, sure)
            frames.append(frame.with_columns(network=pl.lit(name), fold=pl.lit(0)))
    found = evaluation.Answers(pl.concat(frames), {"a": ("x",), "b": ("y",), "both": ("x", "y")}, [10])
    clean, noisy = evaluation.disagreements(found)
    assert clean == {
        "networks": ["a", "b"], "condition": "clean", "examples": 9, "only_first": 2, "only_second": 2, "neither": 2,
        "answered_rightly": {"both": {"only_first": 1, "only_second": 2, "neither": 2}},
    }  # fmt: skip
    assert (noisy["condition"], noisy["examples"]) == ("noise", 9)  # b does not read x: it stays as it was
    (at,) = (found.of("b", one) for one in found.noise)
    assert at.equals(found.of("b", CLEAN))
    measured = evaluation.measure(found, ["0", "1", "2"])
    # Every noisy answer of `both` is one class further.
    assert measured["both"]["worst_gap"] == {
        "gap": pytest.approx(4 / 9, abs=1e-6), "input": "x", "level": 1.0, "single": "b", "examples": 9
    }  # fmt: skip
    assert evaluation.below(measured) == ["both: 0.4444 below b (x at 1, 9 examples)"]
    before, after = (measured["both"]["calibration"]["noise"][one] for one in ("before", "after"))
    assert before["ece"] == pytest.approx(0, abs=1e-6)  # 8 of 10 right, 0.8 sure
    assert after["ece"] == pytest.approx(0.8, abs=1e-6)  # none right
