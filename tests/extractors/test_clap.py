"""CLAP: sounds and texts in one space, with the numbers of transformers' own processor and model."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError, Reason
from mmray.extractors.clap import Clap
from mmray.media.decode import decode
from mmray.models.clap import TABLES, SoundTower
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import Text
from tests.near import assert_near

from .streams import sound, wave

RATE_HZ = 48_000
KINDS = ("clap", "clap_fused")
TEXTS = ["a dog barks", "the rain in Spain", "", "Zwei Hunde bellen, 犬が吠える."]


@pytest.fixture(params=KINDS)
def path(tiny, request):
    return str(tiny / request.param)


@pytest.fixture
def folder(tiny, tmp_path):
    """Return a copy that a test may damage."""
    shutil.copytree(tiny / "clap", tmp_path / "clap")
    return tmp_path / "clap"


@pytest.fixture(scope="module")
def library(tiny):
    """Return for a folder transformers' own processor and model."""
    ensure_torchaudio()
    from transformers import ClapModel, ClapProcessor

    return {
        str(tiny / kind): (ClapProcessor.from_pretrained(tiny / kind), ClapModel.from_pretrained(tiny / kind).eval())
        for kind in KINDS
    }


def embeddings(extractor, path, items):
    return np.concatenate([rows.columns["embedding"] for rows in extractor.load("cpu", path)(items)])


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_every_window_gets_the_librarys_own_numbers(path, library):
    lengths_s = (23.7, 10.0, 4.0, 0.5, 1 / RATE_HZ, 160 / RATE_HZ)
    sounds = [sound(seed, seconds, RATE_HZ) for seed, seconds in enumerate(lengths_s)]
    found = embeddings(Clap(), path, [wave(Clap().sound, samples) for samples in sounds])
    processor, model = library[path]
    expected = []
    for samples in sounds:
        for start in range(0, samples.size, 10 * RATE_HZ):
            clip = samples[start : start + 10 * RATE_HZ]
            with torch.inference_mode():
                inputs = processor(audio=clip, sampling_rate=RATE_HZ, return_tensors="pt")
                expected.append(model.get_audio_features(**inputs).pooler_output[0].numpy())
    assert len(expected) == 8
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(found[0] - found[3]).max() > 1e-3


