"""Decoding and suppression against arrays of the original YOLOv7 run."""

from pathlib import Path

import numpy as np
import pytest

from mmray.models import boxes


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent.parent / "reference" / "yolov7_decode_nms.npz") as arrays:
        return dict(arrays)


def test_yolov7_maps_decode_as_in_the_original(reference):
    maps = [reference[f"decode__yolov7__raw_p{level}"] for level in (3, 4, 5)]
    decoded = boxes.decode_yolov7(maps, boxes.ANCHORS_PX["yolov7"])
    np.testing.assert_allclose(decoded, reference["decode__yolov7__decoded"], rtol=2e-6, atol=1e-4)


def test_both_orders_of_the_axes_decode_the_same(reference):
    maps = [reference[f"decode__yolov7__raw_p{level}"] for level in (3, 4, 5)]
    five = [raw.reshape(1, 3, 85, *raw.shape[2:]).transpose(0, 1, 3, 4, 2) for raw in maps]
    anchors = boxes.ANCHORS_PX["yolov7"]
    np.testing.assert_array_equal(boxes.decode_yolov7(five, anchors), boxes.decode_yolov7(maps, anchors))


@pytest.mark.parametrize("name", ["yolov7", "yolov7_tiny"])
def test_the_anchors_are_the_originals(reference, name):
    np.testing.assert_array_equal(boxes.ANCHORS_PX[name], reference[f"decode__{name}__anchors_px"])


def test_suppression_keeps_what_the_original_keeps(reference):
    expected = reference["nms__expected"]  # x1, y1, x2, y2, score, class
    found, scores, classes = boxes.suppressed(reference["nms__prediction"][0], score=0.25, iou=0.45, most=300)
    np.testing.assert_allclose(found, expected[:, :4], atol=1e-4)
    np.testing.assert_allclose(scores, expected[:, 4], atol=1e-6)
    np.testing.assert_array_equal(classes, expected[:, 5])


def test_yolox_rows_decode_from_cells():
    rows = np.zeros((1, boxes.cells(64, 64), 6), np.float32)
    rows[0, 9] = [0.5, 0.25, np.log(2), np.log(3), 0.9, 0.8]  # cell (x 1, y 1) of the 8 x 8 grid
    decoded = boxes.decode_yolox(rows, 64, 64)
    np.testing.assert_allclose(decoded[0, 9], [12, 10, 16, 24, 0.9, 0.8], rtol=1e-6)
    np.testing.assert_allclose(decoded[0, -1, :4], [32, 32, 32, 32])  # the last cell of stride 32


def test_overlapping_boxes_of_two_classes_both_stay():
    row = [50, 50, 20, 20, 1.0]
    rows = np.array([[*row, 0.9, 0.0], [*row, 0.8, 0.0], [*row, 0.0, 0.7]], np.float32)
    _, scores, classes = boxes.suppressed(rows, score=0.25, iou=0.45, most=300)
    assert classes.tolist() == [0, 1]
    np.testing.assert_allclose(scores, [0.9, 0.7])


def test_nothing_in_nothing_out():
    found, scores, classes = boxes.suppressed(np.zeros((0, 85), np.float32), 0.25, 0.45, 300)
    assert found.shape == (0, 4)
    assert len(scores) == len(classes) == 0


def test_a_network_of_one_class_is_judged_by_objectness_alone():
    """YOLOv7 leaves the only class score as it was drawn: multiplied by it, .45 would be nothing found."""
    rows = np.array([[10, 10, 4, 4, 0.45, 0.5], [50, 50, 4, 4, 0.8, 0.5]], np.float32)
    _, scores, classes = boxes.suppressed(boxes.of_one_class(rows), 0.25, 0.45, 300)
    np.testing.assert_allclose(scores, [0.8, 0.45])
    assert list(classes) == [0, 0]
    two = np.ones((1, 7), np.float32) / 2
    assert boxes.of_one_class(two) is two
