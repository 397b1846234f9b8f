"""CLIP: pictures and texts in one space, in vectors of unit length."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.extractors.clip import DEFAULTS, Clip
from mmray.extractors.pictures import FILTERS, Preparation
from mmray.media.decode import decode
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import FrameSpec, Text
from tests.near import assert_near

from .streams import frames


def embeddings(extractor, path, items):
    return np.concatenate([rows.columns["embedding"] for rows in extractor.load("cpu", path)(items)])


@pytest.fixture
def path(tiny):
    return str(tiny / "clip")


@pytest.fixture
def image(path):
    return Clip().resolved(path)


def test_the_checkpoint_decides_the_size_of_its_pictures(image, path):
    assert image.frames.side_px == 32
    assert Clip(frames={"fps": 2, "side_px": 32}).resolved(path).frames.fps == 2
    with pytest.raises(ConfigError, match=r"side_px is 336.*32"):
        Clip(frames={"fps": 1, "side_px": 336}).resolved(path)


def test_both_modalities_give_unit_vectors_in_one_space(image, path):
    pictures = embeddings(image, path, frames(image.frames, 3))
    texts = embeddings(Clip(modality="text").resolved(path), path, [Text("a dog"), Text("rain")])
    assert pictures.shape[1] == texts.shape[1] == image.dims(path)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([pictures, texts]), axis=1), 1, atol=1e-6)


def test_it_agrees_with_transformers_own_forward(image, path):
    import torch

    ensure_torchaudio()
    from transformers import CLIPModel, CLIPTokenizer

    pictures, texts = frames(image.frames, 3), ["a dog", "the rain in Spain"]
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    pixels = np.stack([(item.image / np.float32(255) - mean) / std for item in pictures]).transpose(0, 3, 1, 2)
    model = CLIPModel.from_pretrained(path).eval()
    inputs = CLIPTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(pixels).float(), **inputs)
    np.testing.assert_allclose(embeddings(image, path, pictures), expected.image_embeds.numpy(), atol=1e-5)
    found = embeddings(Clip(modality="text"), path, [Text(text) for text in texts])
    np.testing.assert_allclose(found, expected.text_embeds.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"size": {"shortest_edge": 40}, "resample": 2},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
        {"size": 32, "crop_size": 32, "resample": 3, "do_rescale": True},  # as the published folders spell it
    ],
)
def test_pictures_are_prepared_as_the_folder_says(path, tmp_path, changes):
    """On pictures of the size already: scaling is the decoder's."""
    import torch

    ensure_torchaudio()
    from transformers import CLIPImageProcessorPil, CLIPModel

    folder = shutil.copytree(path, tmp_path / "clip")
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | changes
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    extractor = Clip().resolved(str(folder))
    assert extractor.frames.interpolation == ("bilinear" if settings.get("resample") == 2 else "bicubic")
    assert extractor.frames.fit == ("squash" if "height" in str(settings["size"]) else "crop")
    pictures = frames(extractor.frames, 3)
    inputs = CLIPImageProcessorPil.from_pretrained(folder)([item.image for item in pictures], return_tensors="pt")
    with torch.inference_mode():
        expected = CLIPModel.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    np.testing.assert_allclose(embeddings(extractor, str(folder), pictures), expected, atol=1e-5)


def test_a_folder_that_leaves_all_out_has_the_librarys_defaults(path, tmp_path):
    ensure_torchaudio()
    from transformers import CLIPImageProcessorPil

    (tmp_path / "preprocessor_config.json").write_text("{}")
    made, known = CLIPImageProcessorPil(), Preparation.read(str(tmp_path), DEFAULTS, {"image_size": 224})
    assert (known.side_px, known.crop_px, known.fit) == (made.size["shortest_edge"], made.crop_size["height"], "crop")
    assert FILTERS[made.resample] == known.interpolation
    assert (list(made.image_mean), list(made.image_std)) == (list(known.mean), list(known.std))


def test_a_processor_file_of_transformers_5_is_read_too(image, path, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(path, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    pictures = frames(image.frames, 2)
    assert_near(embeddings(image, str(folder), pictures), embeddings(image, path, pictures))


def test_grey_pictures_are_refused():
    with pytest.raises(ValidationError, match="colour"):
        Clip(frames=FrameSpec(fps=1, channels=1))


def test_another_folder_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"bert.*not clip"):
        Clip().resolved(str(tiny / "sbert"))


@pytest.mark.parametrize("name", ["cat_720p.jpg", "parrot.jpg"])
def test_real_pictures_have_the_vectors_of_the_librarys_own_processor(test_data, image, path, name):
    """From the file through the decoder, against Pillow and the processor of the folder."""
    from PIL import Image

    ensure_torchaudio()
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel

    file = next((test_data / "images" / "openimages_coral").rglob(name))
    items = [item for _, item in decode(str(file), [image.frames])]
    values = CLIPImageProcessorPil.from_pretrained(path)(Image.open(file).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        expected = CLIPModel.from_pretrained(path).eval().get_image_features(**values).pooler_output[0].numpy()
    (found,) = embeddings(image, path, items)
    assert found @ expected / np.linalg.norm(expected) > 0.9999
    for wrong in ({"interpolation": "area"}, {"fit": "squash"}):
        other = image.model_copy(update={"frames": image.frames.model_copy(update=wrong)})
        (different,) = embeddings(other, path, [item for _, item in decode(str(file), [other.frames])])
        assert found @ different < found @ expected / np.linalg.norm(expected)
