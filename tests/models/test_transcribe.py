"""Whisper's decoding equals the library's: text, times, log-probabilities; and folders that are damaged."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.errors import ConfigError
from mmray.models import hub
from mmray.models.tiny import make_tiny
from mmray.models.torch_setup import ensure_torchaudio
from mmray.models.transcribe import Transcriber
from mmray.models.transcript import Part, parts
from tests.extractors.streams import sound

END = 256  # of the tiny tokenizer: letters, then <|endoftext|>
SEEDS = (0, 1)


@pytest.fixture(scope="module", params=SEEDS)
def folder(request, tmp_path_factory):
    (target,) = make_tiny(tmp_path_factory.mktemp("whisper"), seed=request.param, names=["whisper"])
    return str(target)


@pytest.fixture(scope="module")
def sounds():
    """Full windows and shorter ones."""
    return [sound(seed, seconds) for seed, seconds in enumerate((30.0, 30.0, 4.1, 17.3, 30.0))]


@pytest.fixture
def copy(tmp_path):
    (target,) = make_tiny(tmp_path, names=["whisper"])
    return target


def transcriber(folder, language=None, translate=False):
    return Transcriber(str(folder), "float32", "cpu", language, translate)


def library(folder, samples, **settings):
    """Return (start_s, end_s, text, avg_logprob, closed) by the library's own processor and generate.

    Only segments with text that begin in the sound: the library goes on into the silence it pads with.
    """
    ensure_torchaudio()
    from transformers import WhisperProcessor

    made = WhisperProcessor.from_pretrained(folder)
    net = hub.load("WhisperForConditionalGeneration", folder, "float32", "cpu")
    net.generation_config.output_scores = True
    features = made(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        told = net.generate(features, return_timestamps=True, return_dict_in_generate=True, **settings)
    for segment in told["segments"][0]:
        scores = [row.float().log_softmax(-1) for row in segment["result"]["scores"]]
        tokens = segment["result"]["sequences"][-len(scores) :].tolist()
        said = tokens[: tokens.index(END)] if END in tokens else tokens
        chances = [row[token] for row, token in zip(scores, [*said, END], strict=False)]
        start_s, end_s = float(segment["start"]), float(segment["end"])
        text = made.decode([token for token in segment["tokens"].tolist() if token < END], skip_special_tokens=True)
        closed = int(segment["tokens"][-1]) > END
        if text.strip() and start_s < samples.size / 16_000:
            yield start_s, end_s, text.strip(), float(sum(chances)) / (len(said) + 1), closed


def test_it_says_what_the_library_says(folder, sounds):
    found = transcriber(folder)(sounds)
    for samples, said in zip(sounds, found, strict=True):
        length_s = samples.size / 16_000
        expected = list(library(folder, samples, task="transcribe"))
        assert [one.text for one in said] == [text for _, _, text, _, _ in expected]
        for one, (start_s, end_s, _, chance, closed) in zip(said, expected, strict=True):
            assert one.start_s == pytest.approx(start_s, abs=1e-6)
            # Without a closing timestamp the library ends a segment where it begins; here it goes on.
            assert one.end_s == pytest.approx(min(end_s, length_s) if closed else length_s, abs=1e-6)
            assert one.avg_logprob == pytest.approx(chance, abs=1e-5)


def test_some_windows_take_several_passes(sounds, tmp_path):
    """So that the test above says something of how passes go on."""
    folders = [make_tiny(tmp_path / str(seed), seed=seed, names=["whisper"])[0] for seed in SEEDS]
    passes = [len({one.avg_logprob for one in said}) for folder in folders for said in transcriber(folder)(sounds)]
    assert max(passes) > 1


def test_neighbours_in_a_batch_change_nothing(folder, sounds):
    whisper = transcriber(folder)
    for together, samples in zip(whisper(sounds), sounds, strict=True):
        (alone,) = whisper([samples])
        assert [(a.start_s, a.end_s, a.text, a.language) for a in alone] == [
            (b.start_s, b.end_s, b.text, b.language) for b in together
        ]
        assert [a.avg_logprob for a in alone] == pytest.approx([b.avg_logprob for b in together], abs=1e-5)


def test_language_and_task_are_the_librarys(folder, sounds):
    for language, translate in (("de", False), ("zh", True)):
        (said,) = transcriber(folder, language, translate)(sounds[:1])
        task = "translate" if translate else "transcribe"
        assert [one.text for one in said] == [
            one[2] for one in library(folder, sounds[0], language=language, task=task)
        ]
        assert {one.language for one in said} <= {language}


def test_a_checkpoint_for_english_only(copy, sounds):
    file = copy / "generation_config.json"
    about = json.loads(file.read_text())
    kept = {name: value for name, value in about.items() if name not in ("lang_to_id", "task_to_id")}
    file.write_text(json.dumps(kept | {"is_multilingual": False}))
    (said,) = transcriber(copy)(sounds[:1])
    assert [one.text for one in said] == [one[2] for one in library(str(copy), sounds[0])]
    assert {one.language for one in said} == {"en"}


def test_a_checkpoint_with_128_mel_bands(copy, sounds):
    ensure_torchaudio()
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig.from_pretrained(copy, num_mel_bins=128)
    torch.manual_seed(0)
    about = (copy / "generation_config.json").read_bytes()
    WhisperForConditionalGeneration(config).save_pretrained(copy)
    (copy / "generation_config.json").write_bytes(about)
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"feature_size": 128}))
    (said,) = transcriber(copy)(sounds[:1])
    assert [one.text for one in said] == [one[2] for one in library(str(copy), sounds[0], task="transcribe")]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_works(folder, sounds, precision):
    found = Transcriber(folder, precision, "cpu", "en", False)(sounds[:2])
    assert all(np.isfinite(one.avg_logprob) for said in found for one in said)


ZERO = 1_000  # the first timestamp


@pytest.mark.parametrize(
    ("tokens", "segments", "go_on"),
    [
        ([], [(0, None)], None),
        ([ZERO, 5, 6], [(0, None)], None),
        ([ZERO + 9, 5, 6, ZERO + 40], [(0, 40)], None),
        ([ZERO, 5, ZERO + 40, ZERO + 45, 6, ZERO + 90], [(0, 40), (45, 90)], None),
        ([ZERO, 5, ZERO + 40, ZERO + 45, 6], [(0, 40)], 40),
        ([ZERO, 5, ZERO + 40, ZERO + 40], [(0, 40)], 40),
        ([ZERO, 5, ZERO + 40, ZERO + 45, 6, ZERO + 90, ZERO + 90], [(0, 40), (45, 90)], 90),
    ],
)
def test_tokens_are_cut_where_timestamps_meet(tokens, segments, go_on):
    found, stamp = parts(tokens, ZERO)
    assert [(part.start, part.end) for part in found] == segments
    assert stamp == go_on
    assert all(isinstance(part, Part) for part in found)


def test_a_missing_file_is_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"whisper: cannot be loaded.*model\.safetensors"):
        transcriber(copy)


def test_a_missing_tokenizer_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="tokenizer"):
        transcriber(copy)


def test_a_truncated_checkpoint_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1_000])
    with pytest.raises(ConfigError, match="whisper: cannot be loaded"):
        transcriber(copy)


def test_a_tensor_of_another_shape_is_named(copy):
    rewrite(copy / "model.safetensors", lambda name: name.replace("fc1.bias", "fc9.bias"))
    with pytest.raises(ConfigError, match=r"are missing: .*fc1\.bias"):
        transcriber(copy)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"encoder_ffn_dim": 24}))
    with pytest.raises(ConfigError, match=r"another shape.*fc1"):
        transcriber(copy)


def rewrite(file: Path, renamed) -> None:
    """Rename tensors in a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = {renamed(name): about for name, about in json.loads(data[8 : 8 + length]).items()}
    text = json.dumps(header).encode()
    shutil.copy(file, file.with_suffix(".old"))
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
