"""Pulling weights, against a server on this machine."""

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save

from mmray.errors import ConfigError, MmrayError
from mmray.models import catalogue, pull, weights
from mmray.models.catalogue import Model

CONTENT = b"network" * 1000
TENSORS = save({"w": np.zeros(3, np.float32)})


class Handler(BaseHTTPRequestHandler):
    seen: ClassVar = []

    def do_GET(self):
        self.seen.append(self.path)
        port = self.server.server_port
        hops = {
            "/away": f"http://127.1:{port}/back",  # this machine too, but by a name that does not say so
            "/back": f"http://127.0.0.1:{port}/net.onnx",
            "/moved": f"http://localhost:{port}/back",
            "/file": "file:///etc/hostname",
            "/ftp": f"ftp://127.0.0.1:{port}/net.onnx",
            "/relative": "/back",
            "/round": "/round",
        }
        if self.path in hops:
            self.send_response(302)
            self.send_header("Location", hops[self.path])
            self.end_headers()
            return
        found = self.path == "/net.onnx"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(CONTENT if found else b"")

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def catalogued(tmp_path, monkeypatch, server):
    """Put one model in the catalogue; the caller changes what it likes."""
    monkeypatch.setenv("MMRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(**changes):
        values = {"source": f"{server}/net.onnx", "file": "net.onnx", "size_bytes": 7000, "licence": "MIT"}
        values["sha256"] = hashlib.sha256(CONTENT).hexdigest()
        model = Model(name="net", **(values | changes))
        monkeypatch.setattr(catalogue, "models", lambda: (model,))
        return model

    return put


def leftovers(tmp_path):
    return [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_pulled_model_is_there_and_right(catalogued, tmp_path):
    catalogued()
    assert not pull.listing()[0]["present"]
    pull.pull(["net"])
    assert weights.resolve("net").path == tmp_path / "home" / "models" / "net" / "net.onnx"
    assert pull.listing()[0]["present"]
    assert pull.verify() == [("net", True, "sha256 is right")]


def test_a_second_pull_asks_nobody(catalogued):
    catalogued()
    first = pull.pull(["net"])
    catalogued(source="https://example.invalid/net.onnx")
    assert pull.pull(["net"]) == first


def test_a_model_can_be_pulled_into_a_shared_place(catalogued, tmp_path):
    catalogued()
    assert pull.pull(["net"], into="memory://pulled") == ["memory://pulled/net"]
    assert fsspec.filesystem("memory").cat_file("/pulled/net/net.onnx") == CONTENT
    assert weights.resolve("memory://pulled/net").path.read_bytes() == CONTENT
    pull.pull(["net"], into=str(tmp_path / "shared"))
    assert (tmp_path / "shared" / "net" / "net.onnx").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(catalogued, tmp_path):
    catalogued(sha256="0" * 64)
    with pytest.raises(MmrayError, match=r"sha256 of net\.onnx.*nothing was kept"):
        pull.pull(["net"])
    assert leftovers(tmp_path) == []


def test_a_download_that_is_too_long_is_stopped(catalogued, tmp_path):
    catalogued(size_bytes=1000)
    with pytest.raises(MmrayError, match="more than 2,000 bytes"):
        pull.pull(["net"])
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("source", ["http://example.invalid/net.onnx", "file:///net.onnx", "ftp://example.invalid/net"])
def test_only_https_is_taken(catalogued, source):
    catalogued(source=source)
    with pytest.raises(MmrayError, match="https only"):
        pull.pull(["net"])


@pytest.mark.parametrize("path", ["moved", "relative"])
def test_redirects_are_followed(catalogued, server, path):
    catalogued(source=f"{server}/{path}")
    (place,) = pull.pull(["net"])
    assert Path(place, "net.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["away", "ftp"])
def test_a_redirect_that_leaves_https_is_not_followed_even_if_it_comes_back(catalogued, server, tmp_path, path):
    catalogued(source=f"{server}/{path}")
    Handler.seen.clear()
    with pytest.raises(MmrayError, match="https only"):
        pull.pull(["net"])
    assert Handler.seen == [f"/{path}"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("path", ["absent", "file", "round"])
def test_a_failing_download_says_what_to_do(catalogued, server, path):
    catalogued(source=f"{server}/{path}")
    with pytest.raises(MmrayError, match=r"(?s)cannot be downloaded.*copy the files over"):
        pull.pull(["net"])


def test_an_unknown_name_is_refused(catalogued):
    catalogued()
    with pytest.raises(ConfigError, match=r"nett.*did you mean 'net'"):
        pull.pull(["nett"])


def test_a_damaged_file_is_found(catalogued):
    catalogued()
    (place,) = pull.pull(["net"])
    Path(place, "net.onnx").write_bytes(CONTENT + b"!")
    ((name, fine, detail),) = pull.verify()
    assert (name, fine) == ("net", False)
    assert "sha256" in detail


def fake_snapshot(files, source, revision, local_dir, **patterns):
    assert revision in ("a" * 40, None, "refs/pr/7")
    (local_dir / ".cache").mkdir()
    for name in files if revision else ["config.json"]:  # the main branch holds a pickle, which is not asked for
        (local_dir / name).write_bytes(TENSORS if name.endswith(".safetensors") else b"content")


def test_the_hub_gives_the_pinned_revision_without_pickles(catalogued, monkeypatch):
    catalogued(source="some/net", revision="a" * 40, sha256=None, file="model.safetensors")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", partial(fake_snapshot, ["model.safetensors", "config.json"])
    )
    pull.pull(["net"])
    found = weights.resolve("some/net").path
    assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors"]
    assert pull.verify() == [("net", True, "here; no sha256 is known for it")]


def test_of_a_pipeline_only_what_loading_reads_is_fetched(catalogued, monkeypatch):
    """The hub's folders of diffusers hold all weights several times over."""
    offered = [
        "model_index.json", "tokenizer/merges.txt", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin", "text_encoder/model.safetensors", "v1-5-pruned.safetensors",
    ]  # fmt: skip

    def snapshot(source, revision, local_dir, allow_patterns, ignore_patterns):
        for name in filter_repo_objects(offered, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (local_dir / name).parent.mkdir(exist_ok=True)
            (local_dir / name).write_bytes(TENSORS if name.endswith(".safetensors") else b"{}")

    catalogued(source="some/net", revision="a" * 40, sha256=None, file="unet/diffusion_pytorch_model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (place,) = pull.pull(["net"])
    found = {path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file()}
    assert found == {*offered[:4], "text_encoder/model.safetensors"}
    assert weights.resolve("net").path == Path(place)


def test_what_the_hub_has_in_another_folder_is_put_in_its_place(catalogued, monkeypatch):
    def download(source, name, revision, local_dir):
        assert (source, revision) == ("some/net", "a" * 40)
        (local_dir / name).parent.mkdir(exist_ok=True)
        (local_dir / name).write_bytes(name.encode())
        return str(local_dir / name)

    files = {"vocab_mini.json": "bart/vocab.json", "detoker.pt": "vqgan/detoker.pt"}
    catalogued(source="some/net", revision="a" * 40, sha256=None, file="vqgan/detoker.pt", files=files)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (place,) = pull.pull(["net"])
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}
    assert found == {"bart/vocab.json": b"vocab_mini.json", "vqgan/detoker.pt": b"detoker.pt"}
    assert weights.resolve("net").path == Path(place)


def test_a_wrong_checksum_from_the_hub_keeps_nothing(catalogued, monkeypatch, tmp_path):
    catalogued(source="some/net", revision="a" * 40, sha256="0" * 64, file="model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", partial(fake_snapshot, ["model.safetensors"]))
    with pytest.raises(
        MmrayError, match=rf"model\.safetensors is {hashlib.sha256(TENSORS).hexdigest()}.*0000; nothing"
    ):
        pull.pull(["net"])
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("author", [pull.CONVERTER, "somebody"])
def test_a_main_branch_of_pickles_is_read_from_the_hubs_own_conversion(catalogued, monkeypatch, author):
    catalogued(source="some/net", sha256=None, file="model.safetensors")
    request = SimpleNamespace(author=author, title=pull.CONVERSION, git_reference="refs/pr/7")
    monkeypatch.setattr("huggingface_hub.HfApi.get_repo_discussions", lambda *words, **names: iter([request]))
    monkeypatch.setattr("huggingface_hub.snapshot_download", partial(fake_snapshot, ["model.safetensors"]))
    if author == pull.CONVERTER:
        (place,) = pull.pull(["net"])
        assert Path(place, "model.safetensors").read_bytes() == TENSORS
    else:
        with pytest.raises(MmrayError, match="no safetensors"):
            pull.pull(["net"])


def test_a_revision_without_safetensors_is_refused(catalogued, monkeypatch, tmp_path):
    catalogued(source="some/net", revision="a" * 40, sha256=None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", partial(fake_snapshot, ["config.json"]))
    with pytest.raises(MmrayError, match="no safetensors"):
        pull.pull(["net"])
    assert leftovers(tmp_path) == []


def test_a_hub_that_cannot_be_reached_is_said(catalogued, monkeypatch):
    catalogued(source="some/net", revision="a" * 40, sha256=None)

    def offline(*words, **names):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(MmrayError, match=r"hub: no network.*copy the files over"):
        pull.pull(["net"])
