"""Zero-shot classification against transformers' own pipeline."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.extractors.zero_shot import ZeroShot
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import Text

TEXTS = ["A bird.", "Two dogs bark at the postman.", "It rains in Spain; le ciel est gris."]
LABELS = ("bird", "a dog", "weather forecast")


@pytest.fixture(scope="module")
def path(tiny):
    return str(tiny / "zero_shot")


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "folder")


def scores(path, texts, **settings):
    settings = {"candidate_labels": LABELS, **settings}
    extract = ZeroShot(**settings).load("cpu", path)
    return [rows.columns["scores"] for rows in extract([*map(Text, texts)])]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"multi_label": True},
        {"candidate_labels": ("bird",)},
        {"hypothesis_template": "The sound of {}!", "candidate_labels": ("{rain}", "a, b")},
    ],
    ids=str,
)
def test_it_agrees_with_transformers_pipeline(path, settings):
    ensure_torchaudio()
    from transformers import pipeline

    settings = {"candidate_labels": LABELS, **settings}
    oracle = pipeline("zero-shot-classification", model=path)
    for text, found in zip(TEXTS, scores(path, TEXTS, **settings), strict=True):
        expected = oracle(text, **{**settings, "candidate_labels": list(settings["candidate_labels"])})
        by_label = dict(zip(expected["labels"], expected["scores"], strict=True))
        assert found.shape == (1, len(by_label))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], [by_label[label] for label in settings["candidate_labels"]], atol=1e-5)


def test_scores_are_probabilities_of_the_labels_in_their_order(path):
    single = np.concatenate(scores(path, TEXTS))
    np.testing.assert_allclose(single.sum(1), 1, atol=1e-5)
    turned = np.concatenate(scores(path, TEXTS, candidate_labels=LABELS[::-1]))
    np.testing.assert_allclose(turned[:, ::-1], single, atol=1e-5)
    alone = np.concatenate(scores(path, TEXTS, candidate_labels=LABELS[1:2]))
    several = np.concatenate(scores(path, TEXTS, multi_label=True))
    np.testing.assert_allclose(several[:, 1:2], alone, atol=1e-5)
    extractor = ZeroShot(candidate_labels=list(LABELS))
    assert extractor.labels(path) == LABELS
    assert extractor.dims(path) == {"scores": 3}


def test_a_long_text_is_read_to_its_end(path):
    beginning = "the orchestra tuned its instruments " * 10
    one, other = (scores(path, [beginning + end])[0] for end in ("it rained", "a volcano erupted"))
    assert len(one) == len(other) > 3
    assert np.abs(one[-1] - other[-1]).max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_labels": ()}, "at least one label"),
        ({"candidate_labels": ("bird", " ")}, "none that is empty"),
        ({"candidate_labels": ("bird", "dog", "bird")}, "'bird' stands there twice"),
        ({"candidate_labels": "bird, dog"}, "tuple"),
        ({}, "Field required"),
        ({"candidate_labels": LABELS, "hypothesis_template": "This is nothing."}, "one {}"),
        ({"candidate_labels": LABELS, "hypothesis_template": "{} and {}"}, "one {}"),
        ({"candidate_labels": LABELS, "hypothesis_template": "{label}"}, "one {}"),
        ({"candidate_labels": LABELS, "hypothesis_template": "{"}, "one {}"),
    ],
    ids=str,
)
def test_wrong_labels_and_templates_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ZeroShot(**settings)


def test_labels_that_leave_no_room_are_refused(path):
    with pytest.raises(ConfigError, match=r"candidate_labels.*no room for a text in 128 tokens"):
        scores(path, TEXTS, candidate_labels=("bird", "word " * 40))


def rename(folder, names):
    about = json.loads((folder / "config.json").read_text())
    about["id2label"] = {str(number): name for number, name in enumerate(names)}
    about["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(about))


def test_classes_are_found_by_name(path, copy):
    expected = scores(path, TEXTS, multi_label=True)
    tensors = load_file(copy / "model.safetensors")
    for name in ("weight", "bias"):
        tensors[f"classification_head.out_proj.{name}"] = tensors[f"classification_head.out_proj.{name}"][[1, 2, 0]]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    rename(copy, ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"])
    for found, numbers in zip(scores(str(copy), TEXTS, multi_label=True), expected, strict=True):
        np.testing.assert_allclose(found, numbers, atol=1e-5)


def test_a_classifier_of_something_else_is_refused(copy):
    rename(copy, ["negative", "neutral", "positive"])
    for act in (ZeroShot(candidate_labels=LABELS).resolved, lambda path: scores(path, TEXTS)):
        with pytest.raises(ConfigError, match=r"config\.json: label2id has no label that begins with 'entail'"):
            act(str(copy))


def test_another_folder_is_refused(tiny):
    for name in ("clip", "summary", "distilbert"):
        with pytest.raises(ConfigError, match=r"config\.json: label2id has no label"):
            ZeroShot(candidate_labels=LABELS).resolved(str(tiny / name))


def test_damaged_weights_are_refused(copy):
    file = copy / "model.safetensors"
    whole = load_file(file)
    name = "classification_head.out_proj.weight"
    save_file({**whole, name: whole[name][:2].clone()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"another shape .*{name}"):
        scores(str(copy), TEXTS)
    save_file({key: value for key, value in whole.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"missing: {name}"):
        scores(str(copy), TEXTS)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        scores(str(copy), TEXTS)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        scores(str(copy), TEXTS)
