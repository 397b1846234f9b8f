"""Names, paths and URLs to checkpoints; what identifies them."""

import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.numpy import save

from mmray import storage
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.models import catalogue, digest, pull, weights
from mmray.models.catalogue import Model

GENERATORS = {"image", "dalle_mini", "audio", "caption", "spectrogram"}
LICENCES = {
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "GPL-3.0",
    "CC-BY-NC-4.0",
    "CreativeML OpenRAIL-M",
    "CreativeML Open RAIL++-M",
    "CC-BY-NC-SA-4.0",
    "sai-nc-community",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def tensors(value=0.0):
    """Return the bytes of a safetensors file with two tensors: 88 + 12 + 80 bytes and more of header."""
    return save({"first": np.full(3, value, np.float32), "last": np.full((4, 5), value, np.float32)})


def hf_folder(folder, value=0.0):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(tensors(value))
    return folder


@pytest.fixture
def pinned(monkeypatch):
    """Put one model in the catalogue, whose file must have the digest of these bytes."""

    def put(content, name="some/net", file="model.safetensors"):
        model = Model(name=name, source="some/net", file=file, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(catalogue, "models", lambda: (model,))
        return model

    return put


def test_the_catalogue_is_complete():
    names = [model.name for model in catalogue.models()]
    assert len(set(names)) == len(names)
    for model in catalogue.models():
        about = model.name
        assert model.licence in LICENCES, about
        assert model.non_commercial == ("-nc-" in model.licence.lower()), about
        assert model.size_bytes and model.output and model.file, about
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision or "0" * 40), about
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256 or "0" * 64), about
        assert model.extractor in registry.BUILT_IN or model.generator in GENERATORS, about
        assert not (model.extractor and model.generator), about
        if "://" in model.source:
            assert model.source.startswith("https://"), about
            assert model.revision is None, about


def test_what_the_extractors_take_by_default_is_in_the_catalogue():
    for name in registry.BUILT_IN:
        kind = registry.get(name)
        for field in [kind.checkpoint, *kind.companions] if kind.checkpoint else kind.companions:
            default = kind.model_fields[field].default
            if default is not None:
                assert catalogue.find(default), f"{name}.{field}: {default}"
                assert catalogue.find(default).extractor == name or field != kind.checkpoint


def test_other_contents_than_the_catalogue_pins_are_refused(home, pinned):
    pinned(tensors(1))
    file = hf_folder(home / "models" / "some--net", 1) / "model.safetensors"
    assert weights.resolve("some/net").path == file.parent
    file.write_bytes(tensors(2))
    found, wanted = (hashlib.sha256(tensors(value)).hexdigest() for value in (2, 1))
    with pytest.raises(ConfigError, match=rf"{file} is {found}, and should be {wanted}.*mmray models pull some/net"):
        weights.resolve("some/net")
    assert weights.whole("some/net") == file.parent
    assert weights.resolve(str(file.parent)).path == file.parent  # named by its path, it is whatever it is


def test_a_pinned_file_that_is_missing_is_named(home, pinned):
    pinned(b"", file="other.safetensors")
    hf_folder(home / "models" / "some--net")
    with pytest.raises(ConfigError, match=r"some--net/other\.safetensors: is missing"):
        weights.resolve("some/net")


def test_random_weights_may_stand_for_pinned_ones(home, pinned):
    pinned(tensors(1))
    folder = hf_folder(home / "models" / "some--net", 2)
    (folder / digest.MARKER).write_text('{"seed": 3}')
    assert weights.resolve("some/net").fingerprint == "random:3"


@pytest.mark.parametrize("lost", [1, 80, 85])
def test_a_file_cut_short_is_named_with_its_tensor(tmp_path, lost):
    folder = hf_folder(tmp_path / "net")
    file = folder / "model.safetensors"
    file.write_bytes(tensors()[:-lost])
    for name in (folder, file):
        with pytest.raises(ConfigError, match=rf"{file}: is cut short: {lost} bytes are missing, of 'last'.*copy"):
            weights.resolve(str(name))


def header(about):
    text = json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text


LIES = {
    b"": "is empty",
    b"\x01": "is not a safetensors file",
    b"\xff" * 8 + b"{}": "its header is longer than the file",
    b"version https://git-lfs.github.com/spec/v1": "its header is longer than the file",
    header([]): "is not a safetensors file",
    header({"w": {}}): "is not a safetensors file",
    header({"w": {"dtype": "F32", "shape": [2], "data_offsets": ["0", None]}}): "is not a safetensors file",
    header({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}) + b"8" * 8: r"'w' of shape \[9\] in 8 bytes",
    header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}) + b"8" * 8: r"'w' of shape \[2\] in -8 bytes",
}


