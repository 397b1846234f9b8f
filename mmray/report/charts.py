"""Charts as inline SVG: lines with bands, points, bars, waveforms, heat maps. No script, no outside asset.

Colours are those of ``page.STYLE`` (``c0`` to ``c7``, other shades in dark mode), told apart by colour-blind readers;
lines differ in their dashes too. Every drawing has a title and says in words what it shows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmray.report.pixels import png, viridis

Points = Sequence[tuple[float, float]]
Matrix = npt.NDArray[np.float32]

WIDTH, HEIGHT, MARGIN = 420, 260, 10
LETTER = 7.7  # px a letter of an axis takes
COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "9 2 2 2 2 2")
MOST_MARKED = 60  # points of a line: more are drawn without a dot each
COLUMNS = 400  # of a waveform
CLOSE = 1e-6  # numbers of ticks that are one: 0.9999 / 0.00002 is not quite 49995


class Frame(NamedTuple):
    """Where the axes stand: the ranges, on a log scale or not, ticks at whole numbers alone or not, the box in px."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_log: bool
    x_whole: bool
    left: float
    right: float
    top: float
    bottom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the px of a point."""
        low, high = (math.log10(one) if self.x_log else one for one in self.x)
        across = ((math.log10(x) if self.x_log else x) - low) / ((high - low) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def line_chart(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    x_log: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Return a chart of one line per name; ``bands``: (x, low, high) of a name, drawn behind its line.

    Points come by x; a line breaks where a number is not finite. ``y_range``: the least that the axis spans.
    """
    kept = {name: sorted(point for point in points if _drawn(point, x_log)) for name, points in series.items()}
    there = {name: [one for one in own if _drawn(one, x_log)] for name, own in (bands or {}).items() if name in kept}
    flat = [point for points in kept.values() for point in points if math.isfinite(point[1])]
    if not flat:
        return f"<p class=soft>{escape(title or y_label)}: nothing to draw.</p>"
    ys = [y for _, y in flat] + [y for own in there.values() for _, *pair in own for y in pair] + list(y_range or ())
    xs = [x for x, _ in flat]
    frame = _frame(xs, ys, x_log, whole=all(float(x).is_integer() for x in xs))
    names = list(series)
    drawn = [_band(frame, own, names.index(name)) for name, own in there.items()]
    drawn += [_line(frame, points, names.index(name), name) for name, points in kept.items()]
    said = [f"{name}: {_trend(points)}" for name, points in kept.items()]
    legend = "".join(_sample(place, name) for place, name in enumerate(names)) if len(names) > 1 or names[0] else ""
    words = f"{y_label} against {x_label}. {'; '.join(said)}."
    return _figure("".join([_axes(frame, x_label, y_label), *drawn]), title or y_label, words, legend, bool(title))


def scatter(
    groups: Mapping[str, Iterable[tuple[float, float]]], label: str, attributes: Mapping[str, str], extra: str = ""
) -> str:
    """Return points without axes, on one scale in both directions: a path of dots for each group.

    ``attributes``: of a group's path, markup; ``extra``: more SVG, above the points. Groups look as ``look`` has it;
    the group "" is grey.
    """
    points = {name: np.asarray(list(own), np.float64).reshape(-1, 2) for name, own in groups.items()}
    every = np.concatenate(list(points.values())) if points else np.zeros((0, 2))
    low, high = (every.min(0), every.max(0)) if len(every) else (np.zeros(2), np.ones(2))
    side = WIDTH - 2 * MARGIN
    scale = side / (max(*(high - low)) or 1.0)
    offset = MARGIN + (side - scale * (high - low)) / 2
    paths = []
    for place, (name, own) in enumerate(points.items()):
        places = np.rint(offset + (own - low) * scale).astype(int)
        dots = "".join(f"M{x} {WIDTH - y}h0" for x, y in places)
        paths.append(f"<path class='dots {look(place) if name else 'rest'}' {attributes.get(name, '')} d='{dots}'/>")
    return (
        f"<svg class=scatter viewBox='0 0 {WIDTH} {WIDTH}' role=img tabindex=0 aria-label='{escape(label)}'>"
        f"{''.join(paths)}{extra}</svg>"
    )


def look(place: int) -> str:
    """Return the classes of a group of dots: a colour, and square dots once the colours are used up."""
    return f"c{place % COLOURS}{' square' * (place // COLOURS % 2)}"


