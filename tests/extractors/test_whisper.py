"""Whisper as an extractor: what passes the gate, rows that no cut changes, and folders that are refused."""

import importlib.util
import json

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.extractors.whisper import Overlapping, Whisper, near, rows
from mmray.media.decode import decode
from mmray.models.slices import Slice
from mmray.models.transcript import Said
from mmray.specs import Wave
from tests.media.making import make

from .streams import sound, split, wave

SPEC = Overlapping(rate_hz=16_000, window_s=30, hop_s=25)


def waves(file, start_s=0.0, end_s=None) -> list[Wave]:
    return [one for _, one in decode(str(file), [SPEC], start_s, end_s)]


@pytest.fixture(scope="module")
def extract(tiny, test_data):
    """The tiny Whisper behind the real gate."""
    gate = str(test_data / "weights" / "silero_vad_16k_op15.onnx")
    return Whisper(gate=gate).resolved(str(tiny / "whisper")).load("cpu", str(tiny / "whisper"))


@pytest.fixture(scope="module")
def reading(test_data):
    """Return 74 s of reading."""
    files = sorted((test_data / "audio" / "speech_librivox").glob("*.wav"))
    return np.tile(np.concatenate([one.samples for file in files for one in waves(file)]), 3)


def test_speech_has_text(extract, test_data):
    files = sorted((test_data / "audio" / "speech_librivox").glob("*.wav"))
    for file in files:
        (one,) = waves(file)
        (found,) = extract([one])
        assert len(found) > 0
        assert set(found.window) == {0}
        assert all(found.columns["text"])
        assert 0 <= found.start_s[0] < found.end_s[-1] <= one.end_s


@pytest.mark.parametrize(
    "name",
    [
        "esc10/rain/1-26222-A.ogg",
        "esc10/dog_bark/1-30226-A.ogg",
        "esc10/sea_waves",
        "awkward/silence_3s.wav",
        "awkward/one_sample.wav",
        "awkward/half_frame_10ms.wav",
    ],
)
def test_what_is_no_speech_has_none(extract, test_data, name):
    path = test_data / "audio" / name
    file = path if path.is_file() else min(path.iterdir())
    assert [len(rows) for rows in extract(waves(file))] == [0]


def test_music_has_none(extract, test_data):
    file = test_data / "video" / "awkward" / "moviepy" / "big_buck_bunny_0_30.webm"
    assert sum(len(rows) for rows in extract(waves(file))) == 0


def test_without_the_gate_silence_may_say_anything(tiny):
    extract = Whisper(gate=None).load("cpu", str(tiny / "whisper"))
    (rows,) = extract([wave(SPEC, np.zeros(160_000, np.float32))])
    assert len(rows) > 0  # what the gate is for


def test_segments_far_from_speech_are_dropped():
    spans = [(32_000, 48_000)]  # 2 to 3 s
    times = [(0.0, 1.4), (0.0, 1.6), (2.2, 2.4), (3.4, 9.0), (3.6, 9.0)]
    assert [near(Said(*one, "so", "en", -0.3), spans) for one in times] == [False, True, True, True, False]
    assert not near(Said(0.0, 9.0, "so", "en", -0.3), [])


def test_rows_do_not_depend_on_the_waves(extract, reading):
    (whole,) = extract([wave(SPEC, reading)])
    parts = list(extract(split(SPEC, reading, at=[1, 2])))
    assert len(set(whole.window)) == 3
    for name in ("window", "start_s", "end_s"):
        assert [one for part in parts for one in getattr(part, name)] == list(getattr(whole, name))
    assert [text for part in parts for text in part.columns["text"]] == whole.columns["text"]
    chances = np.concatenate([part.columns["avg_logprob"] for part in parts])
    np.testing.assert_allclose(chances, whole.columns["avg_logprob"], atol=1e-5)


@pytest.mark.parametrize("codec", ["flac", "aac"])
def test_rows_do_not_depend_on_segments_of_the_medium(extract, reading, tmp_path, codec):
    file = make(tmp_path / "reading.mkv", sound=reading[np.newaxis], sound_codec=codec)
    whole = list(extract(waves(file)))
    parts = [rows for start_s in (0.0, 28.8, 57.6) for rows in extract(waves(file, start_s, start_s + 28.8))]
    for name in ("window", "start_s", "end_s"):
        assert [one for rows in parts for one in getattr(rows, name)] == [
            one for rows in whole for one in getattr(rows, name)
        ]
    assert [one for rows in parts for one in rows.columns["text"]] == [
        one for rows in whole for one in rows.columns["text"]
    ]


def test_times_are_those_of_the_sample(extract, reading):
    (rows,) = extract([wave(SPEC, reading)])
    assert list(rows.start_s) == sorted(rows.start_s)
    for window, start_s, end_s in zip(rows.window, rows.start_s, rows.end_s, strict=True):
        assert window * 25 <= start_s < end_s <= min(window * 25 + 30, reading.size / 16_000)


