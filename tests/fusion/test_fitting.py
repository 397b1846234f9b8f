"""What fits promise: they learn, they can be stopped, they are the same again, they live with what is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmray.errors import ConfigError, MmrayError
from mmray.fusion import fit_plan, network_files
from tests.fusion import fitted, making
from tests.near import assert_near_trained

ALL = [
    {"inputs": "a", "width": 16}, {"inputs": "b", "width": 16},
    {"fusion": "early"}, {"fusion": "intermediate", "width": 16}, {"fusion": "gated", "width": 16},
    {"fusion": "attention", "width": 16}, {"fusion": "late", "start_from": ["a", "b"], "width": 16},
]  # fmt: skip
LONGER = {"epochs": 8, "batch_size": 32, "learning_rate": 0.01, "patience": 8}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fitted.store(tmp_path / "store")


def weights(folder: Any) -> dict[str, torch.Tensor]:
    """Return the numbers of a trained network."""
    return load_file(Path(folder, "model.safetensors"))


def test_every_join_learns_and_two_inputs_know_more_than_one(tmp_path: Path) -> None:
    store = fitted.store(tmp_path / "store", 600)
    _, found = fitted.fit_all(fitted.config(store, tmp_path / "out", networks=ALL, validation=0.5, schedule=LONGER))
    single = max(found["a"]["validation_accuracy"], found["b"]["validation_accuracy"])
    assert 0.6 < single < 0.9
    for name in ("early", "intermediate", "gated", "attention", "late"):
        assert found[name]["validation_accuracy"] > single + 0.02, name
        assert found[name]["epochs"] == (0 if name == "late" else 8)
        assert 0 < found[name]["best_epoch"] <= 8 or name == "late"


def test_late_fusion_is_its_singles_with_temperatures(store: str, tmp_path: Path) -> None:
    config = fitted.config(store, tmp_path / "out", networks=[*ALL[:2], ALL[-1]])
    _, found = fitted.fit_all(config)
    late, _ = network_files.load(str(tmp_path / "out/networks/fold-0/late"))
    for name in ("a", "b"):
        single, _ = network_files.load(str(tmp_path / "out/networks/fold-0" / name))
        weights = single.state_dict()
        for key, tensor in late.state_dict().items():
            part, _, rest = key.partition(f".{name}")
            if rest and part in ("encoders", "branches"):
                assert torch.equal(tensor, weights[key])
            elif rest and part == "heads":
                assert torch.equal(tensor, weights[f"head{rest}"])
    assert len(found["late"]["temperature"]) == 2
    assert float(late.prior.sum()) == pytest.approx(1)


def test_a_fusion_may_start_from_trained_encoders(store: str, tmp_path: Path) -> None:
    networks = [ALL[0], {"fusion": "gated", "start_from": ["a"], "width": 16}]
    plan, _ = fitted.fit_all(fitted.config(store, tmp_path / "out", networks=networks))
    begun = plan.make(plan.fits[1], torch.device("cpu")).network.state_dict()
    single, _ = network_files.load(str(tmp_path / "out/networks/fold-0/a"))
    for name, tensor in single.encoders["a"].state_dict().items():
        assert torch.equal(begun[f"encoders.a.{name}"], tensor)
    assert begun["encoders.b.standard.mean"].abs().max() > 0, "the other one knows the train part's means"


NOISY = [
    {"extractor": "a", "encoder": fitted.SMALL, "noise": {"kind": "snr_db", "train": [0, 20], "sweep": [0]}},
    {"extractor": "b", "encoder": fitted.SMALL, "noise": {"kind": "hidden", "train": [0, 0.5], "sweep": [0.5]}},
]


def test_the_same_configuration_gives_the_same_numbers(store: str, tmp_path: Path) -> None:
    for place, seed in enumerate([0, 0, 1]):
        torch.manual_seed(place)  # what was drawn before does not matter
        fitted.fit_all(fitted.config(store, tmp_path / f"{place}", inputs=NOISY, seed=seed))
    folders = [tmp_path / f"{place}/networks/fold-0/intermediate" for place in range(3)]
    first, again, other = map(weights, folders)
    assert_near_trained(again, first)
    with pytest.raises(AssertionError):
        assert_near_trained(other, first)
    before = torch.random.get_rng_state()
    fitted.fit_all(fitted.config(store, tmp_path / "last"))
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random numbers go on as before"


def test_what_goes_on_from_a_state_ends_the_same(store: str, tmp_path: Path) -> None:
    config = fitted.config(store, tmp_path / "whole", inputs=NOISY)
    plan, found = fitted.fit_all(config)
    (fit,) = plan.fits
    file = tmp_path / "state.pt"
    torch.save(fitted.epochs(plan, fit, 3).state(), file)
    again = plan.make(fit, torch.device("cpu"))
    again.restore(torch.load(file, weights_only=True))  # plain tensors and numbers: nothing is executed
    while not again.over:
        again.epoch()
    again.export(str(tmp_path / "again"))
    assert_near_trained(weights(tmp_path / "again"), weights(fit.folder(config.out)))
    figures = json.loads((tmp_path / "again/config.json").read_text())["provenance"]["figures"]
    assert figures == pytest.approx(found["intermediate"], rel=1e-3)


def test_the_best_epoch_is_kept_and_patience_ends_it(store: str, tmp_path: Path) -> None:
    # Steps that are far too long: it learns at first, and then loses it again.
    schedule = {"epochs": 40, "batch_size": 16, "learning_rate": 0.3, "patience": 4, "warmup": 0.5}
    config = fitted.config(store, tmp_path / "out", schedule=schedule)
    plan = fit_plan.prepare(config)
    fitting, rows = plan.make(plan.fits[0], torch.device("cpu")), []
    while not fitting.over:
        rows.append(fitting.epoch())
    fitting.export(plan.fits[0].folder(config.out))
    losses = [row["validation_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert len(rows) == best + 1 + 4 < 40
    figures = fitted.figures(plan.fits[0], config)
    assert (figures["best_epoch"], figures["epochs"]) == (best + 1, len(rows))
    assert figures["validation_loss"] <= losses[best] + 1e-6, "and calibration makes it no worse"
    assert {"train_loss", "validation_loss", "validation_accuracy", "learning_rate"} == set(rows[0])


def test_the_learning_rate_rises_and_falls(store: str, tmp_path: Path) -> None:
    schedule = {"epochs": 10, "batch_size": 16, "learning_rate": 0.01, "warmup": 0.3, "patience": 10}
    plan = fit_plan.prepare(fitted.config(store, tmp_path, schedule=schedule))
    fitting = plan.make(plan.fits[0], torch.device("cpu"))
    rates = [fitting.epoch()["learning_rate"] for _ in range(10)]
    assert np.argmax(rates) == 2
    assert max(rates) == pytest.approx(0.01, rel=0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_a_loss_that_is_no_number_is_said(store: str, tmp_path: Path) -> None:
    schedule = {"epochs": 3, "batch_size": 16, "learning_rate": 1.0, "clip": 1e38}
    wild = {"name": "mlp", "hidden": [4, 4], "dropout": 0}
    plan = fit_plan.prepare(
        fitted.config(store, tmp_path, schedule=schedule, inputs=[{"extractor": "a", "encoder": wild}], networks=[{}])
    )
    fitting = plan.make(plan.fits[0], torch.device("cpu"))
    with torch.no_grad():
        next(iter(fitting.network.parameters())).fill_(torch.nan)
    with pytest.raises(MmrayError, match=r"fold 0, single: the loss is no number; lower schedule\.learning_rate"):
        fitting.epoch()


def test_training_resamples_the_train_part_alone(tmp_path: Path) -> None:
    labels = ["rare" if place % 8 == 0 else "common" for place in range(160)]
    store = fitted.store(tmp_path / "store", 160, label=labels)
    drawn = {}
    for how in ("none", "both"):
        plan = fit_plan.prepare(fitted.config(store, tmp_path, labels={"resample": how}))
        fitting = plan.make(plan.fits[0], torch.device("cpu"))
        drawn[how] = np.bincount(fitting._drawn().classes), np.bincount(fitting._validation.classes)
    assert drawn["both"][0][0] == drawn["both"][0][1] == drawn["none"][0].sum() // 2
    assert drawn["none"][0][1] < drawn["none"][0].sum() // 6
    assert (drawn["none"][1] == drawn["both"][1]).all()


def test_samples_that_lack_an_input_are_trained_on_and_counted(tmp_path: Path) -> None:
    store = fitted.store(tmp_path / "store", have={"a": range(90), "b": range(30, 120)})
    plan, found = fitted.fit_all(fitted.config(store, tmp_path / "out", networks=ALL))
    assert set(plan.notes) == {"a: 30 of 120 samples have no vectors", "b: 30 of 120 samples have no vectors"}
    assert len(found) == 7
    network, _ = network_files.load(str(tmp_path / "out/networks/fold-0/intermediate"))
    assert network.missing["a"].abs().max() > 0, "the token of what is absent has been learnt"
    common = fit_plan.prepare(fitted.config(store, tmp_path / "out", missing="common"))
    assert "60 labelled samples lack a vector of a + b" in common.notes


# What is looked at before any work


def test_vectors_that_are_no_numbers_and_labels_that_are_missing_are_counted(tmp_path: Path) -> None:
    classes = np.arange(60) % 2
    matrix = making.clusters(classes, 4, 1)
    matrix[[3, 5]] = np.nan
    labels = [None if place < 6 else f"class {one}" for place, one in enumerate(classes)]
    labels[10] = "only one of these"
    store = making.store(tmp_path / "store", {"label": labels}, {"a": matrix, "b": making.clusters(classes, 4, 1)})
    notes = fit_plan.prepare(fitted.config(store, tmp_path / "out")).notes
    assert "a: 2 vectors have NaN or infinity and are left out" in notes
    assert "labels given: 6 samples without a label" in notes
    assert "1 class(es) of a single sample are left out ('only one of these')" in notes


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"where": {"take": "9"}}, r"where\.take: no sample has '9'"),
        ({"where": {"tak": 1}}, "where: the manifest has no column 'tak'; did you mean 'take'"),
        ({"inputs": [{"extractor": "flat"}], "networks": [{}]}, r"inputs\[0\]: 'flat' is the same in all samples"),
        ({"inputs": [{"extractor": "broken"}], "networks": [{}]}, r"inputs\[0\]: 'broken' has no vector"),
        (
            {"inputs": [{"extractor": "left"}, {"extractor": "right"}]},
            r"networks\[0\]: no sample has two of left, right; .* `pair_on: label`",
        ),
        (
            {"inputs": [{"extractor": "a"}, {"extractor": "early"}], "split": "given", "test_fraction": None},
            r"fold 0: no sample of the test part has 'early'",
        ),
        (
            {"inputs": [{"extractor": "a", "encoder": {"name": "image_cnn"}}], "networks": [{}]},
            r"inputs\[0\]\.encoder: image_cnn: .*; the windows have 4",
        ),
        (
            {"inputs": [{"extractor": "a"}], "networks": [{}], "validation_by": "group", "group_column": "one"},
            "validation_by: group: a train part has one one alone",
        ),
        ({"workers": 9}, r"schedule\.batch_size: 9 workers share a batch"),
        ({"labels": {"column": "one"}}, "fewer than two classes"),
        ({"labels": {"column": "lable"}}, "the manifest has no column 'lable'; did you mean 'label'"),
        ({"inputs": [{"extractor": "c"}], "networks": [{}]}, r"inputs\[0\]: .*no extractor 'c'"),
        ({"inputs": [{"extractor": "a", "windows": 4}], "networks": [{}]}, r"inputs\[0\]: windows: a-00000000 has no"),
    ],
)
def test_what_cannot_be_trained_is_said_before_any_work(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    classes = np.arange(60) % 2
    columns = {"label": [f"class {one}" for one in classes], "one": ["x"] * 60, "take": [str(p % 3) for p in range(60)]}
    columns["split"] = ["train" if place < 40 else "test" for place in range(60)]
    matrix = making.clusters(classes, 4, 1)
    matrices = dict.fromkeys(("a", "left", "right", "early"), matrix)
    matrices |= {"flat": np.ones((60, 4), np.float32), "broken": np.full((60, 4), np.nan, np.float32)}
    have = {"left": range(30), "right": range(30, 60), "early": range(40)}
    store = making.store(tmp_path / "store", columns, matrices, have)
    given = {"inputs": [{"extractor": "a"}, {"extractor": "left"}]} | keys
    with pytest.raises(ConfigError, match=words):
        fit_plan.prepare(fitted.config(store, tmp_path / "out", **given))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"inputs": [{"extractor": "a", "as": "x.y"}]}, r"inputs\[0\]\.as: is made of letters"),
        ({"inputs": [{"extractor": "a", "as": "keys"}]}, r"inputs\[0\]\.as: .* no word of torch's"),
        ({"networks": [{"as": "../a", "inputs": "a"}]}, r"networks\[0\]\.as: names a folder"),
        (
            {"inputs": [{"extractor": "a", "encoder": {"name": "mlp", "hidden": [0]}}]},
            r"inputs\[0\]\.encoder\.mlp\.hidden\[0\]: .* greater than or equal to 1",
        ),
        ({"networks": [{"inputs": ["a", "a"], "fusion": "early"}]}, "an input stands there twice"),
        (
            {"networks": [{"inputs": "a"}, {"inputs": "b", "width": 8}, {"fusion": "late", "start_from": ["a", "b"]}]},
            r"networks\[2\]: late fusion has the branches of its singles: give it width and hidden of 'b'",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_said(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fitted.config("store", tmp_path, **keys)


def test_a_class_that_a_part_lacks_is_named(tmp_path: Path) -> None:
    labels = ["rare" if place in (0, 40, 41) else f"class {place % 2}" for place in range(60)]
    split = ["train" if place < 40 else "test" for place in range(60)]
    store = fitted.store(tmp_path / "store", 60, label=labels, split=split, have={"a": range(1, 60)})
    notes = fit_plan.prepare(fitted.config(store, tmp_path / "out", split="given", test_fraction=None)).notes
    assert "fold 0: no sample of the validation part is of class 'rare'" in notes
    assert "fold 0: no sample of the train part with 'a' is of class 'rare'" in notes
    assert not any("train part is of class" in note for note in notes), "a single sample is learnt from"


def test_a_damaged_network_is_not_started_from(store: str, tmp_path: Path) -> None:
    config = fitted.config(store, tmp_path / "out", networks=[ALL[0]])
    fitted.fit_all(config)
    file = tmp_path / "out/networks/fold-0/a/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    wider = fitted.config(
        store, tmp_path / "out", networks=[ALL[0], {"fusion": "early", "start_from": ["a"], "width": 16}]
    )
    with pytest.raises(ConfigError, match=r"start_from: .*model\.safetensors: is not a whole .*; delete .*fold-0/a"):
        fit_plan.prepare(wider)


# What makes a fit another one


def test_a_fit_is_done_again_only_when_its_numbers_would_be_others(tmp_path: Path) -> None:
    store = fitted.store(tmp_path / "store", have={"b": range(100)})
    networks = [ALL[0], ALL[1], {"fusion": "early", "start_from": ["a"]}]

    def keys(**given: Any) -> dict[str, str]:
        out = given.pop("out", tmp_path / "out")
        config = fitted.config(store, out, **{"networks": networks, **given})
        return {fit.network: fit.key for fit in fit_plan.prepare(config).fits}

    first = keys()
    assert len(set(first.values())) == 3
    assert keys(workers=2, gpus_per_worker=0.5, max_failures=0, leaks="warn", out=tmp_path / "other") == first
    assert keys(networks=[*networks, ALL[4]]).items() > first.items(), "another network is the only one that is new"
    longer = keys(schedule={"epochs": 9, "batch_size": 16, "learning_rate": 0.01})
    assert not set(longer.values()) & set(first.values())
    own = keys(networks=[networks[0], {**ALL[1], "schedule": {"epochs": 9}}, networks[2]])
    assert (own["a"], own["b"] != first["b"], own["early"]) == (first["a"], True, first["early"])
    assert own["b"] == longer["b"], "other keys are those of the run"
    wider = keys(networks=[{"inputs": "a", "width": 17}, *networks[1:]])
    assert (wider["b"], wider["a"] != first["a"], wider["early"] != first["early"]) == (first["b"], True, True)
    noisy = [fitted.INPUTS[0], {**fitted.INPUTS[1], "noise": NOISY[1]["noise"]}]
    swept = [noisy[0], {**noisy[1], "noise": {**NOISY[1]["noise"], "sweep": [0, 0.9]}}]
    assert keys(inputs=noisy)["a"] == first["a"]
    assert keys(inputs=noisy)["b"] != first["b"]
    assert keys(inputs=noisy) == keys(inputs=swept), "where it is tested does not change what is learnt"
    for other in ({"seed": 1}, {"split": "group"}, {"validation": 0.2}, {"labels": {"resample": "both"}}):
        assert keys(**other)["a"] != first["a"], other
    fitted.store(tmp_path / "store", 119, have={"b": range(100)})
    assert keys()["a"] != first["a"], "other samples"