def bars(rows: Sequence[tuple[str, float]], *, shown: Sequence[str] | None = None, label: str = "") -> str:
    """Return horizontal bars, the longest full: (name, value); ``shown``: what stands behind each instead of it."""
    most = max((value for _, value in rows), default=0) or 1
    lines = "".join(
        f"<tr><th scope=row>{escape(name)}<td class=bar>{bar(value / most)}"
        f"<td class=n>{escape(shown[place]) if shown else f'{value:,.6g}'}"
        for place, (name, value) in enumerate(rows)
    )
    return f"<table class=bars aria-label='{escape(label)}'>{lines}</table>"


def bar(share: float, colour: int = 0) -> str:
    """Return one horizontal bar of a share of the width."""
    return f"<div class='track c{colour}'><i class=fill style='width:{100 * min(1.0, max(0.0, share)):.1f}%'></i></div>"


def waveform(wave: Matrix, rate_hz: int, *, title: str = "", y_label: str = "amplitude") -> str:
    """Return the outline of a sound: the lowest and highest of float32 (samples,) in each of at most 400 columns."""
    if not len(wave):
        return f"<p class=soft>{escape(title or 'waveform')}: no sound.</p>"
    edges = np.unique(np.linspace(0, len(wave), COLUMNS + 1).astype(int))[:-1]
    low, high = np.minimum.reduceat(wave, edges), np.maximum.reduceat(wave, edges)
    peak = float(np.abs(wave).max())
    frame = _frame([0.0, len(wave) / rate_hz], [-peak, peak], False)
    spans = zip(edges / rate_hz, low, high, strict=True)
    drawn = _axes(frame, "s", y_label) + _band(frame, [(float(x), float(a), float(b)) for x, a, b in spans], 0, "solid")
    words = f"{len(wave) / rate_hz:.2f} s of sound; the loudest sample is {peak:.2f}."
    return _figure(drawn, title or "waveform", words, "", bool(title))


def heat_map(
    matrix: Matrix,
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
) -> str:
    """Return a matrix (rows, columns) as a picture with axes, row 0 below; NaN is drawn as the lowest.

    ``x``, ``y``: what the outer edges stand for: of a spectrogram the seconds and the kHz.
    """
    low, high = (float(one) for one in (np.nanmin(matrix), np.nanmax(matrix)))
    picture = png(viridis((np.nan_to_num(matrix, nan=low)[::-1] - low) / ((high - low) or 1.0)))
    frame = _frame(x, y, False, exact=True)
    box = f"x='{frame.left}' y='{frame.top}' width='{frame.right - frame.left}' height='{frame.bottom - frame.top}'"
    drawn = f"<image {box} preserveAspectRatio='none' href='{picture}'/>" + _axes(frame, x_label, y_label, grid=False)
    words = f"{y_label} against {x_label}; values from {low:.3g} (dark) to {high:.3g} (bright)."
    return _figure(drawn, title or y_label, words, "", bool(title))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((one * power for one in (1, 2, 5, 10)), key=lambda one: abs((high - low) / one - about))
    first = math.ceil(low / step - CLOSE)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + CLOSE) + 1)]


def _drawn(point: Sequence[float], x_log: bool) -> bool:
    return math.isfinite(point[0]) and (point[0] > 0 or not x_log)


def _frame(xs: Sequence[float], ys: Sequence[float], x_log: bool, exact: bool = False, whole: bool = False) -> Frame:
    """Return axes that hold these numbers; those of y end on round ones unless ``exact``."""
    finite = [y for y in ys if math.isfinite(y)]
    low, high = min(finite), max(finite)
    if not exact:
        if low == high:
            low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
        step = (marks := ticks(low, high))[1] - marks[0] if len(ticks(low, high)) > 1 else high - low
        low, high = math.floor(low / step + CLOSE) * step, math.ceil(high / step - CLOSE) * step
    widest = max(len(_number(one)) for one in ticks(low, high))
    return Frame((min(xs), max(xs)), (low, high), x_log, whole, 24 + LETTER * widest, WIDTH - 12, 10, HEIGHT - 38)


def _number(value: float) -> str:
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e")


