"""The drawings of an evaluation: accuracy against noise, weights, reliability, epochs, and what networks read."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mmray.report.charts import heat_map, line_chart, waveform
from mmray.report.page import table
from mmray.report.pixels import png

if TYPE_CHECKING:
    from mmray.fusion.views import Matrix, View

Record = Mapping[str, Any]
UNITS = {"snr_db": "signal to noise, dB", "hidden": "share hidden"}
MOST_LINES = 8  # of a chart of epochs: folds of a network


def noise(figures: Record, kinds: Mapping[str, str]) -> str:
    """Return for each input with noise accuracy against its level, of all networks, as a chart and a table.

    ``kinds``: input -> kind of its noise.
    """
    parts = []
    for name in kinds:
        levels = _levels(figures, name)
        lines: dict[str, list[tuple[float, float]]] = {}
        bands: dict[str, list[tuple[float, float, float]]] = {}
        rows = []
        for network, about in figures.items():
            own: dict[float, Record] = {row["level"]: row for row in about["noise"] if row["input"] == name}
            if not own and len(about["inputs"]) > 1:
                continue  # of another subset of the inputs
            # Who does not read the input stays as it is.
            points: list[Record] = [own[level] if own else about for level in levels]
            shown = [(level, row) for level, row in zip(levels, points, strict=True) if row["accuracy"] is not None]
            lines[network] = [(level, row["accuracy"]) for level, row in shown]
            bands[network] = [(level, row["accuracy_low"], row["accuracy_high"]) for level, row in shown]
            numbers = ("" if row["accuracy"] is None else f"{row['accuracy']:.3f}" for row in (about, *points))
            rows.append((network, points[0]["examples"], *numbers))
        parts.append(
            "<div class=pair>"
            + line_chart(lines, UNITS[kinds[name]], "accuracy", title=f"noise in {name}", bands=bands)
            + table(("network", "examples", "clean", *(f"{level:g}" for level in levels)), rows, f"noise in {name}")
            + "</div>"
        )
    said = "<p>The other inputs stay clean. Bands are 95 % intervals.</p>" if parts else ""
    return said + "".join(parts)


def _levels(figures: Record, name: str) -> list[float]:
    return list(dict.fromkeys(r["level"] for about in figures.values() for r in about["noise"] if r["input"] == name))


def weights(figures: Record, kinds: Mapping[str, str]) -> str:
    """Return for each network with weights, and each input with noise, the mean weight of each input by level."""
    charts = []
    for network, about in figures.items():
        for name in dict.fromkeys(row["input"] for row in about["weights"] if row["input"]):
            rows = [row for row in about["weights"] if row["input"] == name]
            lines = {one: [(row["level"], row["weights"][one]) for row in rows] for one in about["inputs"]}
            title = f"{network}, noise in {name}"
            charts.append(line_chart(lines, UNITS[kinds[name]], "mean weight", title=title, y_range=(0.0, 1.0)))
    return f"<div class=pair>{''.join(charts)}</div>" if charts else ""


def reliability(figures: Record) -> str:
    """Return reliability diagrams: accuracy against confidence, before and after calibration, clean and noisy."""
    return "".join(
        f"<details{' open' * (place == 0)}><summary>reliability of {escape(network)}</summary><div class=pair>"
        f"{''.join(_diagrams(about['calibration']))}</div></details>"
        for place, (network, about) in enumerate(figures.items())
    )


def _diagrams(calibration: Record) -> Iterator[str]:
    for condition, found in calibration.items():
        if found and found["examples"]:
            lines = {
                name: [(row["confidence"], row["accuracy"]) for row in found[key]["bins"]]
                for name, key in (("temperature 1", "before"), ("calibrated", "after"))
            }
            lines["as sure as right"] = [(0.0, 0.0), (1.0, 1.0)]
            title = f"{'all noise' if condition == 'noise' else condition}, {found['examples']:,} examples"
            yield line_chart(lines, "confidence", "accuracy", title=title, y_range=(0.0, 1.0))


def curves(epochs: Sequence[Record]) -> str:
    """Return loss and accuracy by epoch of each network, a line for each fold."""
    parts: list[str] = []
    for network in dict.fromkeys(row["network"] for row in epochs):
        rows = [row for row in epochs if row["network"] == network]
        folds = list(dict.fromkeys(row["fold"] for row in rows))
        charts = []
        for column in ("validation_loss", "validation_accuracy"):
            lines = {
                f"fold {fold}": [(row["epoch"], row[column]) for row in rows if row["fold"] == fold]
                for fold in folds[:MOST_LINES]
            }
            charts.append(line_chart(lines, "epoch", column.replace("_", " "), title=""))
        more = f"<p class=soft>The first {MOST_LINES} of {len(folds)} folds.</p>" if len(folds) > MOST_LINES else ""
        head = f"<details{' open' * (not parts)}><summary>{escape(network)}</summary>"
        parts.append(f"{head}{more}<div class=pair>{''.join(charts)}</div></details>")
    return "".join(parts)


def views(found: "Sequence[View]") -> str:
    """Return what networks read of an example of each input, as it is and at the noisiest level."""
    parts = []
    for name in dict.fromkeys(one.input for one in found):
        own = [one for one in found if one.input == name]
        title = f"{name}: {own[0].sample_id}, {own[0].label}"
        parts.append(f"<h3>{escape(title)}</h3><div class=views>{''.join(map(_view, own))}</div>")
    return "".join(parts)


def _view(one: "View") -> str:
    about = "clean" if one.level is None else f"{UNITS[one.noise or '']}: {one.level:g}"
    parts = []
    if one.wave is not None:
        parts.append(waveform(one.wave, one.rate_hz, title=about))
    if one.spectrogram is not None:
        bands, frames = one.spectrogram.shape
        parts.append(
            heat_map(one.spectrogram, (0, frames * one.step_s), (0, bands), "s", "mel band", title=f"{about}, mel")
        )
    if one.picture is not None:
        shown = f"<img alt='{escape(f'{one.input}, {about}')}' src='{png(image(one.picture))}'>"
        parts.append(f"<figure>{shown}<figcaption>{escape(about)}</figcaption></figure>")
    return f"<div>{''.join(parts)}</div>"


def image(picture: "Matrix") -> Any:
    """Return float32 (height, width, 1 or 3) as uint8 RGB, whatever its range."""
    low, high = min(0.0, float(picture.min())), max(1.0, float(picture.max()))
    shown = np.round(255 * (picture - low) / (high - low)).astype(np.uint8)
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown
