"""From one embedding to another: what is measured, what the maps reach, what they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from mmray import cli
from mmray.config import validate
from mmray.errors import ConfigError, MmrayError
from mmray.fusion import crossmodal, map_files, map_fit, maps, pairs, retrieval
from mmray.fusion.maps import NAMES, Training
from mmray.pipelines import study_crossmodal
from mmray.tables import features, lease
from mmray.tables.store import Store, open_store, write_parquet
from tests.conftest import ROOT
from tests.near import assert_near, assert_near_trained

HELD = 150
QUICK = Training(hidden=32, code=8, space=16, epochs=3)
REFERENCE = Path(__file__).parent.parent / "reference"


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def asked(model, sources, targets):
    """The figures of a map for sources whose targets stand in the same order."""
    found = retrieval.retrieve(model.queries(sources), model.places(targets), np.arange(len(targets)))
    return retrieval.figures(found, retrieval.twins(targets))


@pytest.fixture
def small():
    sources, targets = pairs.synthetic(7, pairs=120, source_dim=12, target_dim=20)
    return sources, targets


# What is measured


def test_figures_equal_a_count_by_hand():
    random = np.random.default_rng(1)
    places = unit(random.standard_normal((60, 5)).astype(np.float32))
    places[40:45] = places[3]  # ties
    queries = unit(places[:50] + 0.8 * random.standard_normal((50, 5)).astype(np.float32))
    found = retrieval.retrieve(queries, places, np.arange(50))
    figures = retrieval.figures(found, retrieval.twins(places))
    ranks, answers = [], set()
    for row, query in enumerate(queries.astype(np.float64)):
        scores = [float(query @ place) for place in places.astype(np.float64)]
        above = sum(score > scores[row] + 1e-6 for score in scores)
        level = sum(abs(score - scores[row]) <= 1e-6 for score in scores)
        ranks.append(np.mean([above + 1 + extra for extra in range(level)]))
        answers.add(tuple(places[int(np.argmax(scores))].tolist()))
    np.testing.assert_allclose(found.ranks, ranks)
    assert [figures[f"recall_at_{k}"] for k in (1, 5, 10)] == [
        pytest.approx(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)
    ]
    assert figures["median_rank"] == np.median(ranks)
    assert figures["different_answers"] == len(answers)


def test_a_map_that_always_says_the_same_has_one_different_answer():
    random = np.random.default_rng(2)
    places = unit(random.standard_normal((150, 8)).astype(np.float32))
    figures = retrieval.figures(
        retrieval.retrieve(np.repeat(places[:1], 150, axis=0), places, np.arange(150)), np.arange(150)
    )
    assert figures["different_answers"] == 1
    assert figures["recall_at_1"] == pytest.approx(1 / 150, abs=1e-6)
    nowhere = retrieval.retrieve(np.zeros((150, 8), np.float32), places, np.arange(150))
    assert set(nowhere.ranks) == {75.5}, "equal scores are no recall"


def test_identical_targets_are_one_answer():
    targets = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    found = retrieval.Found(np.ones(3), np.array([0, 1, 2]), np.ones(3, np.float32))
    assert retrieval.figures(found, retrieval.twins(targets))["different_answers"] == 2


def test_chance_is_what_random_answers_give():
    random = np.random.default_rng(3)
    same = [np.arange(40), np.concatenate([np.arange(40, 60), [59] * 5])]
    expected = retrieval.chance([(40, same[0]), (25, same[1])])
    heard = [np.concatenate([random.choice(numbers, len(numbers)) for numbers in same]) for _ in range(2000)]
    assert expected["different_answers"] == pytest.approx(np.mean([len(set(one.tolist())) for one in heard]), abs=0.3)
    ranks = np.concatenate([random.integers(1, len(numbers) + 1, (4000, len(numbers))).ravel() for numbers in same])
    for k in (1, 5, 10):
        assert expected[f"recall_at_{k}"] == pytest.approx((ranks <= k).mean(), abs=0.01)
    assert expected["median_rank"] == pytest.approx(np.median(ranks), abs=1)
    assert retrieval.chance([(150, np.arange(150))])["median_rank"] == 75.5


# What the maps reach


def test_a_linear_relation_is_found_whole():
    random = np.random.default_rng(4)
    sources = random.standard_normal((400, 16)).astype(np.float32)
    targets = (sources @ random.standard_normal((16, 24)) + 3).astype(np.float32)
    figures = asked(map_fit.fit("linear", sources[100:], targets[100:]), sources[:100], targets[:100])
    assert figures["recall_at_1"] == 1
    assert figures["different_answers"] == 100


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_contrast_finds_what_a_linear_map_cannot(seed):
    """The README's figure: 5,000 pairs, 150 of them held out."""
    sources, targets = pairs.synthetic(seed)
    linear, contrastive = (
        asked(map_fit.fit(name, sources[HELD:], targets[HELD:], seed), sources[:HELD], targets[:HELD])
        for name in ("linear", "contrastive")
    )
    assert contrastive["different_share"] >= 0.8
    assert contrastive["recall_at_10"] >= 0.95
    assert contrastive["recall_at_10"] >= 2 * linear["recall_at_10"]


