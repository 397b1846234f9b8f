"""A cell learns from its train part alone, says who takes no part, and is the same every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.fusion import baselines, cells, dataset, labels, sides
from mmray.fusion.cells import Cell
from mmray.fusion.config import CLASSIFIERS, Embedding, StudyConfig
from tests.fusion import making
from tests.near import assert_near

Make = Callable[..., tuple[StudyConfig, sides.Material]]
CLASSES = np.arange(90) % 3


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a store of two weak embeddings and texts, and reads it for a study."""

    def made(
        have: dict[str, Any] | None = None, columns: dict[str, Any] | None = None, noise: float = 1.2, **keys: Any
    ) -> tuple[StudyConfig, sides.Material]:
        words = [f"{['cat', 'dog', 'bird'][one]} {place % 7} some words" for place, one in enumerate(CLASSES)]
        texts = {"label": [f"class {one}" for one in CLASSES], "text": words}
        matrices = {name: making.clusters(CLASSES, 6, noise, seed) for seed, name in enumerate("ab")}
        store = making.store(tmp_path / "s", texts | (columns or {}), matrices, have)
        about = {"embeddings": [{"extractor": "a"}, {"extractor": "b"}, {"extractor": "tfidf", "as": "words"}]}
        config = StudyConfig.model_validate({"store": store, "out": "", **about, **keys})
        data = dataset.load(store, config.embeddings)
        return config, sides.Material(data, {one.as_: labels.apply(one, data, store) for one in config.labels})

    return made


def test_every_classifier_beats_the_majority_and_repeats_itself(make: Make) -> None:
    config, material = make(folds=3)
    found = {
        name: cells.evaluate(Cell(("a",), "single", (name,), "given", 0), config, material) for name in CLASSIFIERS
    }
    assert found["majority"]["accuracy"] == pytest.approx(1 / 3, abs=0.05)
    for name in set(CLASSIFIERS) - {"majority"}:
        assert found[name]["accuracy"] > 0.5, name
        assert sum(map(sum, found[name]["confusion"])) == 90
    for name in ("mlp", "linear_svc"):
        again = cells.evaluate(Cell(("a",), "single", (name,), "given", 0), config, material)
        differing = np.abs(np.subtract(again["confusion"], found[name]["confusion"])).sum()
        assert differing <= 2, "one sample of 90, which rounding moved over a boundary"


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - {"majority"}))
def test_a_small_corpus_teaches_every_classifier(make: Make, name: str) -> None:
    few = range(24)  # 16 to train on in each of 3 folds
    config, material = make(have={"a": few}, noise=0.3, folds=3, inner_folds=2)
    found = cells.evaluate(Cell(("a",), "single", (name,), "given", 0), config, material)
    assert found["samples"] == len(few)
    assert found["accuracy"] > 0.8


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_late_fusion_bears_folds_of_one_class_and_without_an_embedding(make: Make, name: str) -> None:
    common = ["rare" if place in {3, 50} else "common" for place in range(90)]
    config, material = make(columns={"label": common}, folds=2)
    found = cells.evaluate(Cell(("a", "b"), "late", (name, name), "given", 0), config, material)
    assert found["samples"] == len(found["answers"]["ids"]) == 90
    # In each of two folds some inner fold holds all who have it.
    config, material = make(have={"b": [0, 1, 2, 3]}, folds=2, missing="mask")
    found = cells.evaluate(Cell(("a", "b"), "late", (name, name), "given", 0), config, material)
    assert found["samples"] == len(found["answers"]["ids"]) == 90


def test_every_tested_sample_has_one_answer_and_the_figures_are_theirs(make: Make) -> None:
    split = ["train" if place < 45 else "test" if place < 80 else "val" for place in range(90)]
    tested = {"stratified": range(2, 90), "given": range(45, 80)}
    for how, places in tested.items():
        config, material = make(have={"a": range(2, 90)}, columns={"split": split}, split=how, folds=3)
        for fusion, names in (("single", ("a",)), ("late", ("a", "b"))):
            found = cells.evaluate(Cell(names, fusion, ("logistic",) * len(names), "given", 0), config, material)
            answers = found["answers"]
            assert answers["ids"] == [f"s{place:04d}" for place in places]
            assert answers["true"] == [f"class {CLASSES[place]}" for place in places]
            pairs = list(zip(answers["true"], answers["classes"], strict=True))
            assert found["accuracy"] == pytest.approx(np.mean([true == answer for true, answer in pairs]), abs=1e-6)
            names_of = found["classes"]
            assert found["confusion"] == [[pairs.count((true, answer)) for answer in names_of] for true in names_of]


