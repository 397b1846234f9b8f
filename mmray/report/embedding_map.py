"""A map of embeddings: points in two dimensions, coloured by label; pointing, tapping and arrow keys name a sample."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmray.report import charts
from mmray.report.cards import ID_LETTERS, shortened

WIDEST = 0.6  # times the range that holds 98 % of the points: how far beyond it the others are drawn
FEW = 400  # points that have room to be drawn larger
MOST_COLOURS = 16  # eight colours, round and square dots; the rarer labels share a grey
STYLE = """
.map { max-width: 32rem; } .map svg { display: block; width: 100%; height: auto; touch-action: manipulation;
  background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; }
.dots { fill: none; stroke: var(--c); stroke-width: 5; stroke-linecap: round; stroke-opacity: .75; }
.square { stroke-linecap: square; stroke-width: 4; } .few .dots { stroke-width: 8; }
.few .square { stroke-width: 6.5; } .rest { --c: var(--soft); } .dots.faint { stroke-opacity: .07; }
.ring { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.map output { display: block; min-height: 1.8em; padding-top: .3rem; font-size: .875rem; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem; margin: .5rem 0; }
.legend button { display: inline-flex; align-items: center; gap: .35rem; max-width: 100%; padding: .15rem .5rem;
  font: inherit; font-size: .8125rem; color: inherit; text-align: left; background: none; cursor: pointer;
  border: 1px solid var(--line); border-radius: 1rem; }
.legend button[aria-pressed=true] { background: var(--ink); color: var(--ground); }
.swatch { flex: none; width: .7rem; height: .7rem; border-radius: 50%; background: var(--c); }
.swatch.square { border-radius: 0; }
"""
SCRIPT = """
for (const figure of document.querySelectorAll("figure.map")) {
  const names = JSON.parse(document.getElementById("map-ids").textContent);
  const svg = figure.querySelector("svg"), ring = svg.querySelector(".ring"), told = figure.querySelector("output");
  const paths = [...svg.querySelectorAll(".dots")], points = [];
  for (const path of paths) {
    const at = path.dataset.at.split(" ");
    let place = 0;
    for (const [, x, y] of path.getAttribute("d").matchAll(/M(\\d+) (\\d+)/g))
      points.push({x: +x, y: +y, id: names[at[place++]], label: path.dataset.label});
  }
  points.sort((a, b) => a.x - b.x || a.y - b.y);
  let shown = -1;
  const show = place => {
    shown = place;
    const point = points[place];
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    ring.setAttribute("r", 8);
    told.textContent = point.label ? point.id + " · " + point.label : point.id;
  };
  const point = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = -1, least = 24 * 24;
    points.forEach((one, place) => {
      const far = (one.x - x) ** 2 + (one.y - y) ** 2;
      if (far < least) { least = far; best = place; }
    });
    if (best >= 0) show(best);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("click", point);
  svg.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (!step || !points.length) return;
    event.preventDefault();
    show((shown + step + points.length) % points.length);
  });
}
const buttons = [...document.querySelectorAll(".legend button")];
for (const button of buttons) button.addEventListener("click", () => {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of buttons) other.setAttribute("aria-pressed", on && other === button);
  for (const path of document.querySelectorAll("figure.map .dots"))
    path.classList.toggle("faint", on && path.dataset.group !== button.dataset.group);
});
"""


class EmbeddingMap(NamedTuple):
    """Samples of one partition in the plane: float64 (samples, 2); ``labels``: None where a sample has none."""

    title: str
    ids: tuple[str, ...]
    points: npt.NDArray[np.float64]
    labels: tuple[str | None, ...]
    notes: tuple[str, ...]


def drawn(maps: Sequence[EmbeddingMap]) -> str:
    """Return maps side by side under one legend: a label has one colour. ``SCRIPT`` belongs to the page, once."""
    labels = {sample: label for one in maps for sample, label in zip(one.ids, one.labels, strict=True)}
    counts = Counter(label for label in labels.values() if label)
    names = [label for label, _ in counts.most_common(MOST_COLOURS)]
    shown = {name: counts[name] for name in names}
    if rest := len(labels) - sum(shown.values()):
        shown[""] = rest
    others = len(counts) - len(names)
    said = {name: name or (f"{others} rarer labels, or none" if others else "no label") for name in shown}
    places: dict[str, int] = {}
    figures = "".join(_figure(one, said, places) for one in maps)
    listed = json.dumps([shortened(one, ID_LETTERS) for one in places], ensure_ascii=False).replace("<", "\\u003c")
    legend = _legend(shown, said) if counts else ""
    return f"{legend}<div class=pair>{figures}</div><script type='application/json' id=map-ids>{listed}</script>"


def _legend(shown: Mapping[str, int], said: Mapping[str, str]) -> str:
    """Return one button a group: it makes the others faint."""
    buttons = []
    for place, (name, count) in enumerate(shown.items()):
        swatch = f"<i class='swatch {charts.look(place) if name else 'rest'}'></i>"
        label = f"<span>{escape(shortened(said[name], ID_LETTERS))} ({count:,})</span>"
        buttons.append(f"<button type=button aria-pressed=false data-group={place}>{swatch}{label}</button>")
    return f"<div class=legend role=group aria-label='labels: choose one to see it alone'>{''.join(buttons)}</div>"


def _figure(one: EmbeddingMap, said: Mapping[str, str], places: dict[str, int]) -> str:
    groups: dict[str, list[int]] = {name: [] for name in said}
    for row, label in enumerate(one.labels):
        groups[label if label and label in groups else ""].append(row)
    points, beyond = _within(one.points)
    attributes = {}
    for group, (name, rows) in enumerate(groups.items()):
        at = " ".join(str(places.setdefault(one.ids[row], len(places))) for row in rows)
        label = escape(shortened(name, ID_LETTERS))
        attributes[name] = f"data-group='{group}' data-at='{at}' data-label='{label}'"
    words = f"{one.title}: {len(one.ids)} samples in two dimensions. Arrow keys go from sample to sample."
    ring = "<circle class=ring r=0 />"
    svg = charts.scatter({name: points[rows] for name, rows in groups.items()}, words, attributes, ring)
    notes = [*one.notes, *([f"{beyond} far out, drawn at the edge."] if beyond else [])]
    return (
        f"<figure class='map{' few' * (len(one.ids) <= FEW)}'><h3>{escape(one.title)}</h3>{svg}"
        "<output aria-live=polite>Point at a dot, tap it, or use the arrow keys.</output>"
        f"<p class=notes>{escape(' '.join(notes))}</p></figure>"
    )


def _within(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Bring the few points that would make all others one speck to the edge; returns also how many."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    room = WIDEST * (high - low).max()
    kept = np.clip(points, low - room, high + room)
    return kept, int((kept != points).any(axis=1).sum())
