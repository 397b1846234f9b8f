"""The figures are scikit-learn's, and the intervals hold what they promise."""

import tracemalloc

import numpy as np
from sklearn import metrics as reference

from mmray.fusion import metrics


def test_figures_equal_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    true, answers = random.integers(0, 5, 300), random.integers(0, 6, 300)  # one class is answered and never true
    counts = metrics.confusion(true, answers, 7)  # one never occurs
    assert np.isclose(metrics.accuracy(counts), reference.accuracy_score(true, answers))
    assert np.isclose(metrics.macro_f1(counts), reference.f1_score(true, answers, average="macro"))
    recall = reference.recall_score(true, answers, average="macro", labels=range(5))
    assert np.isclose(metrics.balanced_accuracy(counts), recall)


def test_a_95_percent_interval_holds_the_truth_95_times_in_100() -> None:
    random = np.random.default_rng(1)
    held = [low <= 0.7 <= high for low, high in (metrics.wilson(k / 100, 100) for k in random.binomial(100, 0.7, 2000))]
    assert 0.93 < np.mean(held) < 0.97
    assert metrics.wilson(1.0, 10)[1] > 0.999
    assert metrics.wilson(1.0, 10)[0] < 0.8


def test_the_interval_of_macro_f1_is_around_it_and_narrows() -> None:
    small = np.array([[30.0, 10], [5, 15]])
    low, high = metrics.macro_f1_interval(small)
    assert low < metrics.macro_f1(small) < high
    nearer = metrics.macro_f1_interval(100 * small)
    assert nearer[1] - nearer[0] < (high - low) / 5
    assert metrics.macro_f1_interval(small) == (low, high)


def test_many_classes_cost_no_more_than_their_answers() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 1000, 3000)
    counts = metrics.confusion(true, np.where(random.random(3000) < 0.5, true, random.integers(0, 1000, 3000)), 1000)
    tracemalloc.start()
    low, high = metrics.macro_f1_interval(counts)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < low < high < 1
    assert peak_bytes < 300e6  # a draw of every cell of the matrix is 8 MB, and there are a thousand
    few = counts[:3, :3] + np.diag([5, 0, 2])
    drawn = np.random.default_rng(0).multinomial(int(few.sum()), few.ravel() / few.sum(), metrics.DRAWS)
    whole = np.quantile(metrics.macro_f1(drawn.reshape(-1, 3, 3).astype(float)), [0.025, 0.975])
    np.testing.assert_allclose(metrics.macro_f1_interval(few), whole, atol=0.03)
