"""Every extractor on a GPU: in float32 a CPU's numbers, whatever shares the batch; in half precision near them."""

import numpy as np
import pytest
import torch

from mmray.models import hub
from mmray.specs import Rows
from tests.extractors.test_contract import CASES, assert_same

from .conftest import DEVICE


@pytest.fixture(scope="module")
def found(loaded, items):
    return loaded.extract(items, DEVICE)


def test_float32_gives_the_numbers_of_a_cpu(loaded, found, results):
    if loaded.extractor.name == "rtdetr" and "rtdetr" in loaded.path:
        pytest.skip("the tiny network picks its queries among scores that are 1e-7 apart: see the test in float64")
    assert_same(found, results, atol=1e-4)


def test_rtdetr_in_float64_gives_the_numbers_of_a_cpu(tiny):
    path = str(tiny / "rtdetr")
    pictures = torch.rand(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    networks = [hub.load("AutoModelForObjectDetection", path, "float64", device) for device in ("cpu", DEVICE)]
    with torch.inference_mode():
        expected, found = (network(pixel_values=pictures.to(network.device)) for network in networks)
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=1e-9, rtol=0)


def test_neighbours_in_a_batch_change_nothing(loaded, items, found):
    alone = [result for item in items for result in loaded.extract([item], DEVICE)]
    assert_same(found, alone, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("loaded", [case for case in CASES if case.has_precision], indirect=True, ids=str)
def test_lower_precision_is_near(loaded, items, results, precision):
    coarse = loaded.extract(items, DEVICE, precision=precision)
    assert [type(rows) for rows in coarse] == [Rows] * len(items)
    for one, exact in zip(coarse, results, strict=True):
        for name in loaded.extractor.dims(loaded.path):
            assert one.columns[name].dtype == exact.columns[name].dtype
            assert np.abs(one.columns[name] - exact.columns[name]).max() < 0.1 * np.abs(exact.columns[name]).max()
