"""DistilBERT and its family against direct calls of transformers."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.extractors.distilbert import DistilBert
from mmray.models.torch_setup import ensure_torchaudio, quiet
from mmray.specs import Text
from tests.near import assert_near

TEXTS = ["A bird.", "Two dogs bark at the postman.", "x"]


@pytest.fixture(scope="module")
def path(tiny):
    return str(tiny / "distilbert")


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "folder")


def embeddings(extractor, path, texts):
    return np.concatenate([rows.columns["embedding"] for rows in extractor.load("cpu", path)([*map(Text, texts)])])


def hidden(path, text):
    """Return the last hidden states (tokens, dim) of one text, as the library gives them."""
    import torch

    ensure_torchaudio()
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")
    with torch.inference_mode(), quiet():
        return AutoModel.from_pretrained(path).eval()(**inputs).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("token_pooling", "reduce"),
    [("cls", lambda states: states[0]), ("mean", lambda states: states.mean(0)), ("max", lambda states: states.max(0))],
)
def test_it_agrees_with_transformers_own_forward(path, token_pooling, reduce):
    found = embeddings(DistilBert(token_pooling=token_pooling), path, TEXTS)
    expected = np.stack([reduce(hidden(path, text)) for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def family():
    """Return the other types, each with a configuration and a model class."""
    ensure_torchaudio()
    import transformers

    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size |= {"vocab_size": 400, "max_position_embeddings": 66, "initializer_range": 0.2}
    for name in ("Bert", "Roberta", "XLMRoberta", "MPNet"):
        yield getattr(transformers, f"{name}Config")(**size), getattr(transformers, f"{name}ForMaskedLM")


def test_the_whole_family_is_read_without_heads_and_pooling_layers(path, tmp_path):
    import torch

    torch.manual_seed(0)
    for config, kind in family():
        folder = shutil.copytree(path, tmp_path / config.model_type)
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 10**30}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        with quiet():
            kind(config).save_pretrained(folder)
        assert DistilBert().resolved(str(folder)).dims(str(folder)) == {"embedding": 24}
        found = embeddings(DistilBert(), str(folder), [*TEXTS, "a bird sings " * 50])
        assert len(found) >= len(TEXTS) + 9  # 502 tokens of one letter each, 66 or 64 in a chunk
        expected = np.stack([hidden(str(folder), text)[0] for text in TEXTS])
        np.testing.assert_allclose(found[: len(TEXTS)], expected, atol=1e-5)


def test_a_long_text_is_read_to_its_end(path):
    extract = DistilBert(token_pooling="mean").load("cpu", path)
    beginning = "the orchestra tuned its instruments " * 20
    one, other = (next(extract([Text(beginning + end)])) for end in ("it rained", "a volcano"))
    assert one.window == list(range(len(one)))
    assert one.start_s == one.end_s == [None] * len(one)
    np.testing.assert_allclose(one.columns["embedding"][0], other.columns["embedding"][0], atol=0.05)
    assert np.abs(one.columns["embedding"][-1] - other.columns["embedding"][-1]).max() > 0.1


def test_a_classifiers_folder_gives_the_embeddings_of_its_encoder(path, tmp_path):
    ensure_torchaudio()
    from transformers import AutoModelForSequenceClassification

    folder = shutil.copytree(path, tmp_path / "sst2")
    with quiet():
        AutoModelForSequenceClassification.from_pretrained(path).save_pretrained(folder)
    assert_near(embeddings(DistilBert(), str(folder), TEXTS), embeddings(DistilBert(), path, TEXTS))


def test_another_architecture_is_refused(tiny):
    for name in ("clip", "summary"):
        with pytest.raises(ConfigError, match=r"config\.json: is a model of type .* not distilbert or bert"):
            DistilBert().resolved(str(tiny / name))
        with pytest.raises(ConfigError, match=r"config\.json"):
            DistilBert().load("cpu", str(tiny / name))


def test_damaged_weights_are_refused(copy):
    file = copy / "model.safetensors"
    whole = load_file(file)
    name = "distilbert.transformer.layer.1.ffn.lin1.weight"
    save_file({**whole, name: whole[name][:8].clone()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"another shape .*layer\.1\.ffn\.lin1\.weight"):
        DistilBert().load("cpu", str(copy))
    save_file({key: value for key, value in whole.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing: .*layer\.1\.ffn\.lin1\.weight"):
        DistilBert().load("cpu", str(copy))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        DistilBert().load("cpu", str(copy))
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        DistilBert().load("cpu", str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: is not a readable configuration"):
        DistilBert().resolved(str(copy))
