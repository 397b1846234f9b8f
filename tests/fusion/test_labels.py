"""Labels follow their rules, and every sample left out is counted."""

from pathlib import Path

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.fusion import dataset, labels
from mmray.fusion.config import Embedding, LabelSet
from tests.fusion import making

NAMES = ["music", "accessibility", "sports"]
SCORES = np.array([[0.2, 0.7, 0.1], [0.05, 0.9, 0.05], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> str:
    columns = {"label": ["music", None, "rare", "sports", "music", " "]}
    scores = np.vstack([SCORES, SCORES[:2]])
    return making.store(
        tmp_path / "s", columns, {"zero_shot": scores, "a": np.eye(6, dtype=np.float32)},
        have={"zero_shot": range(4)}, scores={"zero_shot": NAMES},
    )  # fmt: skip


def test_a_dropped_label_gives_way_to_the_next_and_the_unsure_are_left_out() -> None:
    assert labels.rank(NAMES, SCORES)[0] == ["accessibility", "accessibility", "music", "sports"]
    values, excluded = labels.rank(NAMES, SCORES, ["accessibility"], margin=0.3)
    # 0.2 : 0.1 is 0.67 : 0.33 without the dropped label; 0.05 : 0.05 is no decision.
    assert values == ["music", None, "music", "sports"]
    assert excluded == {"below the margin": 1}
    with pytest.raises(ConfigError, match="did you mean 'accessibility'"):
        labels.rank(NAMES, SCORES, ["acessibility"])


def test_given_and_zero_shot_labels_of_a_store(store: str) -> None:
    data = dataset.load(store, [Embedding(extractor="a")])
    given = labels.apply(LabelSet(), data, store)
    assert given.counts == {"music": 2, "rare": 1, "sports": 1}
    assert given.excluded == {"without a label": 2}
    merged = labels.apply(LabelSet(merge={"other": ("rare", "sports")}), data, store)
    assert merged.counts == {"music": 2, "other": 2}
    left = labels.apply(LabelSet(drop=("rare",)), data, store)
    assert left.excluded == {"without a label": 2, "of a dropped label": 1}
    scored = labels.apply(LabelSet(scores="zero_shot", drop=("accessibility",), margin=0.3), data, store)
    assert scored.values == ("music", None, "music", "sports", None, None)
    assert scored.excluded == {"without scores": 2, "below the margin": 1}
    with pytest.raises(ConfigError, match="does not hold one score per label"):
        labels.apply(LabelSet(scores="a"), data, store)
    with pytest.raises(ConfigError, match=r"no sample is labelled 'raer'; did you mean 'rare'"):
        labels.apply(LabelSet(merge={"other": ("raer",)}), data, store)
    with pytest.raises(ConfigError, match="fewer than two classes"):
        labels.apply(LabelSet(drop=("rare", "sports")), data, store)


@pytest.mark.parametrize("how", ["over", "under"])
def test_resampling_comes_to_total_by_classes(how: str) -> None:
    classes = np.repeat([0, 1, 2, 3], [40, 30, 28, 14]).astype(np.int64)
    assert round(len(classes) / 4) == 28
    drawn = labels.resampled(classes, how, seed=0)
    counts = np.bincount(classes[drawn])
    if how == "over":
        assert counts.tolist() == [40, 30, 28, 28]
        assert set(drawn) == set(range(len(classes)))  # none is lost
    else:
        assert counts.tolist() == [28, 28, 28, 14]
        assert len(set(drawn)) == len(drawn)  # none is doubled
    assert (drawn == labels.resampled(classes, how, seed=0)).all()


def test_both_make_all_classes_equal() -> None:
    classes = np.repeat([0, 1, 2], [50, 5, 2]).astype(np.int64)
    assert np.bincount(classes[labels.resampled(classes, "both", 0)]).tolist() == [19, 19, 19]
    assert (labels.resampled(classes, "none", 0) == np.arange(57)).all()
