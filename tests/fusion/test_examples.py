"""Who is trained on, held out and tested, and which samples stand together as one example."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmray.errors import ConfigError
from mmray.fusion import examples, material
from mmray.fusion.examples import Examples, Part, Split
from mmray.fusion.material import Material
from mmray.fusion.training import TrainConfig
from tests.fusion import fitted, making

PAIRS = {
    "pair_on": "label", "inputs": [{"extractor": "a"}, {"extractor": "b"}], "networks": [{"fusion": "early"}],
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fitted.store(tmp_path / "store", 180, {"b": range(90)})


@pytest.fixture
def apart(tmp_path: Path) -> str:
    """Make a store in which each sample has one input: pictures 0 to 119, sounds 120 to 179, of five speakers."""
    classes = np.arange(180) % 3
    columns = {
        "label": [f"class {one}" for one in classes], "split": ["train" if n < 90 else "test" for n in range(180)],
        "group": [None if n < 120 else f"speaker {(n - 120) // 12}" for n in range(180)],
    }  # fmt: skip
    matrices = {"a": making.clusters(classes, 3, 1), "b": making.clusters(classes, 4, 1)}
    return making.store(tmp_path / "apart", columns, matrices, {"a": range(120), "b": range(120, 180)})


def split_of(store: str, folder: Path, **keys: Any) -> tuple[Material, Split, TrainConfig]:
    config = fitted.config(store, folder, **keys)
    found = material.load(config)
    return found, examples.split(found, config), config


def parts(fold: examples.Fold) -> list[set[int]]:
    return [set(np.concatenate(part.members).tolist()) for part in (fold.train, fold.validation, fold.test)]


def test_every_sample_is_tested_once_and_no_part_knows_another(store: str, tmp_path: Path) -> None:
    _, split, _ = split_of(store, tmp_path, test_fraction=None, folds=3, validation=0.2)
    assert len(split.folds) == 3
    tested = Counter()
    for fold in split.folds:
        train, validation, test = parts(fold)
        assert not train & validation
        assert not (train | validation) & test
        assert len(train | validation | test) == 180
        assert len(validation) == pytest.approx(0.2 * len(train | validation), abs=2)
        tested.update(test)
    assert set(tested.values()) == {1}
    again = split_of(store, tmp_path, test_fraction=None, folds=3, validation=0.2)[1]
    assert [parts(fold) for fold in again.folds] == [parts(fold) for fold in split.folds]
    other = split_of(store, tmp_path, test_fraction=None, folds=3, validation=0.2, seed=1)[1]
    assert parts(other.folds[0]) != parts(split.folds[0])


@pytest.mark.parametrize("by", ["stratified", "group"])
def test_groups_stay_together_also_in_validation_where_asked(store: str, tmp_path: Path, by: str) -> None:
    found, split, _ = split_of(
        store, tmp_path, split="group", test_fraction=None, folds=3, validation=0.2, validation_by=by
    )
    groups = found.dataset.columns["group"]
    for fold in split.folds:
        train, validation, test = ({groups[place] for place in part} for part in parts(fold))
        assert not (train | validation) & test
        assert bool(train & validation) == (by == "stratified")


def test_a_sample_with_its_inputs_is_an_example(store: str, tmp_path: Path) -> None:
    _, split, _ = split_of(store, tmp_path)
    drawn = split.folds[0].train.examples()
    assert (drawn.places[:, 0] == np.unique(drawn.places[:, 0])).all(), "each once, in order"
    assert ((drawn.places[:, 1] == drawn.places[:, 0]) == (drawn.places[:, 0] < 90)).all()
    assert set(drawn.places[drawn.places[:, 0] >= 90, 1]) == {-1}
    assert (drawn.classes == drawn.places[:, 0] % 3).all()
    only = drawn.of([1])
    assert set(only.places[:, 0]) == set(split.folds[0].train.members[1]), "who has none of the inputs is left out"
    counted = Counter(split.folds[0].train.examples(3 * len(drawn) + 1, (1,)).places[:, 0].tolist())
    assert set(counted.values()) == {3, 4}


def test_pairs_have_one_label_and_are_drawn_anew_by_each_seed(apart: str, tmp_path: Path) -> None:
    _, split, _ = split_of(apart, tmp_path, **PAIRS)
    part = split.folds[0].train
    first, again, other = (part.examples(None, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    assert (first.places == again.places).all()
    assert not (first.places == other.places).all()
    assert sorted(first.places[:, 0]) == sorted(part.members[0]), "the largest input's samples, each once"
    assert set(first.places[:, 1]) <= set(part.members[1])
    assert (first.places[:, 0] % 3 == first.classes).all()
    assert (first.places[:, 1] % 3 == first.classes).all()
    assert len(part.examples(1000, (0,))) == 1000
    uses = Counter(part.examples(1000, (0,)).places[:, 1].tolist())
    for one in range(3):
        used = [count for place, count in uses.items() if place % 3 == one]
        assert max(used) - min(used) <= 1, "partners of a class are used evenly"


def test_each_input_of_a_pair_has_a_split_of_its_own(apart: str, tmp_path: Path) -> None:
    inputs = [{"extractor": "a", "split": "given"}, {"extractor": "b", "split": "group"}]
    found, split, _ = split_of(apart, tmp_path, **{**PAIRS, "inputs": inputs, "test_fraction": None, "folds": 5})
    assert len(split.folds) == 5
    groups, spoken = found.dataset.columns["group"], set()
    for fold in split.folds:
        assert set(fold.test.members[0]) == set(range(90, 120)), "one given split serves all folds"
        assert set(fold.train.members[0]) | set(fold.validation.members[0]) == set(range(90))
        held = {groups[place] for place in fold.test.members[1]}
        assert len(held) == 1
        assert not held & {groups[place] for place in fold.train.members[1]}
        spoken |= held
    assert len(spoken) == 5
    two = [{"extractor": "a", "split": "stratified"}, {"extractor": "b", "split": "given"}]
    assert len(split_of(apart, tmp_path, **{**PAIRS, "inputs": two[:1] + inputs[1:]})[1].folds) == 1
    with pytest.raises(ConfigError, match=r"inputs\.split: only for pairs"):
        split_of(apart, tmp_path, inputs=inputs)


def test_pairs_need_every_class_on_both_sides(apart: str, tmp_path: Path) -> None:
    labels = ["only seen" if n < 10 else f"class {n % 3}" for n in range(180)]
    classes = np.arange(180) % 3
    matrices = {"a": making.clusters(classes, 3, 1), "b": making.clusters(classes, 4, 1)}
    store = making.store(tmp_path / "s", {"label": labels}, matrices, {"a": range(120), "b": range(120, 180)})
    _, split, _ = split_of(store, tmp_path, **PAIRS)
    assert split.classes == ("class 0", "class 1", "class 2")
    assert "class 'only seen' is not in every input; it is left out" in split.notes
    assert not set(range(10)) & set(split.folds[0].train.members[0])


def test_a_class_of_one_member_is_learnt_from_not_validated_on() -> None:
    found = [
        examples._held_out(sides, np.arange(40), own, rule, None)  # type: ignore[arg-type]
        for own in [np.array([1] + [0] * 39)]
        for sides in [None]
        for rule in [fitted.config("store", Path("out"), validation=0.5, seed=seed) for seed in range(8)]
    ]
    assert not any(held[0] for held in found)
    assert all(15 <= held.sum() <= 25 for held in found)


def test_leaks_are_told(tmp_path: Path) -> None:
    classes = np.arange(60) % 2
    matrix = making.clusters(classes, 4, 1)
    matrix[1::2] = matrix[1]  # one content under many names
    other = making.clusters(classes, 3, 1, seed=1)
    store = making.store(tmp_path / "s", {"label": [str(one) for one in classes]}, {"a": matrix, "b": other})
    # Both together are never the same: only the network that reads one alone knows its test part.
    inputs, networks = [{"extractor": "a"}, {"extractor": "b"}], [{"inputs": "a"}, {"inputs": "b"}, {"fusion": "early"}]
    _, split, _ = split_of(store, tmp_path, inputs=inputs, networks=networks)
    assert len(split.leaks) == 1
    assert split.leaks[0].startswith("1 content(s) of a stand in train and test at once")


def test_a_batch_holds_windows_and_says_which_are_there(store: str, tmp_path: Path) -> None:
    found, _, _ = split_of(store, tmp_path)
    drawn = Examples(np.array([[3, 3], [100, -1], [5, 5]]), np.array([0, 1, 2]))
    made = examples.batch(drawn, ("a", "b"), found.modalities, np.array([2, 1]))
    assert made.windows["a"].shape == (2, 1, 8)
    assert made.windows["b"].shape == (2, 1, 6)
    assert made.there["b"].tolist() == [[True], [False]]
    np.testing.assert_array_equal(made.windows["a"][1, 0], found.modalities["a"].windows[100, 0])
    np.testing.assert_array_equal(made.windows["b"][0, 0], found.modalities["b"].windows[5, 0])
    assert not made.windows["b"][1].any()
    assert made.classes.tolist() == [2, 1]
    gone = made.without("a")
    assert not gone.there["a"].any()
    assert gone.there["b"].tolist() == made.there["b"].tolist()


def test_batches_are_all_examples_once(store: str, tmp_path: Path) -> None:
    found, split, _ = split_of(store, tmp_path)
    drawn = split.folds[0].train.examples()
    for seed in (None, (0, 1)):
        made = list(examples.batches(drawn, ("a", "b"), found.modalities, 32, seed))
        assert [len(one.classes) for one in made[:-1]] == [32] * (len(made) - 1)
        together = torch.cat([one.classes for one in made])
        assert sorted(together.tolist()) == sorted(drawn.classes.tolist())
        assert (together.tolist() == drawn.classes.tolist()) == (seed is None)


def test_an_unpaired_part_without_windows_of_an_input() -> None:
    part = Part((np.array([0, 2]), np.array([1, 2])), np.array([0, 1, 0]), False)
    assert part.examples().places.tolist() == [[0, -1], [-1, 1], [2, 2]]
