"""How near results must come that networks compute twice."""

from typing import Any

import numpy as np

# The order in which a CPU's kernels add depends on its instructions, on the shape of the batch and on where a tensor
# lies in memory, which two loads of the same file decide differently. A float32 sum is off by about 1e-7 of its size
# then, and what comes out of all layers by up to 5e-6 (CLAP on another CPU). Twice that is allowed. What the tests tell
# apart (other weights, seeds, neighbours) differs by 1e-3 and more.
SHARE = 1e-5


def assert_near(found: Any, expected: Any, share: float = SHARE, message: str = "") -> None:
    """Assert that arrays have the same shape and differ by no more than a share of the largest number."""
    one, other = np.asarray(found), np.asarray(expected)
    assert one.shape == other.shape
    largest = np.abs(other).max(initial=0)
    np.testing.assert_allclose(one, other, rtol=0, atol=share * max(largest, 1e-30), err_msg=message)


def assert_near_pictures(found: Any, expected: Any) -> None:
    """Assert that pictures of 8 bits differ by rounding alone: by one level of 256."""
    one, other = np.asarray(found).astype(int), np.asarray(expected).astype(int)
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 1


def assert_near_trained(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two trainings, or one that was interrupted and one that was not, end with the same weights.

    A training goes on from its own rounding, a hundred steps here: 1e-3 of a tensor's largest number covers what 1e-7
    in each step grows to. Another seed, or an optimiser that forgot what it had, ends more than 1e-2 away.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_near(found[name], tensor, 1e-3, name)


def assert_same_answer(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two searches found the same in the same order, with scores that differ by rounding alone."""
    scores = [[one.pop("score") for one in answer["results"]] for answer in (found, expected)]
    assert found == expected
    assert_near(*scores)
