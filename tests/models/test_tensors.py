"""Tensors by name out of every kind of file: the same from each, and nothing but a ConfigError from a damaged one."""

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from safetensors.torch import save_file

from mmray.errors import ConfigError
from mmray.models import tensors
from tests.models.test_pickled import damaged

KINDS = ["a.npz", "small.npz", "a.safetensors", "a.pt", "old.pth"]


def write(path, given):
    match path.name:
        case "a.npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in given.items()})
        case "small.npz":
            np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in given.items()})
        case "a.safetensors":
            save_file(given, path)
        case _:
            torch.save(given, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


@pytest.fixture(scope="module")
def given():
    random = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(4, 3, 2, generator=random),
        "layer/bias": torch.randn(4, generator=random).double(),
        "half": torch.randn(5, generator=random).half(),
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same(tmp_path, given, kind):
    path = write(tmp_path / kind, given)
    found = tensors.read(path)
    path.write_bytes(bytes(path.stat().st_size))  # what was read does not hang on the file
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Reading `.npy`")  # of headers that are damaged
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_kind_is_a_config_error_that_names_the_file(tmp_path, given, kind):
    random = np.random.default_rng(3)
    path = write(tmp_path / kind, given)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        path.write_bytes(damaged(whole, random))
        try:
            tensors.read(path)
        except ConfigError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_what_is_not_asked_for_is_not_inflated(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", w=np.ones(3), other=np.zeros(10**8, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 200_000
    tracemalloc.start()
    try:
        found = tensors.read(tmp_path / "bomb.npz", {"w"})
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(found) == ["w"]
    assert peak_bytes < 10**6


def test_more_than_any_network_has_is_not_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", v=np.zeros(100), w=np.zeros(100))
    monkeypatch.setattr(tensors, "ARRAY_BYTES", 1600)
    assert len(tensors.read(tmp_path / "bomb.npz")) == 2
    monkeypatch.setattr(tensors, "ARRAY_BYTES", 1599)
    monkeypatch.setattr(npy, "read_array", lambda *words, **names: torch.zeros(0).numpy())
    with pytest.raises(ConfigError, match=r"bomb\.npz: .*'w': with it the arrays have more than 1,599 bytes"):
        tensors.read(tmp_path / "bomb.npz")


def part(shape=(2,), descr="<f4", numbers=8, version=(1, 0)):
    """Return the bytes of an array whose header tells what one likes."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return npy.magic(*version) + len(header).to_bytes(2 if version == (1, 0) else 4, "little") + header + bytes(numbers)


LIES = {
    "long": part(shape=(3,)),
    "longest": part(shape=(2**40, 2**40)),
    "short": part(shape=(1,)),
    "negative": part(shape=(-2, -1)),
    "no shape": part(shape=("a",)),
    "objects": part(descr="|O", numbers=16),
    "words": part(descr="<U2", numbers=16),
    "columns": part(descr=[("a", "<f4")]),
    "big-endian": part(descr=">f4"),
    "later version": part(version=(2, 0)),
    "long header": npy.magic(1, 0) + b"\xff\xff" + b"(" * 65535,
    "no header": npy.magic(1, 0) + b"\x02\x00{\n",
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_an_array_that_is_none_is_named(tmp_path, lie):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("w.npy", LIES[lie])
    with pytest.raises(ConfigError, match=r"a\.npz: cannot be read as tensors: 'w': "):
        tensors.read(tmp_path / "a.npz", {"w"})
    assert tensors.read(tmp_path / "a.npz", {"v"}) == {}


def test_a_compressed_torch_file_is_refused(tmp_path, given):
    write(tmp_path / "a.pt", given)
    with zipfile.ZipFile(tmp_path / "a.pt") as file, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as packed:
        for name in file.namelist():
            packed.writestr(name, file.read(name))
    with pytest.raises(ConfigError, match=r"b\.pt: .* is compressed"):
        tensors.read(tmp_path / "b.pt")


def test_a_file_that_is_not_there_is_named(tmp_path):
    for kind in KINDS:
        with pytest.raises(ConfigError, match=kind):
            tensors.read(tmp_path / kind)
