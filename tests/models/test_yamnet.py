"""YAMNet against TensorFlow: the arrays were computed by the reference code of tensorflow/models."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mmray.errors import ConfigError
from mmray.models import yamnet
from mmray.models.mel import LogMel, mel_matrix

REFERENCE = Path(__file__).parent.parent / "reference" / "yamnet_seeded.npz"
WAVES = ("sine440_3s", "chirp_plus_noise_2p5s", "zeros_1s", "short_0p5s", "exact_15600", "exact_15601")


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw an array as the reference run did (its head was called ``dense``)."""
    random = np.random.RandomState(zlib.crc32(name.replace("logits", "dense").encode()) & 0x7FFFFFFF)
    match name.rpartition("/")[2]:
        case "moving_variance":
            values = random.uniform(0.5, 1.5, shape)
        case "moving_mean" | "bias":
            values = random.standard_normal(shape) * 0.1
        case "beta":
            values = random.standard_normal(shape) * 0.3 + 0.1
        case "depthwise_kernel":
            values = random.standard_normal(shape) * np.sqrt(2 / 9)
        case _:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def arrays():
    return {name: seeded(name, shape) for name, shape in yamnet.shapes().items()}


def patches(wave: np.ndarray, count: int) -> torch.Tensor:
    return LogMel(yamnet.MEL, "cpu").patches(wave, count, yamnet.PATCH_FRAMES, yamnet.PATCH_HOP_FRAMES)


def write_h5(path: Path, arrays: dict[str, np.ndarray], head: str = "logits", attributes=str) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = attributes("tensorflow") if attributes is str else b"tensorflow"
        for name, array in arrays.items():
            name = name.replace("logits", head)
            file.create_dataset(f"{name.rpartition('/')[0]}/{name}:0", data=array)
    return path


def test_the_mel_matrix_is_tensorflows(reference):
    np.testing.assert_allclose(mel_matrix(yamnet.MEL), reference["mel_matrix"], atol=1e-5)


@pytest.mark.parametrize("wave", WAVES)
def test_log_mel_is_tensorflows(reference, wave):
    expected = reference[f"{wave}__log_mel"]
    found = patches(reference[f"{wave}__waveform"], int(reference[f"{wave}__num_patches"]))
    spectrogram = torch.cat([found[0], *(patch[yamnet.PATCH_HOP_FRAMES :] for patch in found[1:])]).numpy()
    # Bins that hold next to nothing carry the rounding of a 16-bit-like dynamic range: ln(0.001) is the floor.
    loud = expected > np.log(0.001) + 1.5
    np.testing.assert_allclose(spectrogram[loud], expected[loud], atol=1e-3)
    np.testing.assert_allclose(spectrogram, expected, atol=6e-3)


@pytest.mark.parametrize("wave", WAVES)
def test_the_network_is_tensorflows(reference, arrays, wave):
    log_mel = torch.from_numpy(reference[f"{wave}__log_mel"])
    found = log_mel.unfold(0, yamnet.PATCH_FRAMES, yamnet.PATCH_HOP_FRAMES).transpose(1, 2)
    with torch.inference_mode():
        scores, embeddings = yamnet.YamNet(arrays)(found)
    expected = reference[f"{wave}__embeddings"]
    assert np.abs(embeddings.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(scores.numpy(), reference[f"{wave}__scores"], atol=1e-5)


def test_real_sounds_get_the_reference_scores(test_data):
    expected = np.load(test_data.parent / "reference" / "yamnet_real_expected.npz")
    net = yamnet.YamNet(yamnet.read_h5(test_data / "weights" / "yamnet_from_int8.h5"))
    for clip in range(6):
        with torch.inference_mode():
            scores, embeddings = net(patches(expected[f"clip{clip}__waveform"], 10))
        np.testing.assert_allclose(scores.numpy(), expected[f"clip{clip}__scores"], atol=2e-4)
        np.testing.assert_allclose(embeddings.numpy(), expected[f"clip{clip}__embeddings"], atol=1e-3)


@pytest.mark.parametrize("head", ["logits", "dense"])
@pytest.mark.parametrize("attributes", [str, bytes])
def test_every_known_spelling_of_the_file_reads_the_same(tmp_path, arrays, head, attributes):
    found = yamnet.read_h5(write_h5(tmp_path / "yamnet.h5", arrays, head, attributes))
    assert list(found) == list(yamnet.shapes())
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_another_file_is_refused(tmp_path, arrays):
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ConfigError, match=r"text\.h5.*HDF5"):
        yamnet.read_h5(tmp_path / "text.h5")
    fewer = {name: array for name, array in arrays.items() if "layer9" not in name}
    with pytest.raises(ConfigError, match=r"not YAMNet.*layer9"):
        yamnet.read_h5(write_h5(tmp_path / "fewer.h5", fewer))
    wrong = arrays | {"logits/bias": np.zeros(10, np.float32)}
    with pytest.raises(ConfigError, match=r"not YAMNet.*logits/bias"):
        yamnet.read_h5(write_h5(tmp_path / "wrong.h5", wrong))
