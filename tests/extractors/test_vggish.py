"""VGGish: one row per whole example, and AudioSet's quantised version of it."""

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError, Reason
from mmray.extractors.vggish import Vggish
from mmray.media.decode import decode

from .streams import sound, wave

WAVES = ("sine1k_3s", "chirp_noise_2p5s", "zeros_1s", "len_15600", "len_15599")


@pytest.fixture
def path(tiny):
    return str(tiny / "vggish" / "vggish.pth")


@pytest.fixture
def pca(tiny):
    return str(tiny / "vggish_pca")


def embeddings(extractor, path, items):
    return np.concatenate([rows.columns["embedding"] for rows in extractor.load("cpu", path)(items)])


def test_a_sound_has_as_many_examples_as_the_reference_gives_it(test_data, path):
    spec = Vggish().sound
    with np.load(test_data.parent / "reference" / "vggish_frontend_and_seeded_net.npz") as reference:
        for name in WAVES:
            samples, count = reference[f"{name}__waveform"].astype(np.float32), int(reference[f"{name}__num_examples"])
            assert spec.has_window(count - 1, samples.size) or count == 0
            assert not spec.has_window(count, samples.size)
            if count:
                (rows,) = Vggish().load("cpu", path)([wave(spec, samples)])
                np.testing.assert_allclose(rows.start_s, 0.96 * np.arange(count))
                np.testing.assert_allclose(rows.end_s, 0.96 * np.arange(1, count + 1))
                assert rows.columns["embedding"].shape == (count, 128)


def test_the_embedding_has_no_relu_behind_it(path):
    found = embeddings(Vggish(), path, [wave(Vggish().sound, sound(1, 5))])
    assert (found < 0).any()


def test_the_quantised_embedding_is_that_of_the_plain_one(path, pca):
    item = wave(Vggish().sound, sound(1, 5))
    plain, found = (embeddings(Vggish(pca=wanted), path, [item]) for wanted in (None, pca))
    with np.load(f"{pca}/vggish_pca_params.npz") as params:
        whitened = (plain.astype(np.float64) - params["pca_means"]) @ params["pca_eigen_vectors"].T
    expected = ((np.clip(whitened, -2, 2) + 2) * 255 / 4).astype(np.uint8)  # as AudioSet: truncated
    # A number 1e-6 below a whole one is a level lower than one 1e-6 above.
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99
    assert found.dtype == np.float32
    assert len(np.unique(found)) > 20


def test_examples_may_overlap(path):
    samples = sound(2, 3)
    half = Vggish(sound={**Vggish().sound.model_dump(), "hop_s": 0.48})
    found = embeddings(half, path, [wave(half.sound, samples)])
    whole = embeddings(Vggish(), path, [wave(Vggish().sound, samples)])
    np.testing.assert_allclose(found[::2], whole, atol=1e-5)
    moved = embeddings(Vggish(), path, [wave(Vggish().sound, samples[7680:])])
    np.testing.assert_allclose(found[1::2], moved, atol=1e-5)


@pytest.mark.parametrize("change", [{"rate_hz": 32_000}, {"window_s": 1.0}, {"hop_s": 0.005}])
def test_another_grid_is_refused(change):
    with pytest.raises(ValidationError, match="vggish needs"):
        Vggish(sound={**Vggish().sound.model_dump(), **change})


@pytest.mark.parametrize(
    ("name", "status", "reason", "rows"),
    [
        ("zero_samples", "failed", Reason.EMPTY, 0),
        ("one_sample", "skipped", Reason.TOO_SHORT, 0),
        ("half_frame_10ms", "skipped", Reason.TOO_SHORT, 0),
        ("silence_3s", "ok", None, 3),
        ("speech_float_nan_inf", "partial", Reason.CORRUPT, 3),
    ],
)
def test_awkward_sounds_end_as_the_class_says(test_data, path, name, status, reason, rows):
    spec = Vggish().sound
    decoding = decode(str(test_data / "audio" / "awkward" / f"{name}.wav"), [spec])
    found = list(Vggish().load("cpu", path)([item for _, item in decoding]))
    outcome = decoding.outcomes[spec]
    assert (outcome.status, outcome.reason) == (status, reason)
    assert sum(map(len, found)) == rows
    assert all(np.isfinite(one.columns["embedding"]).all() for one in found)


def test_another_kind_of_file_is_refused_at_once(tiny):
    for other in (tiny / "yamnet" / "yamnet.h5", tiny / "yolox" / "yolox.onnx", tiny / "clip"):
        with pytest.raises(ConfigError, match=f"{other.name}: is not VGGish"):
            Vggish().resolved(str(other))


def test_a_quantiser_that_is_none_is_refused(path, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"vggish\.pth.*pca_eigen_vectors is missing"):
        Vggish(pca=path).load("cpu", path)
    with pytest.raises(ConfigError, match=r"yamnet\.h5"):
        Vggish(pca=str(tiny / "yamnet")).load("cpu", path)
    with pytest.raises(ConfigError, match="no_such_pca"):
        Vggish(pca="no_such_pca").load("cpu", path)