def test_a_segments_time_counts_from_where_its_slice_begins():
    """A slice begins at the seam with the one before it, not where its window does."""
    piece = Slice(1, 26 * 16_000 + 8_000, np.zeros(16_000, np.float32))
    found = rows([(piece, Said(0.25, 0.75, "so", "en", -0.3))])
    assert (list(found.window), found.start_s, found.end_s) == ([1], [26.75], [27.25])


@pytest.mark.parametrize(
    "settings",
    [
        {"rate_hz": 8_000, "window_s": 30, "hop_s": 25},
        {"window_s": 31, "hop_s": 25},
        {"window_s": 30, "hop_s": 30},
        {"window_s": 30, "hop_s": 14},
        {"window_s": 30, "hop_s": 25, "tail": "drop"},
    ],
)
def test_windows_that_cannot_be_joined_are_refused(settings):
    with pytest.raises(ValueError, match=r"rate_hz|hop_s"):
        Whisper(sound=settings)


@pytest.fixture
def copy(tmp_path):
    from mmray.models.tiny import make_tiny

    (target,) = make_tiny(tmp_path, names=["whisper"])
    return target


def change(file, **changes) -> None:
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def test_another_folder_is_refused(tiny, copy):
    with pytest.raises(ConfigError, match="'clip', not whisper"):
        Whisper().resolved(str(tiny / "clip"))
    change(copy / "generation_config.json", no_timestamps_token_id=None)
    with pytest.raises(ConfigError, match=r"generation_config\.json: lacks no_timestamps_token_id"):
        Whisper().resolved(str(copy))
    change(copy / "generation_config.json", no_timestamps_token_id=266, task_to_id=None)
    with pytest.raises(ConfigError, match=r"generation_config\.json: lacks task_to_id"):
        Whisper().resolved(str(copy))
    (copy / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=r"generation_config\.json: is not a readable"):
        Whisper().resolved(str(copy))


def test_what_the_folder_cannot_do_is_refused(copy):
    with pytest.raises(ConfigError, match=r"no language 'dee'; did you mean 'de'"):
        Whisper(language="dee").resolved(str(copy))
    change(copy / "preprocessor_config.json", feature_size=128)
    with pytest.raises(ConfigError, match=r"makes 128 mel bands, and .* wants 80"):
        Whisper().resolved(str(copy))
    change(copy / "preprocessor_config.json", feature_size=80, chunk_length=20)
    with pytest.raises(ConfigError, match="hears 20 s at once"):
        Whisper().resolved(str(copy))
    change(copy / "generation_config.json", is_multilingual=False, lang_to_id=None, task_to_id=None)
    for settings in ({"language": "de"}, {"translate": True}):
        with pytest.raises(ConfigError, match="English only"):
            Whisper(**settings).resolved(str(copy))


def test_a_gate_that_is_none_is_refused(tiny):
    with pytest.raises(ConfigError, match="yolox"):
        Whisper(gate=str(tiny / "yolox")).load("cpu", str(tiny / "whisper"))


@pytest.mark.skipif(importlib.util.find_spec("faster_whisper") is not None, reason="faster_whisper is installed")
def test_the_extra_is_named_where_it_is_missing(tiny):
    with pytest.raises(ConfigError, match=r"pip install 'mmray\[faster-whisper\]'"):
        Whisper(backend="faster_whisper").resolved(str(tiny / "whisper"))


@pytest.fixture
def converted(tmp_path):
    """Return a CTranslate2 folder; that library decodes to 448 tokens whatever the model."""
    converters = pytest.importorskip("ctranslate2.converters")
    pytest.importorskip("faster_whisper")
    from mmray.models.tiny import speech

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "LONGEST", 448)
        speech.make_whisper(tmp_path, np.random.RandomState(0))
    copied = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(tmp_path), copy_files=copied).convert(str(tmp_path / "ct2"))
    return str(tmp_path / "ct2")


def test_faster_whisper_gives_the_same_rows_as_itself(converted):
    import faster_whisper

    extractor = Whisper(backend="faster_whisper", gate=None).resolved(converted)
    samples = sound(0, 12.0)
    (rows,) = extractor.load("cpu", converted)([wave(SPEC, samples)])
    net = faster_whisper.WhisperModel(converted, device="cpu", compute_type="float32", local_files_only=True)
    told, _ = net.transcribe(
        samples, beam_size=1, best_of=1, temperature=0.0, condition_on_previous_text=False,
        compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None,
    )  # fmt: skip
    expected = [one for one in told if one.text.strip() and one.start < 12.0]
    assert rows.columns["text"] == [one.text.strip() for one in expected]
    assert list(rows.start_s) == [one.start for one in expected]
    assert list(rows.columns["avg_logprob"]) == pytest.approx([one.avg_logprob for one in expected], rel=1e-4)
    assert set(rows.columns["language"]) == {"en"}


def test_a_converted_folder_that_lacks_a_file_is_refused(converted):
    from pathlib import Path

    (Path(converted) / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json: is missing"):
        Whisper(backend="faster_whisper").resolved(converted)
