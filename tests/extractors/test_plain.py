"""The extractors without weights: pixels, waveform and log-mel."""

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.extractors.logmel import LogMel
from mmray.extractors.pixels import Pixels
from mmray.extractors.waveform import Waveform
from mmray.models import yamnet
from mmray.models.mel import LogMel as Spectrogram
from mmray.specs import AudioSpec, FrameSpec

from .streams import frame, picture, sound, wave


@pytest.mark.parametrize(("side_px", "channels"), [(28, 1), (16, 3)])
def test_an_embedding_is_the_picture(side_px, channels):
    extractor = Pixels(frames=FrameSpec(fps=25, side_px=side_px, channels=channels, fit="squash"))
    image = picture(1, side_px, channels)
    (rows,) = extractor.load("cpu", None)([frame(extractor.frames, 4, image)])
    assert extractor.dims(None) == {"embedding": side_px * side_px * channels}
    np.testing.assert_allclose(rows.columns["embedding"].reshape(image.shape) * 255, image, atol=1e-4)
    assert (rows.window, rows.start_s) == ([4], [0.16])


@pytest.mark.parametrize(("window_s", "hop_s"), [(1.0, 1.0), (0.5, 0.25), (0.25, 0.5)])
def test_an_embedding_is_the_sound(window_s, hop_s):
    extractor = Waveform(sound=AudioSpec(rate_hz=8_000, window_s=window_s, hop_s=hop_s))
    samples = sound(1, 2.3, 8_000)
    heard = wave(extractor.sound, samples)
    (rows,) = extractor.load("cpu", None)([heard])
    length, hop = round(window_s * 8_000), round(hop_s * 8_000)
    assert extractor.dims(None) == {"embedding": length}
    padded = np.concatenate([samples, np.zeros(length, np.float32)])
    expected = [padded[start : start + length] for start in range(0, heard.count * hop, hop)]
    np.testing.assert_array_equal(rows.columns["embedding"], expected)
    assert rows.start_s == [place * hop_s for place in range(heard.count)]
    assert rows.end_s[-1] == pytest.approx(min(2.3, rows.start_s[-1] + window_s))


def test_the_default_spectrogram_is_yamnets():
    extractor = LogMel(sound=AudioSpec(window_s=0.975, hop_s=0.48))
    heard = wave(extractor.sound, sound(1, 3.3))
    (rows,) = extractor.load("cpu", None)([heard])
    expected = Spectrogram(yamnet.MEL, "cpu").patches(heard.samples, heard.count, 96, 48)
    np.testing.assert_allclose(rows.columns["embedding"], expected.flatten(1), atol=1e-5)


def test_other_rates_and_shapes():
    extractor = LogMel(
        sound=AudioSpec(rate_hz=8_000, window_s=0.5, hop_s=0.25), n_mels=20, high_hz=4_000, frame_s=0.032, step_s=0.016
    )
    (rows,) = extractor.load("cpu", None)([wave(extractor.sound, sound(1, 2.0, 8_000))])
    assert rows.columns["embedding"].shape == (7, extractor.dims(None)["embedding"])
    assert extractor.dims(None)["embedding"] == (1 + (4_000 - 256) // 128) * 20


@pytest.mark.parametrize("wrong", [{"high_hz": 9_000}, {"low_hz": 8_000}, {"frame_s": 0.99}, {"step_s": 1e-6}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        LogMel(**wrong)
