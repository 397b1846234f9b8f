"""CLIP: pictures and texts in one space, in vectors of unit length."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.extractors.clip import Clip
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import FrameSpec, Text

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


def test_a_processor_file_of_transformers_5_is_read_too(image, path, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(path, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    pictures = frames(image.frames, 2)
    np.testing.assert_array_equal(embeddings(image, str(folder), pictures), embeddings(image, path, pictures))


def test_grey_pictures_are_refused():
    with pytest.raises(ValidationError, match="colour"):
        Clip(frames=FrameSpec(fps=1, channels=1))


def test_another_folder_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"bert.*not clip"):
        Clip().resolved(str(tiny / "sbert"))
