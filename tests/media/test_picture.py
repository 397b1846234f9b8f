from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from PIL import Image, ImageOps

from mmray.errors import Reason, SampleError
from mmray.geometry import placed
from mmray.media.decode import decode
from mmray.media.picture import EXACT, linear
from mmray.media.probe import probe
from mmray.specs import FrameSpec
from tests.media.making import grey, make, noisy

WHOLE = FrameSpec(every=1, side_px=64, fit="squash")
CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def first(uri, spec=WHOLE):
    return next(item for _, item in decode(str(uri), [spec]))


def corners(image):
    quarter = image.shape[0] // 4
    points = [image[y, x] for y in (quarter, -quarter) for x in (quarter, -quarter)]
    return [tuple(bool(value > 128) for value in point) for point in points]


def distance(image, reference):
    return float(np.abs(image.astype(float) - np.asarray(reference, float)).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
def test_exif_orientations_come_out_as_in_pillow(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(CORNERS).save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    frame = first(path)
    assert (frame.width, frame.height) == upright.size
    assert corners(frame.image) == corners(np.asarray(upright.resize((64, 64))))
    assert (probe(str(path)).width, probe(str(path)).height) == upright.size


def test_a_squashed_picture_may_be_as_high_as_is_wanted(tmp_path):
    uri = make(tmp_path / "a.mp4", [CORNERS])
    with av.open(uri) as container:
        frame = next(container.decode(video=0))
        expected = frame.reformat(48, 27, "rgb24", interpolation=Interpolation.BICUBIC | EXACT).to_ndarray()
    found = first(uri, FrameSpec(every=1, side_px=48, height_px=27, fit="squash")).image
    assert (found == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_display_matrices_of_videos_turn_and_mirror(tmp_path, orientation):
    # Counter-clockwise degrees, then mirrors, that make the stored picture upright.
    turn = {1: (0, 0, 0), 2: (0, 1, 0), 3: (180, 0, 0), 4: (0, 0, 1), 5: (90, 0, 1), 6: (-90, 0, 0), 7: (90, 1, 0)}
    degrees, hflip, vflip = turn.get(orientation, (90, 0, 0))
    uri = make(tmp_path / "a.mp4", [CORNERS], rotation=(degrees, bool(hflip), bool(vflip)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    still = Image.fromarray(CORNERS)
    still.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(still)
    frame = first(uri)
    assert (frame.width, frame.height) == upright.size
    assert corners(frame.image) == corners(np.asarray(upright.resize((64, 64))))
    assert probe(uri).rotation == {1: 0, 3: 180, 6: 90, 8: 270}.get(orientation, probe(uri).rotation)


def test_pixels_are_made_square(tmp_path):
    uri = make(tmp_path / "a.mp4", [noisy(0)], aspect=Fraction(2, 1))
    frame = first(uri, FrameSpec(every=1, side_px=64, fit="letterbox", fill=114))
    assert (frame.width, frame.height) == (128, 48)
    assert (frame.image[:19] == 114).all() and not (frame.image[24] == 114).all()
    assert (probe(uri).width, probe(uri).height) == (128, 48)


@pytest.mark.parametrize(
    "pix_fmt, codec, size",
    [
        ("yuv420p10le", "libx265", (64, 64)),
        ("yuv444p", "libx264", (63, 47)),
        ("yuv422p10le", "prores_ks", (64, 48)),
        ("gray", "ffv1", (63, 47)),
        ("yuv420p", "ffv1", (63, 47)),
        ("bgr0", "ffv1", (63, 47)),
    ],
)
def test_pixel_formats_show_the_same_picture(tmp_path, pix_fmt, codec, size):
    options = {"libx265": {"x265-params": "log-level=none"}, "libx264": {"qp": "0"}}.get(codec, {})
    uri = make(tmp_path / "a.mkv", [grey(20, *size)], codec=codec, pix_fmt=pix_fmt, options=options)
    assert distance(first(uri).image, 100) < 2


@pytest.mark.parametrize("name", ["cmyk.jpg", "grayscale.jpg", "gradient_interlaced.png", "gradient.webp"])
def test_still_images_look_as_in_pillow(test_data, name):
    path = test_data / "images/awkward" / name
    reference = Image.open(path)
    if reference.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", reference.size, "white")
        reference = Image.alpha_composite(white, reference.convert("RGBA"))
    assert distance(first(path).image, reference.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) < 3


def test_sixteen_bits_become_eight(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert distance(first(tmp_path / "a.png").image[..., 0], values / 257) < 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, 32:, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray((pixels[..., 3] > 0).astype(np.uint8), "L").convert("P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.info["transparency"] = 0
    elif mode == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "a.png")
    seen = first(tmp_path / "a.png").image
    assert (seen[:, :30] == 255).all() and (seen[:, 34:] == 0).all()


def test_grey_is_the_luma_of_the_colours(tmp_path):
    Image.fromarray(noisy(0)).save(tmp_path / "a.png")
    colour = first(tmp_path / "a.png").image
    single = first(tmp_path / "a.png", WHOLE.model_copy(update={"channels": 1})).image
    assert single.shape == (64, 64, 1)
    assert (single[..., 0] == np.asarray(Image.fromarray(colour).convert("L"))).all()


@pytest.mark.parametrize("fit", ["letterbox", "crop", "squash"])
def test_scaling_is_close_to_pillow(tmp_path, fit):
    smooth = Image.fromarray(noisy(0, 160, 96)).resize((640, 360), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.png")
    seen = first(tmp_path / "a.png", FrameSpec(every=1, side_px=90, fit=fit)).image
    if fit == "letterbox":
        seen, size, cut = seen[19:70], (90, 51), (0, 0, 90, 51)
    elif fit == "crop":
        size, cut = (160, 90), (35, 0, 125, 90)
    else:
        size, cut = (90, 90), (0, 0, 90, 90)
    reference = np.asarray(smooth.resize(size, Image.Resampling.BICUBIC).crop(cut))
    assert distance(seen, reference) < 3


def test_a_box_is_cut_out_first_whichever_way_it_is_scaled(tmp_path):
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[100:140, 150:210] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    exact = FrameSpec(every=1, side_px=64, fit="squash", box=(150 / 600, 100 / 400, 210 / 600, 140 / 400))
    assert first(tmp_path / "a.png", exact).image[2:-2, 2:-2].min() > 250  # scaled up: cut, then scaled
    assert first(tmp_path / "a.png", exact.model_copy(update={"side_px": 16})).image[2:-2, 2:-2].min() > 250
    beside = exact.model_copy(update={"box": (0.0, 0.5, 1.0, 1.0)})
    assert first(tmp_path / "a.png", beside).image.max() == 0


def test_the_crop_of_a_long_strip_stays_small(tmp_path):
    strip = np.zeros((10, 20_000, 3), np.uint8)
    strip[:, 9_990:10_010] = 255
    Image.fromarray(strip).save(tmp_path / "a.png")
    assert first(tmp_path / "a.png", FrameSpec(every=1, side_px=224)).image.min() == 255


def test_a_picture_of_one_pixel_fills_the_square(tmp_path):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "a.png")
    assert distance(first(tmp_path / "a.png").image, [200, 100, 50]) < 1


def test_pictures_beyond_100_megapixels_are_refused(tmp_path):
    Image.new("1", (10_001, 10_000)).save(tmp_path / "a.png")
    with pytest.raises(SampleError) as refused:
        first(tmp_path / "a.png")
    assert refused.value.reason is Reason.TOO_LARGE


def test_geometry_follows_a_change_of_size(tmp_path):
    parts = [make(tmp_path / f"{w}.ts", [grey(i, w, 32)] * 5) for i, w in ((3, 32), (6, 64))]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    items = [item for _, item in decode(str(both), [WHOLE])]
    assert [item.width for item in items] == [32] * 5 + [64] * 5
    # The timestamps of the second part start anew: the sample goes on.
    assert [item.start_s for item in items] == pytest.approx([k / 10 for k in range(10)])
    assert [distance(item.image, level) < 2 for item, level in zip(items, [32] * 5 + [44] * 5, strict=True)] == [
        True
    ] * 10


def test_interlaced_frames_are_deinterlaced_and_none_is_lost(tmp_path):
    frames = []
    for i in range(12):
        image = np.full((64, 64, 3), 40, np.uint8)
        image[0::2, 8 * (i % 4) : 8 * (i % 4) + 16] = 220
        image[1::2, 8 * (i % 4) + 4 : 8 * (i % 4) + 20] = 220
        frames.append(image)
    options = {"x264-params": "tff=1:qp=0"}
    uri = make(tmp_path / "a.mp4", frames, options=options)
    items = [item.image for _, item in decode(uri, [WHOLE])]
    combs = [np.abs(np.diff(image.astype(int), axis=0)).mean() for image in items]
    raw = [np.abs(np.diff(image.astype(int), axis=0)).mean() for image in frames]
    assert len(items) == 12
    assert np.mean(combs) < 0.5 * np.mean(raw)


def test_a_second_picture_behind_the_first_is_not_the_picture(tmp_path):
    first_one, second = (Image.new("RGB", (32, 32), (shade,) * 3) for shade in (30, 200))
    first_one.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    images = [item.image for _, item in decode(str(tmp_path / "a.jpg"), [WHOLE])]
    assert len(images) == 1 and distance(images[0], 30) < 2


@pytest.fixture(scope="module")
def letterboxes(test_data):
    """Return, by name, a picture, what YOLOv7's own letterbox made of it with OpenCV, and (ratio, ratio, pad, pad)."""
    with np.load(test_data.parent / "reference" / "yolov7_pre_post.npz") as arrays:
        names = {name.removesuffix("__in_bgr") for name in arrays if name.endswith("__in_bgr")}
        keys = ("in_bgr", "out_bgr", "ratio_pad")
        return {name: tuple(arrays[f"{name}__{key}"] for key in keys) for name in sorted(names)}


def test_a_letterbox_stands_where_yolov7s_does(letterboxes):
    for picture, boxed, (ratio, _, pad_x, pad_y) in letterboxes.values():
        height, width = picture.shape[:2]
        side = max(boxed.shape[:2])
        place = placed(FrameSpec(fps=1, side_px=side, fit="letterbox"), width, height)
        assert (place.width_px, place.height_px) == (round(width * ratio), round(height * ratio))
        # `auto` pads to the next 32 px only: the square has the rest of the grey, half on either side.
        pads = (pad_x + (side - boxed.shape[1]) / 2, pad_y + (side - boxed.shape[0]) / 2)
        assert (place.left_px, place.top_px) == tuple(round(pad - 0.1) for pad in pads)


def test_linear_pixels_are_opencvs_to_the_bit(letterboxes, tmp_path):
    squares = 0
    for picture, boxed, (ratio, _, pad_x, pad_y) in letterboxes.values():
        width, height = round(picture.shape[1] * ratio), round(picture.shape[0] * ratio)
        left, top = round(pad_x - 0.1), round(pad_y - 0.1)
        expected = boxed[top : top + height, left : left + width]
        np.testing.assert_array_equal(linear(picture, width, height), expected)
        if boxed.shape[0] == boxed.shape[1]:  # the whole way: from a file to the padded square
            squares += 1
            Image.fromarray(picture[..., ::-1]).save(tmp_path / "a.png")
            spec = FrameSpec(every=1, side_px=len(boxed), fit="letterbox", interpolation="linear")
            np.testing.assert_array_equal(first(tmp_path / "a.png", spec).image, boxed[..., ::-1])
    assert squares >= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 3), (640, 2)])
def test_linear_takes_pictures_of_any_size(size):
    picture = np.full((*size, 3), 77, np.uint8)
    assert (linear(picture, 5, 9) == 77).all()
    np.testing.assert_array_equal(linear(noisy(0, 16, 8), 16, 8), noisy(0, 16, 8))


def test_linear_turns_and_cuts_as_the_others_do(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(CORNERS).save(tmp_path / "a.jpeg", exif=exif)
    for changes in ({}, {"fit": "crop"}, {"fit": "letterbox"}, {"box": (0.1, 0.0, 0.9, 1.0)}):
        specs = [WHOLE.model_copy(update={**changes, "interpolation": name}) for name in ("bilinear", "linear")]
        smooth, sampled = (first(tmp_path / "a.jpeg", spec).image for spec in specs)
        assert distance(smooth, sampled) < 3
