"""Every generator on a GPU: a seed gives what it gives on a CPU, alone and in a batch; half precision gives numbers."""

import numpy as np
import pytest

from mmray.generation.audio import Audio, AudioRequest
from mmray.generation.caption import Caption, CaptionRequest
from mmray.generation.image import Image, ImageRequest
from mmray.generation.rank import Labels, LabelsRequest
from mmray.generation.spectrogram import Spectrogram, SpectrogramRequest

from .conftest import DEVICE

RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)
TONE = (np.sin(np.arange(32_000) / 9) / 2).astype(np.float32)
WORDS = ["a dog", "rain on a very, very long street at night"]


def words(kind, **fields):
    return [kind(prompt=prompt, seed=7 + place, steps=4, **fields) for place, prompt in enumerate(WORDS)]


PICTURES = [*words(ImageRequest), *words(ImageRequest, image=PHOTO, strength=0.5, negative_prompt="ugly")]
SOUNDS = words(AudioRequest, length_s=0.5)
BOTH = [
    SpectrogramRequest(prompt="a house", sound_prompt="rain", steps=4, width_px=128, seed=3),
    SpectrogramRequest(prompt="a tree", sound_prompt="wind", steps=4, width_px=128, seed=4, imprint=PHOTO),
]
CASES = [
    pytest.param(Image(model="-"), {"model": "stable_diffusion"}, PICTURES, id="image"),
    pytest.param(Image(model="-"), {"model": "stable_diffusion_xl"}, PICTURES, id="image-xl"),
    pytest.param(Audio(), {"model": "audioldm"}, SOUNDS, id="audio"),
    pytest.param(Audio(), {"model": "audioldm2"}, SOUNDS, id="audio-2"),
    pytest.param(
        Spectrogram(model="-", sound_model="-"), {"model": "stable_diffusion", "sound_model": "auffusion"}, BOTH,
        id="spectrogram",
    ),
    pytest.param(
        Caption(max_tokens=8), {"model": "blip"}, [CaptionRequest(image=PHOTO), CaptionRequest(image=PHOTO[::2, ::-1])],
        id="caption",
    ),
    pytest.param(
        Labels(), {"model": "clip", "sound_model": "clap"},
        [
            LabelsRequest(image=PHOTO, labels=["a dog", "a cat"]),
            LabelsRequest(sound=TONE, rate_hz=16_000, labels=["a bell", "rain"]),
        ],
        id="labels",
    ),
]  # fmt: skip
each = pytest.mark.parametrize(("generator", "names", "requests_"), CASES)


@pytest.fixture
def make(tiny, generator, names):
    """Return a function that loads the generator and makes what is asked for, on a device."""
    paths = {field: str(tiny / name) for field, name in names.items()}

    def made(device, requests, **changes):
        generate = generator.model_copy(update=changes).load(device, paths)
        return generate(requests, lambda done, total: None)

    return made


def assert_near(found, expected):
    """Compare results: pictures within a grey level, sounds within 1e-3 of full scale, words and scores the same."""
    for one, other in zip(found, expected, strict=True):
        for name in ("picture", "spectrum"):
            if getattr(other, name) is not None:
                difference = np.abs(getattr(one, name).astype(int) - getattr(other, name))
                assert difference.max() <= 1
                assert difference.mean() < 0.02
        if other.sound is not None:
            np.testing.assert_allclose(one.sound, other.sound, atol=1e-3)
        assert one.text == other.text
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


@each
def test_a_seed_gives_what_it_gives_on_a_cpu(make, requests_):
    assert_near(make(DEVICE, requests_), make("cpu", requests_))


@each
def test_a_batch_changes_nothing(make, requests_):
    alone = [result for request in requests_ for result in make(DEVICE, [request])]
    assert_near(make(DEVICE, requests_), alone)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@each
def test_half_precision_gives_numbers(make, requests_, precision):
    for one, exact in zip(make(DEVICE, requests_, precision=precision), make("cpu", requests_), strict=True):
        if exact.picture is not None:
            assert np.abs(one.picture.astype(int) - exact.picture).mean() < 4
        if exact.sound is not None:
            assert np.isfinite(one.sound).all()
            assert one.sound.shape == exact.sound.shape
        assert one.scores == pytest.approx(exact.scores, abs=0.1)
        assert bool(one.text) == bool(exact.text)
