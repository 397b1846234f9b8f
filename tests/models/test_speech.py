"""The speech gate: speech passes, other sound does not; each sound is heard for itself."""

import numpy as np
import pytest

from mmray.errors import ConfigError
from mmray.media.decode import decode
from mmray.models.onnx_file import Node, model
from mmray.models.speech import STEP, SpeechGate, spans
from mmray.models.tiny import make_tiny
from mmray.specs import AudioSpec
from tests.extractors.streams import noise

SPEC = AudioSpec(rate_hz=16_000, window_s=30, hop_s=30)


def hear(file) -> np.ndarray:
    return np.concatenate([wave.samples for _, wave in decode(str(file), [SPEC], 0.0, None)])


@pytest.fixture(scope="module")
def gate(test_data):
    return SpeechGate(str(test_data / "weights" / "silero_vad_16k_op15.onnx"))


@pytest.fixture(scope="module")
def speech(test_data):
    return [hear(file) for file in sorted((test_data / "audio" / "speech_librivox").glob("*.wav"))]


def share(gate, sounds) -> float:
    return float(np.mean(np.concatenate(gate.chances(sounds)) > 0.5))


def test_real_speech_is_speech(gate, speech, test_data):
    assert share(gate, speech) == pytest.approx(0.88, abs=0.02)
    talking = [hear(file) for file in sorted((test_data / "video" / "grid_labelled" / "mp4").glob("*.mp4"))[:20]]
    assert share(gate, talking) == pytest.approx(0.47, abs=0.05)
    assert all(gate(speech))
    assert all(gate(talking))


@pytest.mark.parametrize("kind", ["rain", "sea_waves", "fire_crackling", "helicopter", "clock_tick", "rooster"])
def test_other_sound_is_not(gate, test_data, kind):
    sounds = [hear(file) for file in sorted((test_data / "audio" / "esc10" / kind).glob("*.ogg"))[::5]]
    assert share(gate, sounds) <= 0.02
    assert not any(gate(sounds))


def test_few_dogs_and_babies_pass(gate, test_data):
    files = [sorted((test_data / "audio" / "esc10" / kind).iterdir())[::3] for kind in ("dog_bark", "baby_cry")]
    assert sum(map(bool, gate([hear(file) for some in files for file in some]))) <= 2  # of 22


def test_silence_and_tones_are_not_speech(gate):
    times = np.arange(5 * 16_000) / 16_000
    chord = sum(np.sin(2 * np.pi * hertz * times) for hertz in (220, 277.2, 329.6)) / 6
    nothing = [np.zeros(size, np.float32) for size in (0, 1, 160, 80_000)]
    assert not any(gate([*nothing, chord.astype(np.float32), noise(0, 80_000) - np.float32(0.5)]))


def test_neighbours_change_nothing_and_every_sound_is_heard_afresh(gate, speech):
    together = gate.chances([*speech, speech[0][:20_000]])
    for sound, found in zip(speech, together, strict=False):
        assert found.shape == (-(-sound.size // STEP),)
        np.testing.assert_allclose(found, gate.chances([sound])[0], atol=1e-5)
    np.testing.assert_allclose(together[-1][:-2], together[0][: together[-1].size - 2], atol=1e-5)


def test_spans_bridge_short_gaps_and_drop_short_runs():
    verdicts = np.zeros(100, np.float32)
    verdicts[10:20] = 0.9
    verdicts[15] = 0.4  # unsure is not over
    verdicts[23:30] = 0.9  # a gap of 0.096 s
    verdicts[50:57] = 0.9  # 0.224 s
    verdicts[92:100] = 0.9
    found = list(spans(verdicts, 100 * STEP - 50))
    assert found == [(10 * STEP, 30 * STEP), (92 * STEP, 100 * STEP - 50)]


def test_another_network_is_refused(tmp_path, test_data):
    file = tmp_path / "other.onnx"
    file.write_bytes(model([Node("Relu", ["images"], ["maps"])], {}, {"images": [1, 3]}, {"maps": [1, 3]}))
    with pytest.raises(ConfigError, match=r"other\.onnx: takes \['images'\].*Silero"):
        SpeechGate(str(file))
    file.write_bytes((test_data / "weights" / "silero_vad_16k_op15.onnx").read_bytes()[:5_000])
    with pytest.raises(ConfigError, match=r"other\.onnx: is not an ONNX file"):
        SpeechGate(str(file))


def test_the_tiny_gate_opens_for_what_is_loud(tmp_path):
    (folder,) = make_tiny(tmp_path, names=["silero_vad"])
    gate = SpeechGate(str(folder / "silero_vad.onnx"))
    loud = np.concatenate([np.zeros(STEP * 20, np.float32), noise(0, STEP * 20) - np.float32(0.5)])
    assert gate([loud, loud * np.float32(0.01)]) == [[(STEP * 20, STEP * 40)], []]
