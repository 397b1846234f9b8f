"""Tiny checkpoints: real formats, the same bytes for a seed."""

import json

import pytest
import torch

from mmray.errors import ConfigError
from mmray.models import weights
from mmray.models.tiny import MAKERS, make_tiny


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, seed=3)
    return folder


def test_a_seed_gives_the_same_bytes(folder, tmp_path):
    make_tiny(tmp_path, seed=3)
    assert contents(tmp_path) == contents(folder)


def test_another_seed_gives_other_weights(folder, tmp_path):
    make_tiny(tmp_path, seed=4)
    for name in MAKERS:
        assert contents(tmp_path / name) != contents(folder / name)


def test_the_callers_random_numbers_go_on(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make_tiny(tmp_path, names=["sbert"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_every_checkpoint_is_known_to_be_random(folder, name):
    assert json.loads((folder / name / "random.json").read_text()) == {"seed": 3}
    found = weights.resolve(str(folder / name), frozenset({".npz", ".pt", ".pth"}))
    assert found.fingerprint == "random:3"
    assert found.random


def test_only_what_is_named_is_written(tmp_path):
    assert make_tiny(tmp_path, names=["yolox"]) == [tmp_path / "yolox"]
    assert [path.name for path in tmp_path.iterdir()] == ["yolox"]


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"yolo7.*yolov7"):
        make_tiny(tmp_path, names=["yolo7"])
