"""Tests that need a GPU: `make test-cuda`. Where torch sees none they skip and say so."""

import pytest
import torch

from tests.extractors.test_contract import items, loaded, results  # noqa: F401
from tests.pipelines.conftest import clips, corpus, entries, extract, ray_session, tiny, write  # noqa: F401
from tests.pipelines.test_evaluate import store as recorded  # noqa: F401

DEVICE = "cuda:0"


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here (torch.cuda.is_available() is false)")
    torch.set_num_threads(1)  # of the CPU's side: many small networks, beside Ray's processes