def test_two_weak_embeddings_are_better_together(make: Make) -> None:
    config, material = make(folds=3, noise=1.5)
    accuracy = {
        (fusion, names): cells.evaluate(Cell(names, fusion, many, "given", 0), config, material)["accuracy"]
        for fusion, names, many in [
            ("single", ("a",), ("logistic",)),
            ("single", ("b",), ("logistic",)),
            ("early", ("a", "b"), ("logistic",)),
            ("late", ("a", "b"), ("logistic", "rbf_svc")),
        ]
    }
    alone = max(value for (fusion, _), value in accuracy.items() if fusion == "single")
    assert accuracy["early", ("a", "b")] > alone
    assert accuracy["late", ("a", "b")] > alone - 0.03


def test_words_are_learnt_per_fold(make: Make) -> None:
    config, material = make(folds=3)
    for fusion, names in [("single", ("words",)), ("early", ("a", "words"))]:
        found = cells.evaluate(Cell(names, fusion, ("logistic",), "given", 0), config, material)
        assert found["accuracy"] > 0.95
    found = cells.evaluate(Cell(("words",), "single", ("naive_bayes",), "given", 0), config, material)
    assert found["accuracy"] > 0.95


def test_scale_and_vocabulary_come_from_the_train_part_alone(make: Make) -> None:
    _, material = make()
    block = material.dataset.blocks["a"]
    train, test = np.arange(60), np.arange(60, 90)
    before = baselines.numbers(block, Embedding(extractor="a"), train)(train)
    assert block.matrix is not None
    block.matrix[test] = 1e6
    assert_near(baselines.numbers(block, Embedding(extractor="a"), train)(train), before)
    assert (before**2).sum(1).mean() == pytest.approx(1, abs=1e-3)
    words = material.dataset.blocks["words"]
    assert words.texts is not None
    changed = dataset.Block(None, (*words.texts[:60], *["unheard of"] * 30), words.present, "")
    width = baselines.numbers(words, Embedding(extractor="counts"), train)(train).shape
    assert baselines.numbers(changed, Embedding(extractor="counts"), train)(train).shape == width
    assert not baselines.numbers(changed, Embedding(extractor="counts"), train)(test).any()


@pytest.mark.parametrize("name", ["naive_bayes", "logistic", "mlp"])
def test_one_sample_out_of_all_measure_leaves_the_others_their_answers(make: Make, name: str) -> None:
    config, material = make(folds=3, noise=0.5)
    matrix = material.dataset.blocks["a"].matrix
    assert matrix is not None
    matrix[7] = 1e30  # a number still, but its square is none in float32
    found = cells.evaluate(Cell(("a", "b"), "late", (name, name), "given", 0), config, material)
    assert found["accuracy"] > 0.8


def test_resampling_touches_the_train_part_alone(make: Make) -> None:
    few = [f"class {min(one, 1)}" for one in CLASSES]
    config, material = make(columns={"label": few}, labels=[{"as": "balanced", "resample": "both"}], folds=3)
    for cell in (
        Cell(("a",), "single", ("logistic",), "balanced", 0),
        Cell(("a", "b"), "late", ("logistic",) * 2, "balanced", 0),
    ):
        found = cells.evaluate(cell, config, material)
        for counts in found["counts"]:
            assert counts["train"] == {"class 0": 20, "class 1": 40}
            assert counts["resampled"] == {"class 0": 30, "class 1": 30}
            assert counts["test"] == {"class 0": 10, "class 1": 20}


def test_who_lacks_an_embedding_is_left_out_or_masked_and_always_said(make: Make) -> None:
    for missing, samples in (("own", 60), ("common", 60), ("mask", 90)):
        config, material = make(have={"b": range(60)}, missing=missing, folds=3)
        for fusion, many in (("early", 1), ("late", 2)):
            cell = Cell(("a", "b"), fusion, ("logistic",) * many, "given", 0)
            found = cells.evaluate(cell, config, material)
            assert found["samples"] == samples
            assert found["accuracy"] > 0.6
            assert any("lack" in note for note in found["notes"]) == (missing != "mask")
        alone = cells.evaluate(Cell(("a",), "single", ("logistic",), "given", 0), config, material)
        assert alone["samples"] == (60 if missing == "common" else 90)


