"""YOLOv7 as an extractor: from the decoder's pictures to rows, from every kind of file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from mmray.errors import ConfigError
from mmray.extractors.yolov7 import YoloV7
from mmray.geometry import placed
from mmray.media.decode import decode
from mmray.models import boxes, labels, weights, yolov7_file
from mmray.models.yolov7 import YoloV7 as Network
from tests.near import assert_near

from .streams import frame, frames, picture

SMALL = {"fps": 1, "side_px": 160, "fit": "letterbox", "interpolation": "linear"}
CORNERS = ("x1", "y1", "x2", "y2")


@pytest.fixture(scope="module")
def path(tiny):
    return str(tiny / "yolov7" / "yolov7-tiny.pt")


def columns(rows):
    return np.stack([np.asarray(rows.columns[name], np.float64) for name in (*CORNERS, "score", "class_id")], 1)


def test_a_release_is_found_by_its_folder_and_by_its_name(tiny, path):
    found = weights.resolve(str(tiny / "yolov7"), YoloV7.formats)
    assert str(found.path) == path
    assert found.random
    with pytest.raises(ConfigError, match="pickle"):
        weights.resolve(path)  # for an extractor that does not read it


def test_every_form_of_a_file_gives_the_same_rows(path, tmp_path):
    checkpoint = yolov7_file.look(path)
    save_file(checkpoint.arrays(), tmp_path / "a.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in checkpoint.arrays().items()}, tmp_path / "b.pt")
    extractor = YoloV7(frames=SMALL)
    expected, *others = (
        list(extractor.resolved(file).load("cpu", file)(frames(extractor.frames, 4)))
        for file in (path, str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt"))
    )
    assert sum(map(len, expected)) > 0
    for found in others:
        for one, other in zip(found, expected, strict=True):
            assert_near(columns(one), columns(other))
            assert one.columns["class_name"] == other.columns["class_name"]


def test_rows_are_what_the_networks_boxes_say(path):
    """Step by step: pixels, network, suppression, and the original's way back (scale_coords, then clip)."""
    extractor = YoloV7(frames=SMALL, score_threshold=0.2)
    seen = frame(extractor.frames, 2, picture(5, 160, 3), width=320, height=180)
    (found,) = extractor.load("cpu", path)([seen])
    pixels = torch.from_numpy(seen.image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        rows = Network(yolov7_file.look(path))(pixels)[0].numpy()
    square, scores, classes = boxes.suppressed(rows, 0.2, 0.45, 300)
    gain, top = 160 / 320, (160 - 90) / 2
    expected = (square - [0, top, 0, top]) / gain
    expected = np.clip(expected, 0, [320, 180, 320, 180])
    assert len(found) == len(square) > 0
    np.testing.assert_allclose(columns(found)[:, :4], expected, atol=1e-3)
    np.testing.assert_allclose(found.columns["score"], scores, atol=1e-5)
    np.testing.assert_array_equal(found.columns["class_id"], classes)
    assert found.columns["class_name"] == [labels.COCO[number] for number in classes]
    assert set(found.window) == {2}


def test_the_way_back_is_the_originals(test_data):
    with np.load(test_data.parent / "reference" / "yolov7_pre_post.npz") as arrays:
        seen, expected = arrays["scale_coords__in"], arrays["scale_coords__out_384x640_to_720x1280"]
    spec = YoloV7().frames
    place = placed(spec, 1280, 720)
    lower = (640 - 384) / 2  # the square has that much more grey above than the original's 384 x 640
    found = place.boxes_to_source(seen[:, :4] + np.array([0, lower, 0, lower]))
    np.testing.assert_allclose(found, expected[:, :4], atol=0.05)


def test_thresholds_and_limits_do_what_they_say(path):
    pictures = frames(YoloV7(frames=SMALL).frames, 7)

    def rows(**settings):
        return list(YoloV7(frames=SMALL, **settings).load("cpu", path)(pictures))

    usual, sure, few = rows(score_threshold=0.1), rows(score_threshold=0.4), rows(score_threshold=0.1, max_detections=2)
    assert sum(map(len, sure)) < sum(map(len, usual))
    for every, some, first in zip(usual, sure, few, strict=True):
        assert all(some.columns["score"] > 0.4)
        assert list(every.columns["score"]) == sorted(every.columns["score"], reverse=True)
        assert_near(columns(first), columns(every)[:2])
    assert all(not len(none) for none in rows(score_threshold=1.0))
    doubles = sum(map(len, rows(score_threshold=0.1, iou_threshold=1.0)))
    assert doubles > sum(map(len, usual))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_finds_much_the_same(path, precision):
    extractor = YoloV7(frames=SMALL)
    pictures = frames(extractor.frames, 12)
    exact, coarse = (
        sum(map(len, extractor.model_copy(update={"precision": name}).load("cpu", path)(pictures)))
        for name in ("float32", precision)
    )
    assert abs(coarse - exact) <= 0.25 * exact


def test_files_tell_their_own_classes(path, tmp_path):
    tensors = yolov7_file.look(path).arrays()
    for name in [name for name in tensors if ".m." in name]:
        tensors[name] = np.ascontiguousarray(tensors[name][: 3 * (5 + 2)])
    file = str(tmp_path / "two.safetensors")
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"two\.safetensors: scores 2 classes, and there are 80 names"):
        YoloV7().resolved(file)
    named = YoloV7(classes=("cup", "ball")).resolved(file)
    assert named.labels(file) == ("cup", "ball")
    assert YoloV7().labels(path) == labels.COCO


@pytest.mark.parametrize("side_px", [150, 161])
def test_sides_that_the_network_cannot_halve_are_refused(side_px):
    with pytest.raises(ValueError, match="multiple of 32"):
        YoloV7(frames={**SMALL, "side_px": side_px})


def test_other_files_are_refused_before_anything_is_decoded(path, tiny, tmp_path):
    (tmp_path / "cut.pt").write_bytes(Path(path).read_bytes()[:100_000])
    for file, why in [
        (str(tmp_path / "cut.pt"), "cut short"),
        (str(tiny / "clip" / "model.safetensors"), "neither yolov7 nor yolov7-tiny"),
        (str(tmp_path / "missing.pt"), "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=why):
            YoloV7().resolved(file)


def test_real_pictures_of_any_shape_go_through(test_data, path, tmp_path):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "one.png")
    extractor = YoloV7(frames=SMALL, score_threshold=0.1)
    extract = extractor.load("cpu", path)
    media = ["images/openimages_coral/parrot.jpg", "video/awkward/derived/one_frame.mp4"]
    for uri in [str(tmp_path / "one.png"), *(str(test_data / name) for name in media)]:
        pictures = [item for _, item in decode(uri, [extractor.frames])]
        results = list(extract(pictures))
        assert len(results) == len(pictures) >= 1
        for item, rows in zip(pictures, results, strict=True):
            found = columns(rows)
            assert (found[:, :2] <= found[:, 2:4]).all()
            assert (found[:, :4] >= 0).all() and (found[:, [0, 2]] <= item.width).all()
            assert (found[:, [1, 3]] <= item.height).all()