def test_texts_get_the_librarys_own_numbers(path, library):
    processor, model = library[path]
    texts = [text for text in TEXTS if text]
    with torch.inference_mode():
        inputs = processor(text=texts, padding=True, return_tensors="pt")
        expected = model.get_text_features(**inputs).pooler_output.numpy()
    found = embeddings(Clap(modality="text"), path, [Text(text) for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_fused_model_does_not_draw_lots(tiny):
    item = wave(Clap().sound, sound(1, 35, RATE_HZ))
    extract = Clap().load("cpu", str(tiny / "clap_fused"))
    one, other = ([rows.columns["embedding"] for rows in extract([item])] for _ in range(2))
    assert_near(one, other)


def test_both_towers_embed_in_one_space(path):
    sounds = embeddings(Clap(), path, [wave(Clap().sound, sound(1, 12, RATE_HZ))])
    texts = embeddings(Clap(modality="text"), path, [Text("rain")])
    assert sounds.shape[1] == texts.shape[1] == Clap().dims(path)["embedding"] == 24


def test_a_long_text_is_read_to_its_end(tiny):
    extract = Clap(modality="text").load("cpu", str(tiny / "clap"))
    rows, none = extract([Text("rain falls on the roof of a tin shed, " * 20), Text(" \n")])
    assert list(rows.window) == list(range(len(rows)))
    assert len(rows) > 5
    assert none.reason is Reason.NO_TEXT


def test_windows_may_be_shorter_and_overlap(tiny):
    path, samples = str(tiny / "clap"), sound(3, 7, RATE_HZ)
    half = Clap(sound={"rate_hz": RATE_HZ, "window_s": 4, "hop_s": 2})
    (rows,) = half.load("cpu", path)([wave(half.sound, samples)])
    assert list(rows.start_s) == [0, 2, 4]
    assert list(rows.end_s) == [4, 6, 7]
    alone = SoundTower(path, "float32", "cpu")([samples[2 * RATE_HZ : 6 * RATE_HZ]])
    np.testing.assert_allclose(rows.columns["embedding"][1:2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "status", "reason", "rows"),
    [
        ("zero_samples", "failed", Reason.EMPTY, 0),
        ("one_sample", "skipped", Reason.TOO_SHORT, 0),  # resampling leaves nothing of it
        ("half_frame_10ms", "ok", None, 1),
        ("silence_3s", "ok", None, 1),
        ("speech_float_nan_inf", "partial", Reason.CORRUPT, 1),
    ],
)
def test_awkward_sounds_end_as_the_class_says(test_data, tiny, name, status, reason, rows):
    spec = Clap().sound
    decoding = decode(str(test_data / "audio" / "awkward" / f"{name}.wav"), [spec])
    found = list(Clap().load("cpu", str(tiny / "clap"))([item for _, item in decoding]))
    outcome = decoding.outcomes[spec]
    assert (outcome.status, outcome.reason) == (status, reason)
    assert sum(map(len, found)) == rows
    assert all(np.isfinite(one.columns["embedding"]).all() for one in found)


def test_the_checkpoint_decides_the_rate(folder):
    edit(folder / "preprocessor_config.json", sampling_rate=32_000)
    assert Clap().resolved(str(folder)).sound.rate_hz == 32_000
    with pytest.raises(ConfigError, match=r"rate_hz is 16000.*32000"):
        Clap(sound={"rate_hz": 16_000, "window_s": 10, "hop_s": 10}).resolved(str(folder))


def test_windows_longer_than_the_model_hears_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"window_s is 20.*at most 10 s"):
        Clap(sound={"rate_hz": RATE_HZ, "window_s": 20, "hop_s": 20}).resolved(str(tiny / "clap"))


def test_a_processor_file_of_transformers_5_is_read_too(folder, tiny):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    whole = {"processor_class": "ClapProcessor", "feature_extractor": settings}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    item = wave(Clap().sound, sound(1, 12, RATE_HZ))
    found, expected = (embeddings(Clap().resolved(str(one)), str(one), [item]) for one in (folder, tiny / "clap"))
    assert_near(found, expected)


def test_a_conversion_that_dropped_the_tables_reads_the_same(folder, tiny):
    tensors = {key: value for key, value in load_file(folder / "model.safetensors").items() if key not in TABLES}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    text = [Text("rain on a roof")]
    found, expected = (embeddings(Clap(modality="text"), str(one), text) for one in (folder, tiny / "clap"))
    assert_near(found, expected)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_another_folder_is_refused(tiny, modality):
    for other, kind in (("sbert", "bert"), ("clip", "clip")):
        for look in (Clap(modality=modality).resolved, lambda path: Clap(modality=modality).load("cpu", path)):
            with pytest.raises(ConfigError, match=rf"{other}/config\.json.*'{kind}', not clap"):
                look(str(tiny / other))


def test_settings_of_another_checkpoint_are_refused(folder):
    edit(folder / "preprocessor_config.json", truncation="fusion")
    with pytest.raises(ConfigError, match=r"enable_fusion: False.*truncation: fusion"):
        Clap().resolved(str(folder))


@pytest.mark.parametrize(
    ("modality", "file"),
    [("audio", "config.json"), ("audio", "preprocessor_config.json"), ("text", "tokenizer.json")]
    + [(modality, "model.safetensors") for modality in ("audio", "text")],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_damaged_file_is_named(folder, modality, file, damage):
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage == "cut":
        (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf"{folder}.*({file.partition('.')[0]}|processor_config|cannot be loaded)"):
        Clap(modality=modality).load("cpu", str(folder))


def test_a_tokenizer_of_another_model_or_of_no_sense_is_refused(folder, tiny):
    reader = Clap(modality="text")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(ConfigError, match=f"{folder}: its tokenizer cannot be read"):
        reader.load("cpu", str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "clip" / name, folder / name)
    with pytest.raises(ConfigError, match=rf"{folder}: its tokenizer knows \d+ tokens, its model \d+"):
        reader.load("cpu", str(folder))


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        ("audio", "audio_projection.linear2.weight"),
        ("audio", "audio_model.audio_encoder.batch_norm.running_mean"),
        ("text", "text_projection.linear1.bias"),
        ("text", "text_model.embeddings.word_embeddings.weight"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(folder, modality, name):
    tensors = load_file(folder / "model.safetensors")
    for bad in ({**tensors, name: tensors[name][:-1].clone()}, {k: v for k, v in tensors.items() if k != name}):
        save_file(bad, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=f"{folder}.*{name}"):
            Clap(modality=modality).load("cpu", str(folder))
