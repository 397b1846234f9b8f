"""The network against the original's outputs on seeded weights, in every form its files come in."""

import ast
import zlib

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mmray.errors import ConfigError
from mmray.models import boxes, yolov7_file
from mmray.models.tiny import make_tiny
from mmray.models.yolov7 import EPSILON, YoloV7, decoded, grids
from tests.near import assert_near

NETWORKS = ["yolov7_deploy", "yolov7_training", "yolov7_tiny_deploy", "yolov7_tiny_training"]
LEVELS = (3, 4, 5)


@pytest.fixture(scope="module")
def forward(test_data):
    with np.load(test_data.parent / "reference" / "yolov7_forward_seeded.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def pre_post(test_data):
    with np.load(test_data.parent / "reference" / "yolov7_pre_post.npz") as arrays:
        return dict(arrays)


def drawn(name, shape):
    """Return the values of a tensor as the reference's README says."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return random.standard_normal(shape) * 0.1
    if "implicit" in name:
        return random.standard_normal(shape) * 0.02 + (".im." in name)
    if len(shape) == 1:
        return random.uniform(0.5, 1.5, shape) if name.endswith("weight") else random.standard_normal(shape) * 0.1
    return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))


def seeded(forward, network):
    """Return every tensor of the original's state dictionary."""
    names, shapes = forward[f"{network}__param_names"], forward[f"{network}__param_shapes"]
    found = {}
    for name, shape in zip(map(str, names), map(ast.literal_eval, shapes), strict=True):
        if name.endswith("num_batches_tracked"):
            found[name] = np.zeros(shape, np.int64)
        elif "anchor" in name:
            anchors_px = np.array(boxes.ANCHORS_PX["yolov7_tiny" if "tiny" in network else "yolov7"], np.float32)
            strides = np.array(boxes.STRIDES).reshape(3, 1, 1) if name.endswith("anchors") else 1
            found[name] = np.ascontiguousarray((anchors_px / strides).reshape(shape), np.float32)
        else:
            found[name] = drawn(name, shape).astype(np.float32)
    return found


def loaded(tensors, path):
    """Save as safetensors, and load."""
    save_file(tensors, path)
    return YoloV7(yolov7_file.look(str(path)))


@torch.inference_mode()
def outputs(net, pictures):
    pictures = torch.from_numpy(pictures)
    return [raw.numpy() for raw in net.raw(pictures)], net(pictures).numpy()


def fused(tensors):
    """Fold batch normalisation in, as the original's files for deployment have it."""
    found = {name: array for name, array in tensors.items() if ".bn." not in name}
    for norm in {name.rpartition(".")[0] for name in tensors if name.endswith(".bn.weight")}:
        conv = norm.removesuffix("bn") + "conv"
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + EPSILON)
        found[f"{conv}.weight"] = tensors[f"{conv}.weight"] * scale[:, None, None, None]
        found[f"{conv}.bias"] = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return found


def reparametrised(tensors):
    """Add up the branches of RepConv in torch, as the original's files for deployment have it."""
    found = {name: array for name, array in tensors.items() if ".rbr_" not in name}
    for name in {name.partition(".rbr_")[0] for name in tensors if ".rbr_" in name}:
        parts = []
        for branch in ("rbr_dense", "rbr_1x1"):
            part = {key.rpartition(".")[2]: value for key, value in tensors.items() if f"{name}.{branch}.1." in key}
            scale = part["weight"] / np.sqrt(part["running_var"] + EPSILON)
            weight = tensors[f"{name}.{branch}.0.weight"] * scale[:, None, None, None]
            pad = (3 - weight.shape[-1]) // 2
            parts.append((np.pad(weight, [(0, 0), (0, 0), (pad, pad), (pad, pad)]), part, scale))
        found[f"{name}.rbr_reparam.weight"] = sum(weight for weight, _, _ in parts)
        found[f"{name}.rbr_reparam.bias"] = sum(p["bias"] - p["running_mean"] * scale for _, p, scale in parts)
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_the_outputs_are_the_originals(forward, network, tmp_path):
    maps, rows = outputs(loaded(seeded(forward, network), tmp_path / "a.safetensors"), forward["input_rgb01"])
    for level, raw in zip(LEVELS, maps, strict=True):
        expected = forward[f"{network}__raw_p{level}"]
        raw = raw.reshape(1, 3, 85, *raw.shape[2:]).transpose(0, 1, 3, 4, 2)
        assert np.abs(raw - expected).max() < 1e-5 * np.abs(expected).max()
    expected = forward[f"{network}__decoded"]
    assert np.abs(rows - expected).max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(rows[..., 4:], expected[..., 4:], atol=2e-5)


