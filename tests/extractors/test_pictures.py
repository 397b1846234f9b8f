"""What a folder's processor does to a picture: read from its own settings, the same numbers as the library's class."""

import json

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.extractors.pictures import Defaults, Preparation
from mmray.models.torch_setup import ensure_torchaudio
from mmray.models.vectors import pooled

from .streams import picture

VIDEO = Defaults("VideoMAE", {"shortest_edge": 224}, crop_px=224)
STILL = Defaults("ViT", {"height": 224, "width": 224}, square=True)
NETWORK = {"image_size": 224}


@pytest.fixture
def folder(tmp_path):
    def write(**settings):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return write


def read(path, defaults=STILL, **network):
    return Preparation.read(path, defaults, NETWORK | network)


@pytest.mark.parametrize(
    ("settings", "side_px", "fit", "crop_px"),
    [
        ({}, 224, "squash", 224),
        ({"size": 224}, 224, "squash", 224),
        ({"size": {"height": 224, "width": 224}}, 224, "squash", 224),
        ({"size": {"shortest_edge": 256, "max": None}, "do_center_crop": True, "crop_size": 224}, 256, "crop", 224),
        ({"size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 256, "squash", 224),
    ],
)  # fmt: skip
def test_sizes_are_read_in_all_their_spellings(folder, settings, side_px, fit, crop_px):
    found = read(folder(**settings))
    assert (found.side_px, found.fit, found.crop_px) == (side_px, fit, crop_px)


def test_a_plain_number_is_the_shorter_side_where_the_library_says_so(folder):
    found = read(folder(size=256), VIDEO)
    assert (found.side_px, found.fit, found.crop_px) == (256, "crop", 224)


@pytest.mark.parametrize(("number", "name"), [(2, "bilinear"), (3, "bicubic"), (4, "area")])
def test_the_folder_names_the_filter(folder, number, name):
    assert read(folder(resample=number)).interpolation == name


@pytest.mark.parametrize(
    ("defaults", "settings", "words"),
    [
        (STILL, {"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type.*ConvNext.*not ViTImage"),
        (STILL, {"resample": 1}, "resample of its image processor is 1"),
        (STILL, {"size": {"height": 224, "width": 200}}, "size of its .*200.*square"),
        (STILL, {"size": {"longest_edge": 224}}, "size of its .*longest_edge"),
        (STILL, {"size": {"shortest_edge": 224}}, "do_center_crop"),
        (STILL, {"do_resize": False}, "do_resize"),
        (VIDEO, {"crop_size": {"height": 256, "width": 256}}, "crop_size.*256.*at most 224"),
        (VIDEO, {"crop_size": {"shortest_edge": 224}}, "crop_size"),
        (VIDEO, {"do_center_crop": False}, "do_center_crop"),
        (STILL, {"size": 192}, "gives 192 px, and its network takes 224"),
        (STILL, {"image_mean": [0.5, 0.5]}, "image_mean"),
        (STILL, {"image_std": [0.5, 0.5, 0]}, "image_std"),
        (STILL, {"image_mean": "grey"}, "image_mean.*'grey'"),
        (STILL, {"rescale_factor": "1/255"}, "rescale_factor.*'1/255'.*number"),
        (STILL, {"size": {"height": "224", "width": "224"}}, "size of its .*square"),
        (STILL, {"resample": [2]}, "resample"),
        (STILL, {"do_pad": True}, "do_pad"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_key(folder, defaults, settings, words):
    with pytest.raises(ConfigError, match=words):
        read(folder(**settings), defaults)


def test_a_network_for_oblong_pictures_is_refused(folder):
    with pytest.raises(ConfigError, match=r"network takes \[224, 160\]"):
        read(folder(), image_size=[224, 160])
    with pytest.raises(ConfigError, match="network takes wide"):
        read(folder(), image_size="wide")


def test_a_folder_without_settings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"processor_config\.json"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 0.4},
        {"do_rescale": False, "image_mean": 100.0, "image_std": 50.0},
        {"size": {"shortest_edge": 60}, "do_center_crop": True, "crop_size": {"height": 37, "width": 37}},
    ],
)
def test_values_are_those_of_the_librarys_processor(folder, settings):
    """On pictures of the size already: scaling is the decoder's."""
    ensure_torchaudio()
    from transformers import ViTImageProcessorPil

    given = {"size": {"height": 48, "width": 48}} | settings
    found = Preparation.read(folder(**given), STILL, {"image_size": 37 if "crop_size" in given else 48})
    images = [picture(seed, found.side_px, 3) for seed in range(2)]
    expected = ViTImageProcessorPil(**given)(images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found.on("cpu")(np.stack(images)).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_one_vector_of_tokens():
    import torch

    states = torch.tensor([[[1.0, 8.0], [3.0, 2.0]]], dtype=torch.float16)
    assert pooled(states, "cls").tolist() == [[1, 8]]
    assert pooled(states, "mean").tolist() == [[2, 5]]
    assert pooled(states, "max").tolist() == [[3, 8]]
    assert pooled(states, "mean").dtype == np.float32
    mask = torch.tensor([[1, 0]])
    assert [pooled(states, how, mask).tolist() for how in ("cls", "mean", "max")] == [[[1, 8]]] * 3
