"""Scores by CLIP and CLAP, the best of many, zero-shot labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.generation.base import Result
from mmray.generation.rank import FitRequest, Judge, Labels, LabelsRequest, best

RATE_HZ = 16_000


def silent(done, total):
    """Be told, and do nothing."""


@pytest.fixture(scope="module")
def judge(tiny):
    return Judge(tiny("clip"), tiny("clap"))


@pytest.fixture(scope="module")
def picture():
    return np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def sound():
    time_s = np.arange(2 * RATE_HZ, dtype=np.float32) / RATE_HZ
    return np.sin(time_s * 440 * 2 * np.pi, dtype=np.float32) * np.float32(0.5)


def test_the_score_of_a_picture_is_the_cosine_of_transformers_own_model(judge, tiny, picture):
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    own = CLIPModel.from_pretrained(tiny("clip")).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(tiny("clip"))(Pillow.fromarray(picture), return_tensors="pt")
    words = CLIPTokenizer.from_pretrained(tiny("clip"))("a dog", return_tensors="pt")
    with torch.inference_mode():
        found = own(**pixels, **words)
    scored = judge.score([Result(picture=picture)], ["a dog"], [""])[0]
    assert scored.scores == pytest.approx({"clip": float(found.image_embeds @ found.text_embeds.T)}, abs=1e-5)
    assert judge.scales["picture"] == pytest.approx(float(own.logit_scale.detach().exp()))


def test_the_score_of_a_sound_is_the_cosine_of_transformers_own_model(judge, tiny, sound):
    from torchaudio.functional import resample
    from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizer

    own = ClapModel.from_pretrained(tiny("clap")).eval()
    samples = resample(torch.from_numpy(sound), RATE_HZ, 48_000).numpy()
    front_end = ClapFeatureExtractor.from_pretrained(tiny("clap"))
    features = front_end(samples, sampling_rate=48_000, return_tensors="pt")
    words = RobertaTokenizer.from_pretrained(tiny("clap"))("a dog barks", return_tensors="pt")
    with torch.inference_mode():
        found = own(**features, **words)
    scored = judge.score([Result(sound=sound, rate_hz=RATE_HZ)], [""], ["a dog barks"])[0]
    assert scored.scores == pytest.approx({"clap": float(found.audio_embeds @ found.text_embeds.T)}, abs=1e-5)
    assert judge.scales["sound"] == pytest.approx(float(own.logit_scale_a.detach().exp()))


def test_a_result_with_both_has_both_scores_and_keeps_its_own(judge, picture, sound):
    result = Result(picture=picture, sound=sound, rate_hz=RATE_HZ, scores={"flagged": 0.0})
    scored = judge.score([result], ["sea"], ["birds"])[0]
    assert scored.scores.keys() == {"flagged", "clip", "clap"}
    assert scored.picture is picture
    assert result.scores == {"flagged": 0.0}


def test_of_a_long_sound_every_clip_of_ten_seconds_counts(judge, sound):
    noise = np.random.RandomState(1).standard_normal(4 * RATE_HZ).astype(np.float32) * np.float32(0.1)
    long = np.concatenate([np.tile(sound, 5), noise])
    parts = judge.of_sounds([long[: 10 * RATE_HZ], long[10 * RATE_HZ :]], RATE_HZ)
    mean = parts.mean(0) / np.linalg.norm(parts.mean(0))
    np.testing.assert_allclose(judge.of_sounds([long], RATE_HZ)[0], mean, atol=2e-3)  # resampled across the seam
    assert np.abs(judge.of_sounds([long], RATE_HZ)[0] - parts[0]).max() > 0.01


def test_long_words_count_to_their_end(judge):
    text = "word " * 40
    vectors = judge.seen([text, text + "rain", "short"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


def test_the_best_fit_in_both_senses():
    def scored(name, **scores):
        return Result(text=name, scores=scores)

    found = [
        scored("one-sided", clip=0.9, clap=0.05),
        scored("balanced", clip=0.3, clap=0.3),
        scored("both bad", clip=-0.9, clap=-0.9),
        scored("half bad", clip=0.9, clap=-0.1),
    ]
    assert [result.text for result in best(found, 4)] == ["balanced", "one-sided", "half bad", "both bad"]
    assert [result.text for result in best([scored("a", clap=0.1), scored("b", clap=0.2)], 1)] == ["b"]
    with pytest.raises(ValueError, match="scores"):
        best([scored("none")], 1)


@pytest.fixture(scope="module")
def labelled(tiny):
    return Labels().load("cpu", {"model": tiny("clip"), "sound_model": tiny("clap")})


def test_labels_share_out_one(labelled, judge, picture, sound):
    labels = ("dog", "a cat in a hat", "rain")
    requests = [
        LabelsRequest(image=picture, labels=labels, template="a photo of {}."),
        LabelsRequest(sound=sound, rate_hz=RATE_HZ, labels=labels),
    ]
    seen, heard = (result.scores for result in labelled(requests, silent))
    cosines = judge.seen([f"a photo of {label}." for label in labels]) @ judge.of_pictures([picture])[0]
    expected = torch.softmax(torch.from_numpy(cosines) * judge.scales["picture"], 0).numpy()
    np.testing.assert_allclose(list(seen.values()), expected, atol=1e-5)
    assert list(seen) == list(heard) == list(labels)
    assert sum(heard.values()) == pytest.approx(1)
    assert max(heard.values()) - min(heard.values()) > 1e-3


def test_labels_also_say_how_well_a_result_fits_its_words(labelled, judge, picture, sound):
    made = Result(picture=picture, sound=sound, rate_hz=RATE_HZ)
    (found,) = labelled([FitRequest(result=made, seen="sea", heard="birds")], silent)
    assert found.scores == pytest.approx(judge.score([made], ["sea"], ["birds"])[0].scores, rel=1e-4)
    assert set(found.scores) == {"clip", "clap"}


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ("a", "b")},
        {"labels": ()},
        {"labels": ("a", "a"), "sound": np.zeros(9, np.float32)},
        {"labels": ("a",), "sound": np.zeros(0, np.float32)},
        {"labels": ("a",), "sound": np.zeros(9)},
        {"labels": ("a",), "sound": np.zeros(9, np.float32), "template": "a photo"},
        {"labels": ("a",), "sound": np.zeros(9, np.float32), "image": np.zeros((9, 9, 3), np.uint8)},
    ],
)
def test_a_request_of_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        LabelsRequest(**fields)


def test_a_damaged_folder_is_refused_before_any_work(tiny, tmp_path):
    copy = Path(shutil.copytree(tiny("clap"), tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    del tensors["logit_scale_a"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="logit_scale_a"):
        Labels().load("cpu", {"model": tiny("clip"), "sound_model": str(copy)})