@pytest.mark.parametrize("network", ["yolov7_deploy", "yolov7_tiny_training"])
def test_a_folded_file_gives_the_same(forward, network, tmp_path):
    tensors = seeded(forward, network)
    _, rows = outputs(loaded(tensors, tmp_path / "a.safetensors"), forward["input_rgb01"])
    folded = reparametrised(fused(tensors))
    assert not any(".bn." in name or ".rbr_dense" in name for name in folded)
    _, found = outputs(loaded(folded, tmp_path / "b.safetensors"), forward["input_rgb01"])
    assert np.abs(found - rows).max() < 1e-5 * np.abs(rows).max()


def test_a_saved_state_dictionary_gives_the_same(forward, tmp_path):
    tensors = seeded(forward, "yolov7_tiny_training")
    _, rows = outputs(loaded(tensors, tmp_path / "a.safetensors"), forward["input_rgb01"])
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, tmp_path / "a.pt")
    _, found = outputs(YoloV7(yolov7_file.look(str(tmp_path / "a.pt"))), forward["input_rgb01"])
    assert_near(found, rows)


def test_a_branch_that_hands_its_input_on_is_added(forward, tmp_path):
    """RepConv has a third branch where it keeps the width; here the first of yolov7's is made such a one."""
    tensors = seeded(forward, "yolov7_deploy")
    wide = {
        "model.102.rbr_dense.0.weight": (128, 128, 3, 3), "model.102.rbr_1x1.0.weight": (128, 128, 1, 1),
        "model.105.m.0.weight": (255, 128, 1, 1),
    }  # fmt: skip
    norms = [f"model.102.{branch}.{part}" for branch in ("rbr_dense.1", "rbr_1x1.1", "rbr_identity") for part in
             ("weight", "bias", "running_mean", "running_var")]  # fmt: skip
    tensors |= {name: drawn(name, shape).astype(np.float32) for name, shape in wide.items()}
    tensors |= {name: drawn(name, (128,)).astype(np.float32) for name in norms}
    net = loaded(tensors, tmp_path / "a.safetensors")
    x = torch.randn(1, 128, 5, 5)
    convolution = net.parts[102][0]
    with torch.inference_mode():
        added = 0
        for branch in ("rbr_dense", "rbr_1x1", "rbr_identity"):
            name, y = f"model.102.{branch}", x
            if branch != "rbr_identity":
                weight = torch.from_numpy(tensors[f"{name}.0.weight"])
                name, y = f"{name}.1", torch.nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
            names = ("running_mean", "running_var", "weight", "bias")
            norm = [torch.from_numpy(tensors[f"{name}.{part}"]) for part in names]
            added += torch.nn.functional.batch_norm(y, *norm, eps=EPSILON)
        torch.testing.assert_close(convolution(x), added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["yolov7", "yolov7_tiny"])