@pytest.mark.parametrize(("content", "said"), LIES.items())
def test_a_file_that_is_none_is_named(tmp_path, content, said):
    folder = hf_folder(tmp_path / "net")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{folder}/model\.safetensors: .*{said}"):
        weights.resolve(str(folder))


def test_the_catalogue_is_light():
    heavy = "{'torch', 'transformers', 'h5py', 'huggingface_hub'}"
    code = f"import sys, mmray.models.weights as w; w.catalogue.models(); print({heavy} & set(sys.modules))"
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
    (home / "models" / "yolov7").mkdir()
    (home / "models" / "yolov7" / "yolov7.pt").write_bytes(b"network")
    assert weights.resolve("yolov7", frozenset({".pt"})).path.name == "yolov7.pt"


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


PATHS = ["./nosuch.h5", "../x", "x/..", "x/.h5", "a--b/c", "a/b..c", "a/b/c", "/a/b", "a/b/", "a/b.", "-a/b", "ä/b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_to_nothing_is_no_id_of_the_hub(name):
    assert catalogue.named(name) is None
    for ask in (weights.resolve, weights.whole, lambda name: pull.pull([name])):
        with pytest.raises(ConfigError, match=rf"^{re.escape(name)}: no such file, folder or known model"):
            ask(name)


@pytest.mark.parametrize("name", [*PATHS, "openai/clip-vit-base-patch32", "01-ai/Yi_1.5", "a/b.git", f"a/{'b' * 97}"])
def test_what_counts_as_an_id_the_hub_takes_too(name):
    try:
        validate_repo_id(name)
    except HFValidationError:
        assert catalogue.named(name) is None
    else:
        assert catalogue.named(name) is not None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="pickle"):
        weights.resolve(str(tmp_path / name))
    with pytest.raises(ConfigError, match="pickles only"):
        weights.resolve(str(tmp_path))


def test_a_folder_of_ctranslate2_is_no_pickle(tmp_path):
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_bytes(b"\x06\0\0\0" + b"\x0c\0" + b"WhisperSpec\0" + b"tensors")
    found = weights.resolve(str(folder))
    assert found.path == folder
    url = weights.resolve(f"local://{folder}")
    assert url.fingerprint == found.fingerprint
    with (folder / "model.bin").open("ab") as file:
        file.write(b"!")
    assert weights.resolve(str(folder)).fingerprint != found.fingerprint
    for content in (b"", b"\x80\x04\x95pickle", b"PK\x03\x04 of torch.save"):
        (folder / "model.bin").write_bytes(content)
        with pytest.raises(ConfigError, match="pickles only"):
            weights.resolve(str(folder))


def test_a_folder_without_a_checkpoint_or_with_two_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="none"):
        weights.resolve(str(tmp_path))
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.onnx, b\.onnx"):
        weights.resolve(str(tmp_path))


def test_a_url_is_fetched_once_and_again_when_it_changes(tmp_path):
    folder = hf_folder(tmp_path / "shared" / "clip", 1)
    url = f"local://{folder}"  # local://: by way of fsspec, as s3:// would be
    first = weights.resolve(url)
    assert (first.path / "model.safetensors").read_bytes() == tensors(1)
    assert weights.resolve(url).path == first.path
    (folder / "model.safetensors").write_bytes(tensors(2))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = weights.resolve(url)
    assert (second.path / "model.safetensors").read_bytes() == tensors(2)
    assert second.fingerprint != first.fingerprint


def test_one_file_can_be_fetched(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"net")
    assert weights.resolve(f"local://{tmp_path}/net.onnx").path.read_bytes() == b"net"
    with pytest.raises(ConfigError, match="no such checkpoint"):
        weights.resolve(f"local://{tmp_path}/absent.onnx")


def test_a_file_from_a_url_that_cannot_be_read_is_refused_before_it_is_copied(tmp_path, home):
    for name, what in (("net.pt", "a pickle"), ("net", "of no known kind"), ("config.json", "of no known kind")):
        (tmp_path / name).write_bytes(b"net")
        with pytest.raises(ConfigError, match=rf"local://{tmp_path}/{name}: is {what}.*give a \.h5"):
            weights.resolve(f"local://{tmp_path}/{name}")
    assert weights.resolve(f"local://{tmp_path}/net.pt", frozenset({".pt"})).path.read_bytes() == b"net"
    assert not list(home.rglob("*.json"))[1:]  # sha256.json alone


def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, home, monkeypatch):
    folder = hf_folder(tmp_path / "shared")
    entries = [storage.Entry(f"local://{folder}/{name}", 1, "x") for name in ("a.onnx", "b/../../../evil.onnx")]
    monkeypatch.setattr(storage, "files", lambda url: entries)
    with pytest.raises(ConfigError, match=rf"local://{folder}: 'b/\.\./\.\./\.\./evil\.onnx' would be copied out"):
        weights.resolve(f"local://{folder}")
    assert not home.exists()
