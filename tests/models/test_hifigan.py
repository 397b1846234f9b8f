"""The vocoder against the reference implementation, and files that are not one."""

import json
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmray.errors import ConfigError
from mmray.models import hifigan
from mmray.models.hifigan import HifiGan, HifiGanSettings
from mmray.models.tiny.auffusion import VOCODER, make_vocoder


@pytest.fixture(scope="module")
def reference(test_data):
    with np.load(test_data.parent / "reference" / "auffusion_mel_image_vocoder.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def folder(tmp_path):
    make_vocoder(tmp_path, np.random.RandomState(0))
    return tmp_path


def seeded(name, shape):
    """Draw a tensor as the reference run did."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("weight_g"):
        return torch.from_numpy(random.uniform(0.5, 1.5, shape).astype(np.float32))
    scale = 0.05 if name.endswith("bias") else 1.0
    return torch.from_numpy((random.standard_normal(shape) * scale).astype(np.float32))


def saved(folder):
    return torch.load(folder / "vocoder.pt", weights_only=True)["generator"]


def test_sound_is_the_references(reference, tmp_path):
    (tmp_path / "config.json").write_text(str(reference["vocoder_config"]))
    shapes = [tuple(json.loads(str(s).replace("(", "[").replace(",)", "]").replace(")", "]"))) for s in
              reference["vocoder_param_shapes"]]  # fmt: skip
    names = [str(name) for name in reference["vocoder_param_names"]]
    tensors = {name: seeded(name, shape) for name, shape in zip(names, shapes, strict=True)}
    torch.save({"generator": tensors}, tmp_path / "vocoder.pt")
    found = hifigan.load(tmp_path)(torch.from_numpy(reference["vocoder_in"]))
    np.testing.assert_allclose(found.numpy(), reference["vocoder_out"][:, 0], atol=1e-4)


@pytest.mark.parametrize("block", ["1", "2"])
@pytest.mark.parametrize(("steps", "kernels"), [((5, 4), (16, 16)), ((2, 2), (4, 5)), ((3,), (3,)), ((4, 1), (11, 3))])
def test_a_frame_gives_exactly_hop_samples(steps, kernels, block):
    settings = HifiGanSettings(4, 8, steps, kernels, (3, 5), ((1, 3), (1,)), block)
    net = HifiGan(settings).to_empty(device="cpu")
    for frames in (1, 2, 7):
        assert net(torch.zeros(2, 4, frames)).shape == (2, frames * settings.hop)


def test_weights_of_norm_and_direction_are_those_they_stand_for(folder):
    spectra = torch.randn(1, 256, 5, generator=torch.Generator().manual_seed(0))
    split = saved(folder)
    expected = hifigan.load(folder)(spectra)
    plain = {name: tensor for name, tensor in split.items() if name.endswith("bias")}
    newer = dict(plain)
    for name in [name for name in split if name.endswith("_g")]:
        layer = name.removesuffix("weight_g")
        g, v = split[name], split[f"{layer}weight_v"]
        plain[f"{layer}weight"] = g * torch.nn.functional.normalize(v.flatten(1)).view_as(v)
        newer |= {f"{layer}parametrizations.weight.original{place}": half for place, half in enumerate((g, v))}
    (folder / "vocoder.pt").unlink()
    for tensors in (plain, newer):
        save_file(tensors, folder / "vocoder.safetensors")
        torch.testing.assert_close(hifigan.load(folder)(spectra), expected, atol=1e-5, rtol=0)


def test_a_tensor_that_is_missing_misshapen_or_too_much_is_named(folder):
    whole = saved(folder)
    name = "ups.1.weight_v"
    cases = [
        ({key: tensor for key, tensor in whole.items() if key != "conv_post.bias"}, r"conv_post\.bias is missing"),
        ({key: tensor for key, tensor in whole.items() if key != name}, r"not of its config\.json: ups\.1\.weight_g"),
        (whole | {name: whole[name][:, :, :3]}, r"ups\.1\.weight is \(16, 8, 3\)"),
        (whole | {"conv_pre.bias": whole["conv_pre.bias"] * torch.nan}, r"conv_pre\.bias.*finite"),
        (whole | {"more": torch.zeros(1)}, "more first"),
    ]
    for tensors, match in cases:
        torch.save({"generator": tensors}, folder / "vocoder.pt")
        with pytest.raises(ConfigError, match=rf"vocoder\.pt.*{match}"):
            hifigan.load(folder)


def test_a_file_that_is_cut_short_or_missing_is_refused(folder):
    file = folder / "vocoder.pt"
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"no network" * 50):
        file.write_bytes(part)
        with pytest.raises(ConfigError, match=r"vocoder\.pt"):
            hifigan.load(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"vocoder\.pt or vocoder\.safetensors is missing"):
        hifigan.load(folder)


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_of_the_file_is_run(folder, capsys):
    torch.save({"generator": saved(folder), "optimizer": Code()}, folder / "vocoder.pt")
    with pytest.raises(ConfigError, match=r"vocoder\.pt: .*nothing of it was run"):
        hifigan.load(folder)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"upsample_rates": [5, 4]}, "upsample_kernel_sizes"),
        ({"upsample_rates": "all"}, "upsample_rates is 'all'"),
        ({"upsample_kernel_sizes": [16, 16, 8, 4, 1]}, "none smaller"),
        ({"resblock_kernel_sizes": [4, 5]}, "must be odd"),
        ({"resblock_dilation_sizes": [[1, 3], 3]}, "resblock_dilation_sizes"),
        ({"upsample_initial_channel": 48}, "cannot be halved 5 times"),
        ({"num_mels": "many"}, "num_mels"),
        ({"resblock": 3}, "resblock is '3'"),
    ],
)
def test_a_configuration_of_no_network_is_refused(folder, change, match):
    (folder / "config.json").write_text(json.dumps(VOCODER | change))
    with pytest.raises(ConfigError, match=rf"config\.json: {match}|config\.json: .*{match}"):
        hifigan.load(folder)