def test_an_absent_text_is_told_from_one_without_known_words(make: Make) -> None:
    texts = [None if place % 3 else ("cat dog", "dog")[place % 2] for place in range(90)]
    _, material = make(columns={"text": texts})
    block, places = material.dataset.blocks["words"], np.arange(90)
    rows = baselines.numbers(block, Embedding(extractor="tfidf"), places)(places)
    assert rows.shape == (90, 3)
    assert (rows[:, 2] == block.present).all()
    there = np.flatnonzero(block.present)
    assert baselines.numbers(block, Embedding(extractor="tfidf"), there)(places).shape == (90, 2)


def test_no_overlap_is_an_error_before_any_work(make: Make) -> None:
    config, material = make(have={"a": range(45), "b": range(45, 90)})
    with pytest.raises(ConfigError, match=r"embeddings: of 90 labelled samples \(labels 'given'\) none has a \+ b"):
        sides.sides(("a", "b"), "given", 0, config, material)


def test_classes_that_cannot_be_tested_fairly_are_left_out_and_said(make: Make) -> None:
    named = [f"class {one}" for one in CLASSES]
    config, material = make(columns={"label": ["alone", *named[1:]]})
    found = sides.sides(("a",), "given", 0, config, material)
    assert found.names == ("class 0", "class 1", "class 2")
    assert "1 class(es) of a single sample are left out ('alone')" in found.notes
    folds = ["1" if one == 2 else str(place % 2 + 1) for place, one in enumerate(CLASSES)]
    config, material = make(columns={"fold": folds}, split="given", split_column="fold")
    found = sides.sides(("a",), "given", 0, config, material)
    assert found.names == ("class 0", "class 1")
    assert any("'class 2' stands in one fold alone" in note for note in found.notes)
    split = ["train" if one == 2 or place < 45 else "test" for place, one in enumerate(CLASSES)]
    config, material = make(columns={"split": split}, split="given")
    assert "class 'class 2' is trained on and never tested" in sides.sides(("a",), "given", 0, config, material).notes


def test_leaks_are_found_and_group_splits_have_none(make: Make) -> None:
    columns = {"group": [f"speaker {place // 9}" for place in range(90)]}
    for split, leaky in (("stratified", True), ("group", False)):
        config, material = make(columns=columns, split=split, folds=3)
        contents = material.dataset.contents(["a"])
        found = sides.sides(("a",), "given", 0, config, material)
        assert any("group" in one for one in sides.leaks(found, config, material.dataset, contents, "a")) == leaky
    contents[5] = contents[5 + 9 * 4]
    found = sides.sides(("a",), "given", 0, config, material)
    if found.numbers[5] == found.numbers[41]:
        contents[5] = contents[next(place for place in range(90) if found.numbers[place] != found.numbers[5])]
    (said,) = sides.leaks(found, config, material.dataset, contents, "a")
    assert said.startswith("1 content(s) of a stand in train and test at once (s0005 and s00")
    assert "are equal; 2 samples)" in said


def test_every_combination_once_and_one_embedding_of_a_modality() -> None:
    about = [{"extractor": "a", "modality": "sound"}, {"extractor": "b", "modality": "sound"}, {"extractor": "c"}]
    config = StudyConfig.model_validate({"store": "s", "out": "o", "embeddings": about, "classifiers": ["logistic"]})
    found = cells.enumerate_cells(config)
    assert len(found) == len(set(found)) == 3 + 2 + 2
    assert not any({"a", "b"} <= set(cell.embeddings) for cell in found)


def test_probabilities_are_calibrated() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 3000)
    logits = 1.0 * np.eye(3)[classes] + random.normal(size=(3000, 3)) * 0.7
    best = baselines.temperature(logits, classes)
    assert baselines.temperature(4 * logits, classes) == pytest.approx(best / 4, rel=0.1)


def test_what_decides_the_figures_decides_the_key(make: Make) -> None:
    config, material = make()
    cell = Cell(("a",), "single", ("logistic",), "given", 0)
    key = cells.key(cell, config, material)
    assert key == cells.key(cell, config.model_copy(update={"timeout_s": 5.0, "leaks": "error", "out": "x"}), material)
    for keys in ({"folds": 4}, {"missing": "mask"}, {"split": "group"}):
        assert key != cells.key(cell, config.model_copy(update=keys), material)
    again, other = make(columns={"label": [f"class {one}" for one in CLASSES[::-1]]})
    assert key != cells.key(cell, again, other)
