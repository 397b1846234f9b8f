import numpy as np
import pytest

from mmray.geometry import placed
from mmray.specs import FrameSpec


def test_letterbox_centres_as_yolo_does():
    place = placed(FrameSpec(fps=1, side_px=640, fit="letterbox"), 1280, 717)
    assert (place.width_px, place.height_px) == (640, 358)
    assert (place.left_px, place.top_px) == (0, 141)


def test_an_odd_remainder_puts_the_smaller_half_first():
    place = placed(FrameSpec(fps=1, side_px=101, fit="letterbox"), 100, 50)
    assert place.height_px == 50 and place.top_px == 25
    assert placed(FrameSpec(fps=1, side_px=100, fit="letterbox"), 100, 49).top_px == 25


def test_letterbox_top_left_starts_at_the_corner():
    place = placed(FrameSpec(fps=1, side_px=416, fit="letterbox", anchor="top_left"), 100, 300)
    assert (place.left_px, place.top_px, place.width_px, place.height_px) == (0, 0, 138, 416)  # of 138.67


def test_a_hair_thin_picture_keeps_one_pixel():
    assert placed(FrameSpec(fps=1, side_px=32, fit="letterbox"), 5000, 1).height_px == 1


def test_crop_keeps_the_centre_of_the_longer_side():
    place = placed(FrameSpec(fps=1, side_px=224, fit="crop"), 640, 360)
    assert (place.width_px, place.height_px, place.left_px, place.top_px) == (398, 224, -87, 0)


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("box", [None, (0.25, 0.1, 0.75, 0.9)])
@pytest.mark.parametrize("anchor", ["centre", "top_left"])
def test_boxes_find_their_way_back(fit, box, anchor):
    place = placed(FrameSpec(fps=1, side_px=200, fit=fit, box=box, anchor=anchor), 643, 361)
    source = np.array([[300.0, 150.0, 340.0, 200.0]])
    x = (source[:, 0::2] - place.box_left_px) * place.scale_x + place.left_px
    y = (source[:, 1::2] - place.box_top_px) * place.scale_y + place.top_px
    seen = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    np.testing.assert_allclose(place.boxes_to_source(seen), source, atol=1e-9)


@pytest.mark.parametrize(("width", "height"), [(640, 427), (1920, 800), (427, 640), (1280, 720), (333, 500)])
@pytest.mark.parametrize("anchor", ["centre", "top_left"])
def test_boxes_of_a_letterbox_come_back_by_the_unrounded_scale(width, height, anchor):
    """As scale_coords of YOLOv7 (and YOLOX's division by its ratio) have it."""
    place = placed(FrameSpec(fps=1, side_px=640, fit="letterbox", anchor=anchor), width, height)
    gain = min(640 / height, 640 / width)
    pad = np.array([(640 - width * gain) / 2, (640 - height * gain) / 2] * 2) if anchor == "centre" else 0.0
    source = np.array([[30.0, 15.0, 134.0, 200.0]])
    np.testing.assert_allclose(place.boxes_to_source(source * gain + pad), source, atol=1e-9)


def test_boxes_end_at_the_edge_of_the_picture():
    place = placed(FrameSpec(fps=1, side_px=100, fit="letterbox"), 200, 100)
    mapped = place.boxes_to_source(np.array([[-5.0, 0.0, 120.0, 99.0]]))
    np.testing.assert_array_equal(mapped, [[0, 0, 200, 100]])
