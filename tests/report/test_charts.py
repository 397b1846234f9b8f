"""Charts say in words what they show, keep to their axes, and take no name for markup."""

import base64
import math
import re
import zlib

import numpy as np
import pytest

from mmray.report import charts
from mmray.report.pixels import png, viridis

EVIL = "<b onload='x'>\"&"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-5, 20, [-5, 0, 5, 10, 15, 20]),
        (3, 3, [3]),
        (0, 1e-7, None),
        (0, 7e9, None),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float] | None) -> None:
    found = charts.ticks(low, high)
    assert all(low <= one <= high * (1 + 1e-9) for one in found)
    assert expected is None or found == pytest.approx(expected)
    assert len(found) <= 11


def test_a_line_breaks_where_a_number_is_missing_and_keeps_to_the_box() -> None:
    series = {"a": [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.5), (4.0, 9.0)], "b": [(0.0, 0.0), (4.0, -3.0)]}
    page = charts.line_chart(series, "epoch", "loss", title="Loss", bands={"b": [(0, -1, 1), (4, -4, -2)]})
    first, second = re.findall(r"class='line c\d' stroke-dasharray='[^']*' d='(M[^1][^']*)'", page)[:2]
    assert first.count("M") == 2
    assert second.count("M") == 1
    places = [(float(x), float(y)) for x, y in re.findall(r"[ML](\d+\.\d) (\d+\.\d)", first + second)]
    assert all(0 < x <= charts.WIDTH and 0 < y < charts.HEIGHT for x, y in places)
    assert "a: 1 at 0, 9 at 4, lowest 1, highest 9" in page
    assert page.count("class='band") == 1
    assert "<b>Loss</b>" in page
    assert re.findall(r"text-anchor=middle>([\d.]+)<", page) == ["0", "1", "2", "3", "4"]  # epochs are whole


def test_names_are_text_and_nothing_is_said() -> None:
    page = charts.line_chart({EVIL: [(0, 1)], "x": []}, EVIL, EVIL, title=EVIL)
    bars = charts.bars([(EVIL, 2.0)], shown=[EVIL], label=EVIL)
    dots = charts.scatter({EVIL: [(0, 0), (0, 0)]}, EVIL, {})
    picture = charts.heat_map(np.ones((2, 3), np.float32), (0, 1), (0, 8), EVIL, EVIL, title=EVIL)
    for markup in (page, bars, dots, picture):
        assert "<b onload" not in markup
        assert "onload='x'" not in markup
    assert "nothing to draw" in charts.line_chart({"a": [(0, math.nan)]}, "x", "y")
    assert "no sound" in charts.waveform(np.zeros(0, np.float32), 16_000)


def test_dots_keep_their_proportions() -> None:
    page = charts.scatter({"a": [(0, 0), (10, 0), (10, 5)]}, "map", {"a": "data-a='1'"})
    (xy,) = re.findall(r"d='([^']*)'", page)
    places = np.array(re.findall(r"M(\d+) (\d+)", xy), int)
    across, up = places[1] - places[0], places[2] - places[1]
    assert across[0] == 2 * -up[1] > 0  # y goes up
    assert across[1] == up[0] == 0


def test_a_waveform_has_the_loudest_and_softest_of_each_column() -> None:
    wave = np.zeros(80_000, np.float32)
    wave[40_000], wave[60_000] = 0.9, -0.8
    page = charts.waveform(wave, 16_000, title="dog")
    assert "5.00 s of sound; the loudest sample is 0.90" in page
    (outline,) = re.findall(r"class='solid c0' d='([^']*)'", page)
    ys = np.array(re.findall(r"[ML]\d+\.\d (\d+\.\d)", outline), float)
    middle = np.median(ys)
    assert len(ys) == 2 * charts.COLUMNS
    assert (middle - ys.min()) / (ys.max() - middle) == pytest.approx(0.9 / 0.8, rel=0.02)


def test_a_png_holds_its_pixels() -> None:
    image = viridis(np.linspace(0, 1, 12).reshape(3, 4))
    data = base64.b64decode(png(image).partition(",")[2])
    size = data.index(b"IDAT") - 4
    length = int.from_bytes(data[size : size + 4], "big")
    rows = np.frombuffer(zlib.decompress(data[size + 8 : size + 8 + length]), np.uint8).reshape(3, 1 + 12)
    np.testing.assert_array_equal(rows[:, 1:].reshape(3, 4, 3), image)
    assert not rows[:, 0].any()
    lightness = image.astype(int).sum(axis=2).ravel()
    assert (np.diff(lightness) > 0).all()  # greys keep the order
