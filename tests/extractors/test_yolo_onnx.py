"""Detections: real pictures with a real network, and files that are none."""

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from mmray.errors import ConfigError
from mmray.extractors.yolo_onnx import YoloOnnx
from mmray.media.decode import decode
from mmray.media.picture import linear
from mmray.models import boxes
from mmray.models.onnx_file import Node, model
from tests.near import assert_near

from .streams import frame, frames, picture

# What MANIFEST.md says was seen with this network, to within another resize.
REAL = {
    "parrot.jpg": [("bird", 0.85)],
    "owl.jpg": [("bird", 0.92)],
    "cat_720p.jpg": [("cat", 0.80)],
    "pets.jpg": [("dog", 0.90), ("dog", 0.84)],
    "grace_hopper.bmp": [("person", 0.94), ("tie", 0.84)],
    "face.jpg": [("person", None)] * 4,
}


def constant(output: np.ndarray, side_px: int = 64) -> bytes:
    """Return a network that answers with ``output`` whatever it sees."""
    nodes = [
        Node("ReduceSum", ["images"], ["sum"], {"keepdims": 0}),
        Node("Mul", ["sum", "zero"], ["nothing"]),
        Node("Add", ["nothing", "answer"], ["output"]),
    ]
    constants = {"zero": np.zeros((), np.float32), "answer": output}
    return model(nodes, constants, {"images": [1, 3, side_px, side_px]}, {"output": output.shape})


@pytest.fixture
def network(tmp_path):
    def write(output: np.ndarray) -> str:
        path = tmp_path / "net.onnx"
        path.write_bytes(constant(output.astype(np.float32)))
        return str(path)

    return write


def test_the_layout_is_told_by_the_rows(network):
    yolox = YoloOnnx().resolved(network(np.zeros((1, 84, 85))))
    assert (yolox.layout, yolox.frames.anchor, yolox.frames.side_px) == ("yolox", "top_left", 64)
    yolov7 = YoloOnnx().resolved(network(np.zeros((1, 252, 85))))
    assert (yolov7.layout, yolov7.frames.anchor, yolov7.frames.side_px) == ("yolov7", "centre", 64)


def test_what_is_no_detector_is_refused(network, tmp_path):
    with pytest.raises(ConfigError, match="set layout"):
        YoloOnnx().resolved(network(np.zeros((1, 100, 85))))
    with pytest.raises(ConfigError, match=r"scores 3 classes.*80 names"):
        YoloOnnx().resolved(network(np.zeros((1, 84, 8))))
    with pytest.raises(ConfigError, match=r"side_px is 320.*64"):
        YoloOnnx(frames={"fps": 1, "side_px": 320}).resolved(network(np.zeros((1, 84, 85))))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ConfigError, match="not an ONNX file"):
        YoloOnnx().resolved(str(tmp_path / "text.onnx"))
    assert YoloOnnx(classes=("a", "b", "c")).resolved(network(np.zeros((1, 84, 8)))).layout == "yolox"


