"""Sound as a picture and back, against the arrays of the reference implementation."""

import numpy as np
import pytest
import torch

from mmray.models import mel_image
from tests.near import assert_near


@pytest.fixture(scope="module")
def reference(test_data):
    with np.load(test_data.parent / "reference" / "auffusion_mel_image_vocoder.npz") as arrays:
        return dict(arrays)


def sine(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)


def test_the_mel_matrix_is_the_references(reference):
    np.testing.assert_allclose(mel_image.slaney_matrix(), reference["mel_basis_slaney"], atol=1e-7)


def test_log_mel_and_the_picture_are_the_references(reference):
    spectra = mel_image.log_mel(reference["pcm16"])
    np.testing.assert_allclose(spectra, reference["log_mel"][0], atol=1e-4)
    np.testing.assert_allclose(mel_image.image(spectra), reference["image"], atol=1e-4)


def test_both_ways_back_are_the_references(reference):
    random = torch.from_numpy(reference["random_image"])
    for channel, name in ((0, "denorm_auffusion_channel0"), (None, "denorm_its_channel_mean")):
        np.testing.assert_allclose(mel_image.spectra(random, channel).numpy(), reference[name], atol=1e-4)


def test_a_picture_of_sound_reads_back_as_its_spectra():
    spectra = mel_image.log_mel(sine(440))
    for channel in (0, 1, None):
        found = mel_image.spectra(torch.from_numpy(mel_image.image(spectra)), channel)
        np.testing.assert_allclose(found.numpy(), spectra, atol=1e-5)


def test_loudness_does_not_matter_and_silence_is_silence():
    quiet, loud = (mel_image.log_mel(sine(440) * factor) for factor in (2.0**-9, 2.0**9))
    assert_near(quiet, loud)
    assert (mel_image.picture(np.zeros(16_000)) < 60).all()


def test_low_pitches_are_at_the_bottom_and_a_column_is_10_ms():
    low, high = (mel_image.picture(sine(hertz, 0.5)) for hertz in (200, 4_000))
    assert low.shape == high.shape == (256, 50, 3)
    assert low.dtype == np.uint8
    rows = [picture[:, 25, 0].argmax() for picture in (low, high)]
    assert rows[0] > 200 > 100 > rows[1]
    click = np.zeros(16_000)
    click[8_000] = 1.0
    assert abs(int(mel_image.picture(click)[:, :, 0].mean(axis=0).argmax()) - 50) <= 1


def test_too_little_sound_is_refused():
    for sound in (np.zeros(944), np.zeros((2, 16_000))):
        with pytest.raises(ValueError, match="more than 944"):
            mel_image.log_mel(sound)