def _axes(frame: Frame, x_label: str, y_label: str, grid: bool = True) -> str:
    """Return grid, ticks and the names of the axes."""
    lines = []
    for y in ticks(*frame.y):
        at = frame.at(frame.x[0], y)[1]
        rule = f"<path class=grid d='M{frame.left:.1f} {at:.1f}H{frame.right:.1f}'/>" if grid else ""
        lines.append(f"{rule}<text x='{frame.left - 6:.1f}' y='{at + 4:.1f}' text-anchor=end>{_number(y)}</text>")
    for x in _x_ticks(frame):
        at, shown = frame.at(x, frame.y[0])[0], _number(x)
        middle = min(at, WIDTH - LETTER * len(shown) / 2)
        lines.append(
            f"<path class=axis d='M{at:.1f} {frame.bottom:.1f}v4'/>"
            f"<text x='{middle:.1f}' y='{frame.bottom + 16:.1f}' text-anchor=middle>{shown}</text>"
        )
    middle_x, middle_y = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    return "".join(lines) + (
        f"<path class=axis d='M{frame.left:.1f} {frame.bottom:.1f}H{frame.right:.1f}'/>"
        f"<text x='{middle_x:.1f}' y='{HEIGHT - 6}' text-anchor=middle>{escape(x_label)}</text>"
        f"<text transform='translate(12 {middle_y:.1f}) rotate(-90)' text-anchor=middle>{escape(y_label)}</text>"
    )


def _x_ticks(frame: Frame) -> list[float]:
    low, high = frame.x
    if not frame.x_log:
        return [x for x in ticks(low, high, 6) if float(x).is_integer() or not frame.x_whole]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [one for one in (10.0**power for power in powers) if low <= one <= high] or [low, high]


def _path(frame: Frame, points: Iterable[tuple[float, float]]) -> str:
    """Return the ``d`` of a line through points, broken where y is not finite."""
    words, broken = [], True
    for x, y in points:
        if math.isfinite(y):
            at_x, at_y = frame.at(x, y)
            words.append(f"{'M' if broken else 'L'}{at_x:.1f} {at_y:.1f}")
        broken = not math.isfinite(y)
    return "".join(words)


def _line(frame: Frame, points: Points, place: int, name: str) -> str:
    look = f"class='line c{place % COLOURS}' stroke-dasharray='{DASHES[place % len(DASHES)]}'"
    dots = ""
    if len(points) <= MOST_MARKED:
        spots = [(*frame.at(x, y), x, y) for x, y in points if math.isfinite(y)]
        dots = "".join(
            f"<circle class='dot c{place % COLOURS}' cx='{at_x:.1f}' cy='{at_y:.1f}' r='3'>"
            f"<title>{escape(name)}: {x:.4g}, {y:.4g}</title></circle>"
            for at_x, at_y, x, y in spots
        )
    return f"<path {look} d='{_path(frame, points)}'/>{dots}"


def _band(frame: Frame, own: Sequence[tuple[float, float, float]], place: int, look: str = "band") -> str:
    rows = sorted(row for row in own if all(map(math.isfinite, row)))
    around = [(x, high) for x, _, high in rows] + [(x, low) for x, low, _ in reversed(rows)]
    return f"<path class='{look} c{place % COLOURS}' d='{_path(frame, around)}Z'/>" if around else ""


def _trend(points: Points) -> str:
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        return "nothing"
    (first_x, first), (last_x, last) = finite[0], finite[-1]
    lowest, highest = (one(y for _, y in finite) for one in (min, max))
    return f"{first:.4g} at {first_x:.4g}, {last:.4g} at {last_x:.4g}, lowest {lowest:.4g}, highest {highest:.4g}"


def _sample(place: int, name: str) -> str:
    line = f"<path class='line c{place % COLOURS}' stroke-dasharray='{DASHES[place % len(DASHES)]}' d='M1 6h26'/>"
    svg = f"<svg viewBox='0 0 28 12' width=28 height=12 aria-hidden=true>{line}</svg>"
    return f"<span class=key>{svg}{escape(name)}</span>"


def _figure(drawn: str, title: str, words: str, legend: str, named: bool) -> str:
    caption = f"<b>{escape(title)}</b><br>" * named + legend
    return (
        f"<figure class=chart>{f'<figcaption>{caption}</figcaption>' * bool(caption)}"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{escape(title)}'>"
        f"<desc>{escape(words)}</desc>{drawn}</svg></figure>"
    )