def test_boxes_come_back_in_pixels_of_the_source(network):
    """A box over the right half of a 64 px square that shows 320 x 160, centred: 32 px high from 16 on."""
    rows = np.zeros((1, 252, 85), np.float32)
    rows[0, 7, :5] = [48, 32, 32, 32, 1]
    rows[0, 7, 5 + 16] = 0.75
    path = network(rows)
    extractor = YoloOnnx().resolved(path)
    seen = frame(extractor.frames, 3, picture(0, 64, 3), width=320, height=160)
    (found,) = extractor.load("cpu", path)([seen])
    assert found.window == [3]
    assert found.columns["class_name"] == ["dog"]
    assert found.columns["frame_s"] == [3.0]
    corners = [found.columns[name][0] for name in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(corners, [160, 0, 320, 160], atol=1e-3)
    assert_near(found.columns["score"], [0.75])


def test_raw_maps_are_read_when_their_anchors_are_named(tmp_path):
    """One sure cell of the coarsest map of an export without --grid."""
    maps = [np.full((1, 3 * 85, 64 // stride, 64 // stride), -9, np.float32) for stride in (8, 16, 32)]
    maps[2][0, 85 : 85 + 6, 1, 0] = [0, 0, 0, 0, 9, 9]  # second anchor, row 1, column 0, class 0
    names = ["p3", "p4", "p5"]
    nodes = [Node("ReduceSum", ["images"], ["sum"], {"keepdims": 0}), Node("Mul", ["sum", "zero"], ["nothing"])]
    nodes += [Node("Add", ["nothing", f"answer_{name}"], [name]) for name in names]
    answers = {f"answer_{name}": values for name, values in zip(names, maps, strict=True)}
    path = tmp_path / "raw.onnx"
    outputs = {name: values.shape for name, values in zip(names, maps, strict=True)}
    path.write_bytes(model(nodes, {"zero": np.zeros((), np.float32), **answers}, {"images": [1, 3, 64, 64]}, outputs))
    with pytest.raises(ConfigError, match="yolov7_raw or yolov7_tiny_raw"):
        YoloOnnx().resolved(str(path))
    extractor = YoloOnnx(layout="yolov7_tiny_raw").resolved(str(path))
    (found,) = extractor.load("cpu", str(path))([frame(extractor.frames, 0, picture(0, 64, 3), 640, 640)])
    assert found.columns["class_name"] == ["person"]
    middle = [(found.columns[f"{axis}1"][0] + found.columns[f"{axis}2"][0]) / 2 for axis in "xy"]
    # Centre (16, 48), size of the anchor 156 x 198 px, clipped to the picture: ten source pixels for one.
    np.testing.assert_allclose(middle, [640 / 2, 640 / 2], atol=1e-3)


def test_an_onnxruntime_without_cuda_works_on_the_cpu(tiny):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    path = str(tiny / "yolox" / "yolox.onnx")
    extractor = YoloOnnx().resolved(path)
    shown = frames(extractor.frames, 2)
    for found, expected in zip(*(extractor.load(device, path)(shown) for device in ("cuda:0", "cpu")), strict=True):
        assert_near(found.columns["score"], expected.columns["score"])


def test_random_weights_do_not_flood_the_table(tiny):
    path = str(tiny / "yolox" / "yolox.onnx")
    extractor = YoloOnnx().resolved(path)
    found = list(extractor.load("cpu", path)(frames(extractor.frames, 20)))
    assert 0 < sum(map(len, found)) < 20 * 30


@pytest.mark.parametrize("name", REAL)
def test_a_real_network_sees_what_is_there(test_data, name):
    path = str(test_data / "weights" / "yolox_nano.onnx")
    extractor = YoloOnnx(score_threshold=0.35).resolved(path)
    assert (extractor.frames.side_px, extractor.layout) == (416, "yolox")
    uri = str(test_data / "images" / "openimages_coral" / name)
    pictures = [item for _, item in decode(uri, [extractor.frames])]
    (found,) = extractor.load("cpu", path)(pictures)
    for place, (label, score) in enumerate(REAL[name]):
        assert found.columns["class_name"][place] == label
        assert score is None or abs(found.columns["score"][place] - score) < 0.05
    columns = found.columns
    assert (columns["x1"] < columns["x2"]).all()
    assert (columns["y1"] < columns["y2"]).all()
    assert (columns["x2"] <= pictures[0].width).all()
    assert (columns["y2"] <= pictures[0].height).all()


@pytest.mark.parametrize("name", ["cat_720p.jpg", "pets.jpg", "hot_dog.jpg", "owl.jpg"])
def test_pictures_are_prepared_as_the_original_does(test_data, name):
    """Megvii's own: scaled by OpenCV's INTER_LINEAR to lengths cut to whole pixels, at the top left, on grey."""
    path = str(test_data / "weights" / "yolox_nano.onnx")
    extractor = YoloOnnx().resolved(path)
    file = test_data / "images" / "openimages_coral" / name
    (rows,) = extractor.load("cpu", path)([item for _, item in decode(str(file), [extractor.frames])])
    picture = np.asarray(Image.open(file).convert("RGB"))
    ratio = 416 / max(picture.shape[:2])
    height, width = (int(length * ratio) for length in picture.shape[:2])
    seen = np.full((416, 416, 3), 114, np.uint8)
    seen[:height, :width] = linear(picture, width, height)
    opened = onnxruntime.InferenceSession(path)
    (raw,) = opened.run(
        None, {opened.get_inputs()[0].name: seen[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)}
    )
    corners, scores, _ = boxes.suppressed(boxes.decode_yolox(raw, 416, 416)[0], 0.25, 0.45, 300)
    np.testing.assert_allclose(rows.columns["score"], scores, atol=0.015)
    found = np.stack([rows.columns[side] for side in ("x1", "y1", "x2", "y2")], axis=1)
    limits = np.array([picture.shape[1], picture.shape[0]] * 2)
    np.testing.assert_allclose(found, np.clip(corners / ratio, 0, limits), atol=2.5)
