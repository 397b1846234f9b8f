"""Slices: every sample of a sound in just one of them, whatever waves it comes in; seams lie where nobody speaks."""

from itertools import combinations

import numpy as np
import pytest

from mmray.extractors.whisper import Overlapping
from mmray.media.decode import decode
from mmray.media.waves import Cutter
from mmray.models.slices import FRAME, seam, slices
from tests.extractors.streams import noise, split, wave

SPEC = Overlapping(rate_hz=16_000, window_s=2, hop_s=1.5)
W, H = SPEC.window, SPEC.hop
EDGES = [edge + step for edge in (W, H + W, 2 * H + W, 2 * H, 3 * H + W) for step in (-1, 0, 1)]


def sound(size: int) -> np.ndarray:
    return noise(size, size) - np.float32(0.5)


def cut(waves) -> list[tuple[int, int, np.ndarray]]:
    return [(one.window, one.start, one.samples) for each in waves for one in slices(each, W, H)]


def assert_whole(found, samples):
    """The slices follow each other without gap or overlap, and none is longer than a window."""
    position = 0
    for number, (window, start, part) in enumerate(found):
        assert (window, start) == (number, position)
        assert 0 < part.size <= W
        position += part.size
    np.testing.assert_array_equal(np.concatenate([part for _, _, part in found]), samples)


@pytest.mark.parametrize("size", [1, 160, 1600, *EDGES])
def test_every_sample_is_in_one_slice_for_any_cut(size):
    samples = sound(size)
    count = wave(SPEC, samples).count
    for edges in (edges for some in range(count) for edges in combinations(range(1, count), some)):
        assert_whole(cut(split(SPEC, samples, edges)), samples)


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("segment_s", [1.0, 3.2, 100.0])
def test_segments_of_the_decoder_lose_nothing(size, segment_s):
    samples = sound(size)
    waves = []
    for start_s in np.arange(0, size / 16_000, segment_s):
        cutter = Cutter(SPEC, start_s, start_s + segment_s, np.inf)
        for block in np.array_split(samples, 7):
            waves += cutter.push(block)
        waves += cutter.finish()
    assert_whole(cut(waves), samples)


def test_a_full_window_has_a_successor_and_another_has_none():
    for size in EDGES:
        count = wave(SPEC, sound(size)).count
        assert size - (count - 1) * H < W
        assert all(size - index * H >= W for index in range(count - 1))


def test_the_seam_is_the_middle_of_the_longest_pause():
    samples = sound(5 * 16_000)
    samples[16_000:24_000] *= np.float32(0.01)  # half a second, and elsewhere a fifth
    samples[48_000:51_200] *= np.float32(0.01)
    assert abs(seam(samples) - 20_000) <= FRAME
    samples[16_000:24_000] *= 10
    assert 48_000 < seam(samples) < 51_200


def test_silence_is_cut_in_its_middle():
    assert abs(seam(np.zeros(80_000, np.float32)) - 40_000) <= FRAME
    assert abs(seam(sound(80_000) * np.float32(1e-4)) - 40_000) <= FRAME


def test_seams_of_real_speech_lie_in_its_pauses(test_data):
    spec = Overlapping(rate_hz=16_000, window_s=30, hop_s=25)
    files = sorted((test_data / "audio" / "speech_librivox").glob("*.wav"))
    speech = [one.samples for file in files for _, one in decode(str(file), [spec], 0.0, None)]
    # Four minutes of reading almost without a pause.
    samples = np.concatenate(
        [speech[place] for seed in range(10) for place in np.random.default_rng(seed).permutation(5)]
    )
    starts = [one.start for one in slices(wave(spec, samples), spec.window, spec.hop)][1:]
    assert len(starts) >= 8
    parts = [samples[start - 800 : start + 800] for start in starts]
    below_db = 10 * np.log10([np.mean(np.square(part)) / np.mean(np.square(samples)) for part in parts])
    assert below_db.max() < -12
    assert np.median(below_db) < -20