@pytest.mark.parametrize("name", ["mlp", "autoencoder"])
def test_regression_by_a_network_finds_it_with_fewer_different_answers(name):
    sources, targets = pairs.synthetic(0)
    figures = asked(map_fit.fit(name, sources[HELD:], targets[HELD:]), sources[:HELD], targets[:HELD])
    assert figures["recall_at_10"] >= 0.9
    assert 0.65 <= figures["different_share"] <= 0.85


def test_captions_are_found_from_the_objects_of_real_pictures():
    """51 COCO pictures: YOLOX-nano's best score of each class, and MiniLM of the first caption; thirds held out."""
    with np.load(REFERENCE / "coco_pairs.npz") as found:
        ids, sources, targets = tuple(found["ids"]), found["yolox_nano_max"], found["minilm"]
    side = pairs.Partition("", "", None, 0)
    known = pairs.Pairs(ids, np.float32(sources), np.float32(targets), (None,) * 51, (side, side), {})
    about = config(Path(), folds=3)
    parts = crossmodal.split(known.groups, about)
    same = retrieval.twins(known.targets)
    chance = retrieval.chance([(len(part), same[part]) for part in parts])
    for name in NAMES:
        _, heard = crossmodal.measured(name, known, parts, parts, about)
        figures = retrieval.figures(heard, same)
        assert figures["recall_at_5"] >= 1.5 * chance["recall_at_5"], name
        if name == "linear":
            assert figures["recall_at_1"] >= 5 * chance["recall_at_1"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_numbers_and_leaves_torch_as_it_was(small, name):
    sources, targets = small
    torch.manual_seed(5)
    wanted, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    first, again, other = (map_fit.fit(name, sources, targets, seed, QUICK).queries(sources) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == threads
    assert_near(again, first, 1e-3)  # rounding of every step of a training goes into the next
    apart = np.abs(other - first).max() / np.abs(first).max()
    assert apart < 1e-3 if name == "linear" else apart > 1e-2, "only networks begin at random"


def test_the_scale_and_constant_columns_of_a_side_change_nothing(small):
    sources, targets = small
    plain = map_fit.fit("mlp", sources, targets, training=QUICK).queries(sources)
    scaled = map_fit.fit("mlp", sources * 1000 + 50, targets, training=QUICK).queries(sources * 1000 + 50)
    np.testing.assert_allclose(plain, scaled, atol=1e-2)
    wider = np.concatenate([sources, np.full((120, 1), 0.1, np.float32)], axis=1)
    model = map_fit.fit("linear", wider, targets)
    wider[:, -1] = 9
    linear = map_fit.fit("linear", sources, targets)
    np.testing.assert_allclose(model.queries(wider), linear.queries(sources), atol=1e-5)


# Folders


@pytest.mark.parametrize("name", NAMES)
def test_a_map_comes_back_from_its_folder(small, name, tmp_path):
    sources, targets = small
    model = map_fit.fit(name, sources, targets, training=QUICK)
    map_files.save(model, str(tmp_path), {"seed": 0})
    again, about = map_files.load(str(tmp_path))
    assert about == {"seed": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_near(again.queries(sources), model.queries(sources))
    assert_near(again.places(targets), model.places(targets))
    with pytest.raises(ConfigError, match=r"source: the map takes vectors of 12 numbers \(given: 20\)"):
        again.queries(targets)


def test_a_folder_that_is_no_map_is_refused_with_file_and_tensor(small, tmp_path):
    map_files.save(map_fit.fit("mlp", *small, training=QUICK), str(tmp_path), {})
    file, about = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, said = file.read_bytes(), json.loads(about.read_text())
    state = load(whole)

    def refused(match):
        with pytest.raises(ConfigError, match=match):
            map_files.load(str(tmp_path))

    file.write_bytes(whole[:1000])
    refused(r"model\.safetensors: is not a whole safetensors file")
    save_file({name: tensor for name, tensor in state.items() if name != "target.rate"}, file)
    refused(r"model\.safetensors: tensor target\.rate of the mlp map is missing")
    save_file(state | {"more": torch.zeros(1)}, file)
    refused("tensor more does not belong to a mlp map")
    save_file(state | {"source.mean": torch.zeros(13)}, file)
    refused(r"tensor source\.mean is float32 \[13\], not float32 \[12\]")
    save_file(state | {"source.mean": torch.full((12,), torch.nan)}, file)
    refused(r"tensor source\.mean has NaN")
    file.unlink()
    refused(r"model\.safetensors: there is no such file")
    file.write_bytes(whole)
    for changed, match in [
        ({"map": "contrastive"}, "tensor log_scale of the contrastive map is missing"),
        ({"map": "guess"}, r"config\.json: map: Input should be 'linear'"),
        ({"format": 2}, r"config\.json: format"),
        ({"source_dim": 13}, r"tensor network\.0\.weight"),
        ({"extra": 1}, "unknown key 'extra'"),
    ]:
        about.write_text(json.dumps(said | changed))
        refused(match)
    about.write_text("{")
    refused(r"config\.json: is not JSON")


# Runs


def config(folder: Path, **settings: Any) -> crossmodal.CrossmodalConfig:
    data = {
        "store": str(folder / "store"),
        "out": str(folder / "out"),
        "source": {"extractor": "seen"},
        "target": {"extractor": "told", "pooling": "first"},
    }
    return validate(crossmodal.CrossmodalConfig, data | settings, "", "study.yaml")


def put(store: Store, name: str, pooling: str, ids: list[str], matrix: np.ndarray) -> None:
    store.write_json({"id": f"{name}-00000000", "as": name}, "provenance", f"{name}-00000000.json")
    write_parquet(features.table(ids, matrix, f"made of {name}"), features.path(store, f"{name}-00000000", pooling))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of 120 samples in 40 groups; two samples lack a side, three have NaN."""
    sources, targets = pairs.synthetic(7, pairs=120, source_dim=12, target_dim=20)
    sources[5, 3] = np.nan
    targets[[6, 7]] = np.inf
    ids = [f"s{place:03}" for place in range(120)]
    store = open_store(str(tmp_path / "store"), create=True)
    put(store, "seen", "mean", ids[1:], sources[1:])
    put(store, "told", "first", ids[:-1], targets[:-1])
    groups = [None if place % 3 == 0 else f"g{place // 3}" for place in range(120)]
    store.write(pa.table({"sample_id": ids, "group": groups}), "manifest.parquet")
    return tmp_path


def test_a_run_accounts_for_every_sample_and_its_maps_give_its_answers(folder):
    results = study_crossmodal.run(config(folder, held_out=30, training=QUICK.model_dump()))
    assert results["excluded"] == {
        "only_in_source": 1, "only_in_target": 1, "source_not_finite": 1, "target_not_finite": 2
    }  # fmt: skip
    assert results["pairs"] + sum(results["excluded"].values()) == 120
    assert (results["asked"], results["fitted_on"], results["candidates"]) == (30, 85, 30)
    assert results["source"]["extractor"] == "seen-00000000"
    assert results == json.loads((folder / "out" / "results.json").read_text())
    answers = pl.read_parquet(folder / "out" / "answers.parquet")
    group = dict(pl.read_parquet(folder / "store" / "manifest.parquet").iter_rows())
    known = pairs.joined(str(folder / "store"), ("seen", "mean"), ("told", "first"))
    for (name,), own in answers.group_by("map"):
        figures = results["maps"][name]
        assert figures["different_answers"] == own["answer"].n_unique()
        assert figures["recall_at_5"] == pytest.approx((own["rank"] <= 5).mean(), abs=1e-6)
        cut = {group[one] for one in own["sample_id"]} & {group[i] for i in known.ids if i not in set(own["sample_id"])}
        assert cut <= {None}
        model, about = map_files.load(str(folder / "out" / "maps" / name))
        assert (about["pairs"], about["target"]["generation"]) == (85, "made of told")
        places = [known.ids.index(one) for one in own["sample_id"]]
        found = retrieval.retrieve(
            model.queries(known.sources[places]), model.places(known.targets[places]), np.arange(30)
        )
        assert [own["sample_id"][int(answer)] for answer in found.answers] == own["answer"].to_list()


def test_a_loss_that_is_no_number_ends_the_fit(monkeypatch):
    monkeypatch.setattr(maps.Mlp, "loss", lambda self, source, target: self.ask(source).sum() * float("nan"))
    sources, targets = pairs.synthetic(0, pairs=40, source_dim=4, target_dim=4)
    with pytest.raises(MmrayError, match=r"mlp: the loss is no number; lower training\.learning_rate"):
        map_fit.fit("mlp", sources, targets, training=QUICK)


def test_a_source_that_a_map_was_fitted_on_is_said(folder):
    found = pairs.joined(str(folder / "store"), ("seen", "mean"), ("told", "first"))
    asked = [np.arange(20)]
    assert crossmodal.leaking(found, asked) == []
    found.sources[[3, 50]] = found.sources[60]
    found.sources[[4, 70]] = 0  # nothing was found in either
    (said,) = crossmodal.leaking(found, asked)
    assert said.startswith(f"1 sources ({found.ids[3]!r} for one) are equal")


def test_the_same_configuration_writes_the_same_files(folder):
    def written() -> tuple[list[str], dict[str, Any]]:
        results = study_crossmodal.run(
            config(folder, folds=4, maps=["linear", "contrastive"], training=QUICK.model_dump())
        )
        assert results["asked"] == results["pairs"] == 115
        found = sorted((folder / "out").rglob("*.*"))
        tensors = {
            f"{path.parent.name} {name}": tensor
            for path in found
            if path.suffix == ".safetensors"
            for name, tensor in load_file(path).items()
        }
        return [str(path) for path in found], tensors

    (names, expected), (again, tensors) = written(), written()
    assert again == names
    assert_near_trained(tensors, expected)


def test_a_study_is_refused_while_another_writes_to_its_folder(folder):
    about = config(folder, held_out=30, maps=["linear"])
    with lease.hold(Store(about.out), "another"), pytest.raises(MmrayError, match=r"the run another .* is writing"):
        study_crossmodal.run(about)
    assert not (folder / "out" / "results.json").exists()
    (folder / "out" / "study.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"out: .* holds a study \(study\.json\)"):
        study_crossmodal.run(about)


def test_all_targets_may_be_candidates(folder):
    results = study_crossmodal.run(config(folder, held_out=0.25, candidates="all", maps=["linear"]))
    assert (results["asked"], results["candidates"]) == (29, 115)
    assert results["chance"]["recall_at_10"] == pytest.approx(10 / 115, abs=1e-6)


def test_folds_never_cut_through_a_group():
    groups = ["a"] * 30 + ["b"] * 3 + [None] * 27
    parts = pairs.folds(groups, 4, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    for wanted in ("a", "b"):
        assert sum(any(groups[place] == wanted for place in part) for part in parts) == 1
    held = pairs.held_out(groups, 20, 0)
    assert len(held) == 20
    assert "a" not in {groups[place] for place in held}, "thirty do not fit into twenty"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"held_out": 150}, r"held_out: 150 of 115 pairs leaves fewer than 10 to learn from; give a share"),
        ({"held_out": 0.001}, "no two fit"),
        ({"folds": 200}, "folds: 200 folds need as many groups or samples; there are"),
        ({"source": {"extractor": "sean"}}, "source: .*no extractor 'sean'; did you mean 'seen'"),
        ({"target": {"extractor": "told", "pooling": "max"}}, "target: .*told-00000000 has no pooling 'max'"),
        ({"source": {"extractor": "told", "pooling": "first"}}, "source and target are the same"),
    ],
)
def test_what_cannot_be_asked_is_said_before_any_work(folder, settings, match):
    with pytest.raises(ConfigError, match=match):
        study_crossmodal.run(config(folder, **settings))
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"held_out": 1}, "held_out: a whole number from 2, or a share below 1"),
        ({"held_out": -3}, "held_out: a whole number"),
        ({"held_out": 10.5}, "held_out: a whole number"),
        ({"folds": 3, "held_out": 10}, "folds: every pair is asked about"),
        ({"maps": ["mlp", "mlp"]}, "maps: 'mlp' stands there twice"),
        ({"maps": ["mpl"]}, r"maps\[0\]: Input should be 'linear'"),
        ({"device": "gpu"}, "device: String should match pattern"),
        ({"heldout": 3}, "unknown key 'heldout'; did you mean 'held_out'"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, settings, match):
    with pytest.raises(ConfigError, match=match):
        config(tmp_path, **settings)


def test_the_configuration_that_mmray_ships_is_valid():
    about = crossmodal.load_crossmodal(str(ROOT / "configs" / "crossmodal.yaml"), ["training.code=32"], out="other")
    assert (about.source.pooling, about.training.code, about.out) == ("mean+max", 32, "other")


def test_one_target_is_no_choice(tmp_path):
    with pytest.raises(ConfigError, match="folds: 30 of 30 pairs: among one target there is no choice"):
        crossmodal.split((None,) * 30, config(tmp_path, folds=30))
    assert len(crossmodal.split((None,) * 30, config(tmp_path, folds=30, candidates="all"))) == 30


def test_too_little_in_common_is_said_with_the_counts(folder):
    store = open_store(str(folder / "store"))
    put(store, "far", "mean", [f"x{place}" for place in range(30)], np.ones((30, 3), np.float32))
    with pytest.raises(ConfigError, match=r"far-00000000 \(30 samples\) and .*have 0 in common \(30 only in source"):
        study_crossmodal.run(config(folder, source={"extractor": "far"}))
    put(store, "few", "mean", [f"s{place:03}" for place in range(10, 29)], np.ones((19, 3), np.float32))
    with pytest.raises(ConfigError, match=r"have 19 in common .* at least 20 are needed"):
        study_crossmodal.run(config(folder, source={"extractor": "few"}))


def test_pairs_without_anything_to_learn_are_refused(small):
    sources, targets = small
    broken = targets.copy()
    broken[3, 4] = np.nan
    for given, match in [
        ((sources, targets[:-1]), "pairs .given: 120 sources and 119 targets"),
        ((sources[:9], targets[:9]), "9 pairs are too few"),
        ((sources, broken), "target: 1 of 120 rows have NaN"),
        ((np.full_like(sources, 0.1), targets), "source: all 12 columns are constant over 120 pairs"),
    ]:
        with pytest.raises(ConfigError, match=match):
            map_fit.fit("mlp", *given, training=QUICK)


def test_a_study_of_that_kind_is_run_by_the_verb(folder, capsys):
    """``mmray study`` tells by ``kind`` which study a file describes."""
    about = config(folder, held_out=30, maps=["linear"]).model_dump(mode="json")
    (folder / "study.yaml").write_text(json.dumps(about))
    assert cli.main(["study", str(folder / "study.yaml")]) == 0
    said = capsys.readouterr().out
    assert "chance" in said
    assert "linear" in said
    assert "asked 30 among 30 candidates" in said
    assert cli.main(["study", str(folder / "study.yaml"), "--json", "--set", "seed=1"]) == 0
    assert set(json.loads(capsys.readouterr().out)["maps"]) == {"linear"}
