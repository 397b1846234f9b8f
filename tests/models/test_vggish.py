"""VGGish against TensorFlow: the arrays were computed by the reference code of tensorflow/models."""

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmray.errors import ConfigError
from mmray.models import vggish
from mmray.models.mel import LogMel, mel_matrix
from tests.near import assert_near

WAVES = ("sine1k_3s", "chirp_noise_2p5s", "zeros_1s", "len_15600", "len_15599")
TORCHAUDIO = {"features.": "features_network.", "embeddings.": "embedding_network."}
WIDTHS = [64, 128, 256, 256, 512, 512, 4096, 4096]


@pytest.fixture(scope="module")
def reference(test_data):
    with np.load(test_data.parent / "reference" / "vggish_frontend_and_seeded_net.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def tensors():
    """Return a small VGGish by torchvggish's names."""
    random = torch.Generator().manual_seed(5)
    places = vggish.VggishNet([2, 2, 4, 4, 4, 4, 8, 8]).state_dict()
    return {name: torch.randn(place.shape, generator=random) * 0.3 for name, place in places.items()}


@pytest.fixture
def examples():
    return torch.randn(3, 96, 64, generator=torch.Generator().manual_seed(1))


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw an array as the reference run did."""
    values = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    scale = 0.05 if name.endswith("biases") else np.sqrt(2 / np.prod(shape[:-1]))
    return (values * scale).astype(np.float32)


def tensorflow(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the same weights with the names and in the layout of Google's checkpoint."""
    found = {}
    for layer, theirs in vggish.LAYERS.items():
        weight = tensors[f"{layer}.weight"].numpy()
        found[f"{theirs}/weights"] = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        found[f"{theirs}/biases"] = tensors[f"{layer}.bias"].numpy()
    return found


def torchaudio(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefixed = {}
    for name, tensor in tensors.items():
        prefix = name.partition(".")[0] + "."
        prefixed[TORCHAUDIO[prefix] + name.removeprefix(prefix)] = tensor
    return prefixed


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write the weights as the publisher of that kind of file does."""
    match path.name:
        case "google.npz":
            np.savez(path, global_step=np.int64(7), **tensorflow(tensors))
        case "torchaudio.pt":
            torch.save(torchaudio(tensors), path)
        case "before_torch_1_6.pth":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
        case _ if path.suffix == ".safetensors":
            save_file(tensors, path)
        case _:
            torch.save(tensors, path)
    return path


FORMATS = ["google.npz", "torchaudio.pt", "torchvggish.pth", "before_torch_1_6.pth", "torchvggish.safetensors"]


def test_the_mel_matrix_is_the_references(reference):
    np.testing.assert_allclose(mel_matrix(vggish.MEL), reference["mel_matrix"], atol=1e-12)


@pytest.mark.parametrize("wave", WAVES)
def test_log_mel_is_the_references(reference, wave):
    expected = reference[f"{wave}__log_mel"]
    found = LogMel(vggish.MEL, "cpu", torch.float64)(torch.from_numpy(reference[f"{wave}__waveform"]).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.fixture(scope="module")
def real_sized(tmp_path_factory):
    """Write the reference run's weights, of the real size, as Google's checkpoint is."""
    path = tmp_path_factory.mktemp("weights") / "vggish.npz"
    shapes = {name: place.shape for name, place in vggish.VggishNet(WIDTHS).state_dict().items()}
    shapes = {name: array.shape for name, array in tensorflow({k: torch.empty(v) for k, v in shapes.items()}).items()}
    np.savez(path, **{name: seeded(name, shape) for name, shape in shapes.items()})
    yield path
    path.unlink()


def test_the_network_is_tensorflows(reference, real_sized):
    net = vggish.load(real_sized)
    assert sum(weight.numel() for weight in net.parameters()) == 72_141_184
    log_mel = LogMel(vggish.MEL, "cpu", torch.float64)
    for wave in ("sine1k_3s", "chirp_noise_2p5s", "len_15600"):
        count = int(reference[f"{wave}__num_examples"])
        samples = reference[f"{wave}__waveform"].astype(np.float32)
        expected = reference[f"{wave}__embedding_randw"]
        exact = torch.from_numpy(reference[f"{wave}__log_mel"]).float()[: count * 96].reshape(count, 96, 64)
        with torch.inference_mode():
            found = net(log_mel.patches(samples, count, 96, 96)), net(exact)
        np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-4)
        np.testing.assert_allclose(found[1].numpy(), expected, atol=1e-4)
        assert (expected < 0).mean() > 0.2  # no ReLU behind them


@pytest.mark.parametrize("kind", ["random", "real"])
def test_the_quantiser_is_audiosets(test_data, tmp_path, kind):
    folder = test_data.parent / "reference"
    with np.load(folder / "vggish_pca_postprocess.npz") as arrays:
        inputs = arrays["embeddings" if kind == "random" else "real_pca_input"]
        expected = arrays[f"{kind}_pca_uint8"]
        np.savez(
            tmp_path / "pca.npz", pca_eigen_vectors=arrays["random_pca_matrix"], pca_means=arrays["random_pca_means"]
        )
    path = tmp_path / "pca.npz" if kind == "random" else folder / "vggish_pca_params.real.npz"
    found = vggish.quantised(torch.from_numpy(inputs), *vggish.load_pca(path))
    assert found.dtype == torch.float32
    # A number 1e-6 below a whole one is a level lower than one 1e-6 above.
    assert np.abs(found.numpy() - expected.astype(int)).max() <= 1
    assert (found.numpy() == expected).mean() > 0.99


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("plain", [True, False], ids=["numpy", "tensors"])
def test_torchvggishs_quantiser_reads_the_same(tmp_path, zipped, plain):
    matrix, means = np.random.default_rng(0).standard_normal((128, 128)), np.arange(128.0)
    np.savez(tmp_path / "pca.npz", pca_eigen_vectors=matrix, pca_means=means)
    arrays = {"pca_eigen_vectors": matrix, "pca_means": means[:, None]}
    if not plain:
        arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(arrays, tmp_path / "pca.pth", _use_new_zipfile_serialization=zipped)
    for one, other in zip(*(vggish.load_pca(tmp_path / name) for name in ("pca.npz", "pca.pth")), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FORMATS)
def test_every_publishers_file_reads_the_same(tmp_path, tensors, examples, name):
    expected = vggish.VggishNet([2, 2, 4, 4, 4, 4, 8, 8])
    expected.load_state_dict(tensors, assign=True)
    found = vggish.load(write(tmp_path / name, tensors))
    with torch.inference_mode():
        assert_near(found(examples), expected(examples))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_written_over_changes_nothing_that_runs(tmp_path, tensors, examples, name):
    net = vggish.load(write(tmp_path / name, tensors))
    with torch.inference_mode():
        expected = net(examples)
        (tmp_path / name).write_bytes(bytes((tmp_path / name).stat().st_size))
        assert_near(net(examples), expected)


def test_other_tensors_beside_them_do_not_matter(tmp_path, tensors):
    write(tmp_path / "whole_model.pth", tensors | {"pproc.pca_means": torch.zeros(128, 1)})
    vggish.load(tmp_path / "whole_model.pth")


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_or_misshapen_tensor_is_named(tmp_path, tensors, name):
    fewer = {key: tensor for key, tensor in tensors.items() if key != "embeddings.2.bias"}
    wrong = tensors | {"features.8.weight": torch.zeros(4, 3, 3, 3)}
    whole = tensors | {"features.8.weight": torch.zeros(4, 4, 3, 3, dtype=torch.int64)}
    if name == "google.npz":
        fewer |= {"embeddings.2.bias": torch.empty(0)}
    for bad, match in ((fewer, r"embeddings\.2|features\.8"), (wrong, r"features\.8"), (whole, r"features\.8")):
        with pytest.raises(ConfigError, match=rf"{name}: is not VGGish.*({match})"):
            vggish.load(write(tmp_path / name, bad))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_short_or_something_else_is_refused(tmp_path, tensors, name):
    path = write(tmp_path / name, tensors)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-1], b"", b"not weights " * 50):
        path.write_bytes(part)
        with pytest.raises(ConfigError, match=name):
            vggish.load(path)


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_no_pickle_is_executed(tmp_path, tensors, capsys):
    code = {**tensors, "more": Code()}
    torch.save(code, tmp_path / "zipped.pth")
    torch.save(code, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    np.savez(tmp_path / "objects.npz", pca_means=np.array([Code()]))
    for path in tmp_path.iterdir():
        for load in (vggish.load, vggish.load_pca):
            with pytest.raises(ConfigError, match=path.name):
                load(path)
    assert "executed" not in capsys.readouterr().out


def test_tensors_without_names_are_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("list.pt", "array.npz"):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read as tensors"):
            vggish.load(tmp_path / name)


def test_axes_of_another_number_are_refused(tmp_path, tensors):
    flat = tensorflow(tensors) | {"vggish/fc2/weights": np.zeros(1024, np.float32)}
    np.savez(tmp_path / "flat.npz", **flat)
    with pytest.raises(ConfigError, match=r"embeddings\.4\.weight is \(1024,\)"):
        vggish.load(tmp_path / "flat.npz")


def test_a_quantiser_of_another_shape_is_refused(tmp_path):
    square = np.eye(128)
    for name, arrays in {
        "means": {"pca_eigen_vectors": square},
        "shape": {"pca_eigen_vectors": square[:64], "pca_means": square[0]},
        "nan": {"pca_eigen_vectors": square, "pca_means": square[0] * np.nan},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ConfigError, match=rf"{name}\.npz.*pca_"):
            vggish.load_pca(tmp_path / f"{name}.npz")
