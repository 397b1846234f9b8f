"""A trained network as a folder: it says the same when it comes back, and damage is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.fusion import network_files, networks
from mmray.fusion.encoders import ImageCnn, Mlp, SoundCnn
from mmray.fusion.examples import Batch
from mmray.fusion.network_files import InputFile, NetworkFile
from mmray.fusion.training import Network

ENCODERS = {"a": (6, Mlp(hidden=(8,))), "image": (64, ImageCnn(side_px=8, filters=(4,), width=8)),
            "sound": (900, SoundCnn(filters=(4, 4), width=8, n_mels=16))}  # fmt: skip


def made(fusion: str) -> tuple[networks.Fusion, NetworkFile]:
    torch.manual_seed(0)
    inputs = tuple(
        InputFile(**{"as": name}, extractor=f"{name}-0", pooling="mean", windows=None, dim=dim, encoder=encoder)
        for name, (dim, encoder) in ENCODERS.items()
    )
    settings = Network.model_validate({"fusion": fusion, "width": 8})
    about = NetworkFile(network=settings, inputs=inputs, classes=("no", "yes"), provenance={"key": "k", "fold": 0})
    network = networks.make(about.shapes, 2, settings)
    network.log_temperature.data.fill_(0.3)
    return network.eval(), about


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network, about = made("gated")
    network_files.save(network, str(tmp_path / "saved"), about)
    return tmp_path / "saved"


@pytest.mark.parametrize("fusion", ["early", "intermediate", "gated", "attention", "late"])
def test_a_network_comes_back_from_its_folder(tmp_path: Path, fusion: str) -> None:
    network, about = made(fusion)
    network_files.save(network, str(tmp_path), about)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    again, read = network_files.load(str(tmp_path))
    assert read == about
    random = torch.Generator().manual_seed(1)
    windows = {name: torch.randn(4, 2, dim, generator=random) for name, (dim, _) in ENCODERS.items()}
    there = {name: torch.ones(4, 2, dtype=torch.bool) for name in windows}
    one = Batch(windows, there, torch.zeros(4, dtype=torch.int64))
    assert not again.training
    torch.testing.assert_close(again(one), network(one), rtol=0, atol=0)


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = load_file(folder / "model.safetensors")
    change(found)
    save_file(found, folder / "model.safetensors")


def config(folder: Path, **keys: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | keys))


def test_a_damaged_folder_is_refused_with_the_name_of_what_is_wrong(folder: Path) -> None:
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    key = "encoders.a.network.0.weight"
    cases = [
        (lambda: (folder / "model.safetensors").unlink(), r"model\.safetensors: there is no such file"),
        (lambda: (folder / "config.json").unlink(), r"config\.json: there is no such file"),
        (lambda: (folder / "config.json").write_text("{"), r"config\.json: is not JSON"),
        (lambda: config(folder, format=9), r"config\.json: format: .* less than or equal to 1"),
        (lambda: config(folder, clases=[]), r"config\.json: unknown key 'clases'; did you mean 'classes'"),
        (lambda: config(folder, classes=["no", "yes", "?"]), r"tensor head.*bias is float32 \[2\], not float32 \[3\]"),
        (lambda: config(folder, inputs=[]), r"config\.json: inputs: "),
        (
            lambda: (folder / "model.safetensors").write_bytes(whole[folder / "model.safetensors"][:-9]),
            "is not a whole safetensors file",
        ),
        (lambda: tensors(folder, lambda found: found.pop(key)), f"tensor {key} of the gated network is missing"),
        (
            lambda: tensors(folder, lambda found: found.update(more=torch.ones(1))),
            "tensor more does not belong to a gated network",
        ),
        (lambda: tensors(folder, lambda found: found.update({key: found[key].half()})), f"tensor {key} is float16"),
        (
            lambda: tensors(folder, lambda found: found.update({key: found[key] * torch.nan})),
            f"tensor {key} has NaN or infinite numbers",
        ),
    ]
    for damage, words in cases:
        damage()
        with pytest.raises(ConfigError, match=words) as said:
            network_files.load(str(folder))
        assert str(folder) in str(said.value)
        for path, data in whole.items():
            path.write_bytes(data)
    network_files.load(str(folder))


def test_an_encoder_that_does_not_fit_its_input_is_named(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["inputs"][1]["dim"] = 63
    config(folder, inputs=about["inputs"])
    with pytest.raises(ConfigError, match=r"config\.json: image_cnn: .* the windows have 63"):
        network_files.load(str(folder))


def test_a_folder_that_is_being_written_anew_is_not_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network must never stand there with the key of an older one: a killed writer leaves no configuration."""
    network, about = made("gated")

    def killed(uri: str, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmray.storage.put", killed)
    with pytest.raises(KeyboardInterrupt):
        network_files.save(network, str(folder), about)
    assert not (folder / "config.json").exists()
