"""Descriptors: known pictures and sounds give known numbers, however the sample is cut."""

import math

import numpy as np
import pytest

from mmray.errors import Reason
from mmray.extractors.descriptors import Descriptors
from mmray.specs import Gathered

from .streams import frame, noise, picture, sound, split, wave

EXTRACTOR = Descriptors()


def described(pictures, waves, start_s=0.0, end_s=9.6):
    (rows,) = EXTRACTOR.load("cpu", None)([Gathered((pictures, waves), start_s, end_s, 9.6)])
    return rows


def shots(*seeds_and_lengths, jitter=0.02):
    """Return frames of shots that move a little within themselves."""
    pictures = []
    for seed, length in seeds_and_lengths:
        for step in range(length):
            image = np.roll(picture(seed, 64, 3), step, axis=1).astype(np.float32)
            image += 255 * jitter * (noise(step, 64, 64, 3) - 0.5)
            pictures.append(frame(EXTRACTOR.frames, len(pictures), image.clip(0, 255).astype(np.uint8)))
    return pictures


def test_three_shots_have_two_cuts_where_they_are():
    rows = described(shots((10, 9), (20, 14), (30, 17)), [])
    assert len(rows) == 10
    assert {k: cuts for k, cuts in enumerate(rows.columns["cuts"]) if cuts} == {9 // 4: 1.0, 23 // 4: 1.0}


def test_a_fade_is_no_cut():
    image = picture(3, 64, 3)
    pictures = [frame(EXTRACTOR.frames, k, (image * (1 - k / 40)).astype(np.uint8)) for k in range(40)]
    assert sum(described(pictures, []).columns["cuts"]) == 0


def test_brightness_and_motion_are_what_was_shown():
    grey, white = (np.full((64, 64, 3), value, np.uint8) for value in (51, 255))
    rows = described([frame(EXTRACTOR.frames, k, image) for k, image in enumerate([grey] * 4 + [white] * 4)], [])
    np.testing.assert_allclose(rows.columns["brightness"], [0.2, 1.0], atol=1e-6)
    np.testing.assert_allclose(rows.columns["motion"], [0.0, 0.8 / 4], atol=1e-6)


def test_loudness_and_silence_are_what_was_heard():
    times = np.arange(3 * 15_360) / 16_000
    samples = np.sin(2 * np.pi * 1000 * times).astype(np.float32)
    samples[15_360 : 15_360 + 7_680] = 0
    samples[30_720:] = 0
    rows = described([], [wave(EXTRACTOR.sound, samples)])
    np.testing.assert_allclose(rows.columns["loudness_db"], [-3.01, -6.02, -100], atol=0.01)
    np.testing.assert_allclose(rows.columns["silence_share"], [0, 0.5, 1], atol=0.01)
    assert rows.columns["cuts"] == rows.columns["motion"] == rows.columns["brightness"] == [None] * 3


def test_the_last_window_is_as_long_as_the_recording():
    rows = described(shots((1, 5)), [wave(EXTRACTOR.sound, sound(0, 2.0))])
    np.testing.assert_allclose(rows.columns["duration_s"], [0.96, 0.96, 0.08], atol=1e-6)
    assert rows.columns["brightness"][2] is None
    assert rows.columns["loudness_db"][2] is not None
    assert math.isclose(rows.end_s[-1], 2.0)


def test_neither_picture_nor_sound_is_skipped():
    (found,) = EXTRACTOR.load("cpu", None)([Gathered(([], []), 0.0, None, None)])
    assert (found.reason, found.status) == (Reason.NO_VIDEO, "skipped")


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_where_the_sample_is_cut_changes_nothing(cut):
    pictures = shots((10, 8), (20, 12), (30, 20))  # with cuts on the first frame of a window
    samples = sound(2, 9.6)
    whole = described(pictures, [wave(EXTRACTOR.sound, samples)])
    waves = split(EXTRACTOR.sound, samples, at=[cut])
    middle_s = cut * 0.96
    first = described(pictures[: 4 * cut], [waves[0]], 0.0, middle_s)
    second = described(pictures[4 * cut - 1 :], [waves[1]], middle_s)  # the frame before is context
    assert [*first.window, *second.window] == whole.window
    for name, column in whole.columns.items():
        np.testing.assert_allclose([*first.columns[name], *second.columns[name]], column, atol=1e-9)


def test_every_column_says_how_it_is_summed_up():
    assert set(Descriptors.summary) == set(described(shots((1, 4)), []).columns)
