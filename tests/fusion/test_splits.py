"""A split is fair: balanced, whole groups, and nothing on both sides."""

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.fusion import splits


def test_stratified_folds_differ_by_one_in_size_and_in_every_class() -> None:
    classes = np.repeat([0, 1, 2, 3], [50, 23, 7, 5]).astype(np.int64)
    numbers = splits.stratified(classes, 5, seed=1)
    for part in [classes == one for one in range(4)] + [np.ones(85, bool)]:
        counts = np.bincount(numbers[part], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (numbers == splits.stratified(classes, 5, seed=1)).all()
    assert (numbers != splits.stratified(classes, 5, seed=2)).any()


def test_no_group_is_cut_and_classes_stay_near_their_share() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 60, 600)
    classes = random.integers(0, 4, 600)
    numbers = splits.grouped(classes, list(groups), 5, seed=0)
    assert splits.straddling(numbers, list(groups)) == {}
    for one in range(4):
        shares = np.bincount(numbers[classes == one], minlength=5) / (classes == one).sum()
        assert shares.min() > 0.1
        assert shares.max() < 0.3


def test_fewer_groups_than_folds_are_refused_and_no_group_is_a_group_of_ones_own() -> None:
    classes = np.array([0, 1, 0, 1])
    with pytest.raises(ConfigError, match="there are 2"):
        splits.grouped(classes, ["a", "a", "b", "b"], 3, seed=0)
    assert len(set(splits.grouped(classes, [None] * 4, 4, seed=0))) == 4


def test_more_folds_than_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 folds need at least as many samples; there are 8"):
        splits.stratified(np.arange(8) % 2, 9, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3, 0.4, 0.45, 0.5])
def test_one_test_part_has_the_share_that_is_asked_for(share: float) -> None:
    classes = np.repeat([0, 1, 2], [200, 60, 40]).astype(np.int64)
    tested = splits.fraction(classes, share, seed=1) == 0
    assert tested.sum() == round(share * 300)
    for one in range(3):
        assert abs(tested[classes == one].sum() - share * (classes == one).sum()) <= 1
    groups = list(np.random.default_rng(0).integers(0, 60, 300))
    numbers = splits.grouped(classes, groups, 2, 1, (share, 1 - share))
    assert splits.straddling(numbers, groups) == {}
    assert (numbers == 0).mean() == pytest.approx(share, abs=0.05)


def test_a_column_is_one_split_or_folds() -> None:
    numbers, part = splits.given(["train", "test", "val", None, "train"])
    assert part.tolist() == [True, True, False, False, True]
    ((train, test),) = splits.parts(numbers[part])
    assert (train.tolist(), test.tolist()) == ([0, 2], [1])
    numbers, part = splits.given([1, 2, 3, 1, None])
    assert len(list(splits.parts(numbers[part]))) == 3
    assert (splits.given(["Train", " test", "VAL"])[0] == splits.given(["train", "test", "val"])[0]).all()
    for values, words in ((["train", "val"], "has no 'test'.*train, val"), (["test", None], "has no 'train'"),
                          (["training", "testing"], "'testing' .*are called train and test")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            splits.given(values)


def test_what_stands_on_both_sides_is_found() -> None:
    numbers = np.array([0, 1, 1, 0, 0])
    assert {k: v.tolist() for k, v in splits.straddling(numbers, ["a", "a", "b", "c", None]).items()} == {"a": [0, 1]}
    assert splits.untrained(np.array([0, 0, 1, 1, 1]), np.array([2, 2, 0, 1, 0])) == [0]
