"""Names, paths and URLs to checkpoints; what identifies them."""

import json
import os
import subprocess
import sys

import pytest

from mmray.errors import ConfigError
from mmray.models import digest, weights


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def hf_folder(folder, content=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_the_catalogue_names_licence_and_source_of_every_model():
    names = [model.name for model in weights.catalogue()]
    assert len(set(names)) == len(names)
    assert {"yamnet", "yolox_nano", "sentence-transformers/all-MiniLM-L6-v2", "openai/clip-vit-base-patch32"} <= set(
        names
    )
    for model in weights.catalogue():
        assert model.licence != "unknown"
        assert model.on_hub or model.source.startswith("https://")
        assert model.revision if model.on_hub else model.sha256


def test_the_catalogue_is_light():
    heavy = "{'torch', 'transformers', 'h5py', 'huggingface_hub'}"
    code = f"import sys, mmray.models.weights as w; w.catalogue(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_file_is_known_by_its_content_not_its_place(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"network")
    one, other = (weights.resolve(str(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
    assert one.path == tmp_path / "a.onnx"
    assert one.fingerprint == other.fingerprint == digest.sha256(tmp_path / "a.onnx")
    assert not one.random


def test_a_folder_is_known_by_what_loading_reads(tmp_path):
    folder = hf_folder(tmp_path / "one")
    before = weights.resolve(str(folder)).fingerprint
    (folder / "README.md").write_text("words")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    assert weights.resolve(str(folder)).fingerprint == before
    assert weights.resolve(str(hf_folder(tmp_path / "other"))).fingerprint == before
    (folder / "config.json").write_text('{"changed": 1}')
    assert weights.resolve(str(folder)).fingerprint != before


def test_a_changed_file_is_noticed(tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"one")
    before = weights.resolve(str(file)).fingerprint
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert weights.resolve(str(file)).fingerprint != before


def test_a_digest_is_computed_once(tmp_path, home, monkeypatch):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"one")
    weights.resolve(str(file))
    assert json.loads((home / "sha256.json").read_text())
    monkeypatch.setattr(digest, "sha256", lambda path: pytest.fail("read again"))
    weights.resolve(str(file))


def test_a_broken_or_forbidden_memory_of_digests_is_no_obstacle(tmp_path, home, monkeypatch):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"one")
    home.mkdir()
    (home / "sha256.json").write_text('{"half')
    expected = weights.resolve(str(file)).fingerprint
    monkeypatch.setenv("MMRAY_HOME", str(file / "no folder"))
    assert weights.resolve(str(file)).fingerprint == expected


def test_a_pulled_model_is_found_by_name(home):
    folder = hf_folder(home / "models" / "openai--clip-vit-base-patch32")
    assert weights.resolve("openai/clip-vit-base-patch32").path == folder
    (home / "models" / "yamnet").mkdir()
    (home / "models" / "yamnet" / "yamnet.h5").write_bytes(b"h5")
    assert weights.resolve("yamnet").path.name == "yamnet.h5"


def test_a_name_of_the_catalogue_never_means_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hf_folder(tmp_path / "yamnet")
    with pytest.raises(ConfigError, match="mmray models pull yamnet"):
        weights.resolve("yamnet")
    assert weights.resolve("./yamnet").path.name == "yamnet"


def test_the_hub_cache_is_used_offline(tmp_path):
    repository = tmp_path / "hub" / "models--some--model"
    folder = hf_folder(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    code = "import sys; from mmray.models import weights; print(weights.resolve('some/model').path)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder)


def test_absent_weights_say_what_to_do():
    with pytest.raises(ConfigError, match=r"mmray models pull openai/clip-vit-base-patch32.*path.*make-tiny"):
        weights.resolve("openai/clip-vit-base-patch32")
    with pytest.raises(ConfigError, match=r"yolox_nan: no such file.*did you mean 'yolox_nano'"):
        weights.resolve("yolox_nan")
    with pytest.raises(ConfigError, match=r"\./nowhere/net\.onnx: no such file"):
        weights.resolve("./nowhere/net.onnx")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="pickle"):
        weights.resolve(str(tmp_path / name))
    with pytest.raises(ConfigError, match="pickles only"):
        weights.resolve(str(tmp_path))


def test_a_folder_without_a_checkpoint_or_with_two_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="none"):
        weights.resolve(str(tmp_path))
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.onnx, b\.onnx"):
        weights.resolve(str(tmp_path))


def test_a_url_is_fetched_once_and_again_when_it_changes(tmp_path):
    folder = hf_folder(tmp_path / "shared" / "clip", b"one")
    url = f"local://{folder}"  # local://: by way of fsspec, as s3:// would be
    first = weights.resolve(url)
    assert (first.path / "model.safetensors").read_bytes() == b"one"
    assert weights.resolve(url).path == first.path
    (folder / "model.safetensors").write_bytes(b"two")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = weights.resolve(url)
    assert (second.path / "model.safetensors").read_bytes() == b"two"
    assert second.fingerprint != first.fingerprint


def test_one_file_can_be_fetched(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"net")
    assert weights.resolve(f"local://{tmp_path}/net.onnx").path.read_bytes() == b"net"
    with pytest.raises(ConfigError, match="no such checkpoint"):
        weights.resolve(f"local://{tmp_path}/absent.onnx")