def test_decoding_is_the_originals(pre_post, network):
    maps = [torch.from_numpy(pre_post[f"decode__{network}__raw_p{level}"]) for level in LEVELS]
    anchors_px = torch.from_numpy(pre_post[f"decode__{network}__anchor_grid"])
    rows = decoded(maps, grids(maps, anchors_px)).numpy()
    np.testing.assert_allclose(rows, pre_post[f"decode__{network}__decoded"], rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("picture", [0, 1])
def test_suppression_is_the_originals(pre_post, picture):
    expected = pre_post[f"nms__default_c25_i45__b{picture}"]
    found, scores, classes = boxes.suppressed(pre_post["nms__prediction"][picture], 0.25, 0.45, 300)
    np.testing.assert_allclose(found, expected[:, :4], atol=1e-3)
    np.testing.assert_allclose(scores, expected[:, 4], atol=1e-6)
    np.testing.assert_array_equal(classes, expected[:, 5])


def test_a_files_own_anchors_count(forward, tmp_path):
    tensors = seeded(forward, "yolov7_tiny_deploy")
    _, rows = outputs(loaded(tensors, tmp_path / "a.safetensors"), forward["input_rgb01"])
    tensors["model.77.anchor_grid"] = tensors["model.77.anchor_grid"] * 2
    _, doubled = outputs(loaded(tensors, tmp_path / "b.safetensors"), forward["input_rgb01"])
    assert_near(doubled[..., 2:4], 2 * rows[..., 2:4])
    del tensors["model.77.anchor_grid"]
    _, usual = outputs(loaded(tensors, tmp_path / "c.safetensors"), forward["input_rgb01"])
    assert_near(usual, rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, names=["yolov7"])
    return str(folder / "yolov7" / "yolov7-tiny.pt")


def test_a_release_tells_what_it_is(tiny):
    found = yolov7_file.look(tiny)
    assert (found.architecture, found.classes, found.names[16]) == ("yolov7_tiny", 80, "dog")


@pytest.mark.parametrize("count", [1, 7])
def test_the_head_says_how_many_classes_there_are(tiny, tmp_path, count):
    tensors = yolov7_file.look(tiny).arrays()
    outs = 3 * (5 + count)
    for name in [name for name in tensors if ".m." in name]:
        tensors[name] = np.ascontiguousarray(tensors[name][:outs])
    save_file(tensors, tmp_path / "a.safetensors")
    found = yolov7_file.look(str(tmp_path / "a.safetensors"))
    assert (found.classes, found.names) == (count, ())
    assert YoloV7(found)(torch.zeros(1, 3, 64, 64)).shape == (1, 3 * 84, 5 + count)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda t: t.pop("model.23.conv.weight"), r"model\.23\.conv\.weight is missing"),
        (lambda t: t.pop("model.23.bn.running_var"), r"model\.23\.bn\.running_var is missing"),
        (lambda t: t.update({"model.3.conv.weight": t["model.3.conv.weight"][:, :2]}), r"model\.3\.conv\.weight has"),
        (lambda t: t.update({"model.3.bn.bias": t["model.3.bn.bias"][:2]}), r"model\.3\.bn\.bias has the shape"),
        (lambda t: t.update({"model.77.m.1.bias": t["model.77.m.1.bias"][:2]}), r"model\.77\.m\.1\.bias has"),
        (lambda t: t.update({"model.77.m.1.weight": t["model.77.m.1.weight"][:3]}), r"model\.77\.m\.1\.weight has"),
        (lambda t: t.pop("model.77.m.1.bias"), r"model\.77\.m\.1\.bias is missing"),
        (lambda t: t.update({"model.78.conv.weight": t["model.3.conv.weight"]}), r"model\.78\.conv\.weight first"),
        (lambda t: t.pop("model.77.m.0.weight"), "neither yolov7 nor yolov7-tiny"),
        (lambda t: t.clear() or t.update({"a": np.zeros(1, np.float32)}), "neither yolov7 nor yolov7-tiny"),
    ],
)
def test_what_is_not_all_of_the_network_is_refused_by_name(tiny, tmp_path, change, why):
    tensors = yolov7_file.look(tiny).arrays()
    change(tensors)
    path = tmp_path / "a.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    with pytest.raises(ConfigError, match=why) as refused:
        yolov7_file.look(str(path))
    assert str(path) in str(refused.value)


def test_outputs_that_are_no_classes_are_refused(tiny, tmp_path):
    tensors = yolov7_file.look(tiny).arrays()
    for name in [name for name in tensors if ".m." in name]:
        tensors[name] = np.ascontiguousarray(tensors[name][:14])
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="14 outputs"):
        yolov7_file.look(str(tmp_path / "a.safetensors"))


def test_a_cut_file_is_refused(tiny, tmp_path):
    save_file(yolov7_file.look(tiny).arrays(), tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cut short"):
        yolov7_file.look(str(tmp_path / "cut.safetensors"))
