"""What all pages share: the shell, the look in light and dark, tables, confusion matrices.

A page is one file that asks nobody for anything. Text is escaped here, unless it is ``Html``.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mmray.report.cards import shortened

MOST_CLASSES = 40  # of a confusion matrix; with more, the most frequent mistakes are listed
MOST_MISTAKES = 30
LETTERS_ACROSS = 3  # of a name above a column: longer ones stand upright
LETTERS = 60  # of a name in a confusion matrix
STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --paper: #fff; --ink: #1d1c1a; --soft: #635e57; --line: #e0dcd4;
  --warn: #9a4b00; --c0: #0072b2; --c1: #e8590c; --c2: #009e73; --c3: #e04fd0; --c4: #4a148c; --c5: #8c1d40;
  --c6: #7d6200; --c7: #64748b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161513; --paper: #211f1c; --ink: #ece8e1; --soft: #aaa397; --line: #3a3630; --warn: #ffb070;
    --c0: #5ab4f0; --c1: #ff8f4d; --c2: #35c99a; --c3: #ee9ccb; --c4: #f0d24a; --c5: #3f7fd0; --c6: #e8e8e8;
    --c7: #c08f6e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.25rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0 0 .25rem; font-size: 1.5rem; line-height: 1.2; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; }
h3 { margin: 1.25rem 0 .4rem; font-size: 1rem; } p { margin: .35rem 0; max-width: 60rem; }
a { color: inherit; } summary { cursor: pointer; padding: .3rem 0; } code { font-size: .9em; }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin: .75rem 0; font-size: .9rem; }
.soft, .about, .notes { color: var(--soft); font-size: .875rem; }
.warn { border-left: 4px solid var(--c1); padding: .3rem .7rem; background: #d9770622; }
.wide { overflow-x: auto; max-width: 100%; } .wide table { overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  font-weight: 400; }
thead th { color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.cm td, .cm th { border: 1px solid var(--line); padding: .2rem .4rem; }
.cm td { text-align: right; min-width: 1.8rem; }
.cm th[scope=row] { position: sticky; left: 0; background: var(--ground); max-width: 9rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.cm th[scope=col] { vertical-align: bottom; text-align: center; } .cm thead th { color: inherit; }
.cm .tall { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.track { position: relative; height: .7rem; min-width: 5rem;
  background: color-mix(in srgb, var(--ink) 9%, transparent); }
.track i { position: absolute; top: 0; bottom: 0; } .fill { left: 0; background: var(--c, var(--c0)); }
.bar { vertical-align: middle; } .bars { width: 100%; max-width: 34rem; } .bars th { max-width: 16rem; }
.bars td.bar { width: 55%; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { padding: .5rem .9rem; background: var(--paper); border: 1px solid var(--line); border-radius: .6rem;
  color: var(--soft); font-size: .875rem; }
.tiles b { display: block; color: var(--ink); font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: .5rem 2rem;
  align-items: start; }
.pair > * { min-width: 0; }
figure { margin: .75rem 0; min-width: 0; } figcaption { font-size: .875rem; }
.chart { max-width: 34rem; } .chart svg[role=img] { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); } .key { display: inline-flex; align-items: center;
  gap: .35rem; margin-right: 1rem; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; } .dot { fill: var(--c); }
.band { fill: var(--c); opacity: .18; } .solid { fill: var(--c); stroke: var(--c); stroke-width: .5; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
"""


class Html(str):
    """Markup that was made here: not escaped again."""

    __slots__ = ()


def page(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """Return a whole page; ``parts`` and ``script`` are markup and code of ours, ``title`` is any text."""
    code = f"<script>{script}</script>\n" if script else ""
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        f'<meta name=viewport content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n{code}</body>\n</html>\n"
    )


def contents(sections: Mapping[str, str]) -> list[str]:
    """Return links to the sections (name -> markup) that are not empty, and then the sections."""
    there = {name: markup for name, markup in sections.items() if markup}
    links = "".join(f"<a href='#{_slug(name)}'>{escape(name)}</a>" for name in there)
    listed = [
        f"<section id='{_slug(name)}'><h2>{escape(name)}</h2>\n{markup}</section>" for name, markup in there.items()
    ]
    return [f"<nav aria-label=sections>{links}</nav>", "<main>", *listed, "</main>"]


def _slug(name: str) -> str:
    return "-".join(
        "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in name).lower().split()
    )


def tiles(numbers: Mapping[str, str]) -> str:
    """Return figures to see first: what -> how much."""
    return (
        "<ul class=tiles>" + "".join(f"<li><b>{escape(n)}</b>{escape(what)}" for what, n in numbers.items()) + "</ul>"
    )


def leaks(warnings: Iterable[str]) -> str:
    """Return what stands on both sides of a split, loudly."""
    return "".join(f"<p class=warn><b>Leak:</b> {escape(one)}</p>" for one in warnings)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], label: str = "") -> str:
    """Return a table that scrolls in its own box; numbers stand to the right, the first cell names the row."""
    lines, numeric = [], [False] * len(head)
    for row in rows:
        cells = []
        for place, value in enumerate(row):
            number = isinstance(value, int | float)
            numeric[place] |= number
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if number else _text(value)
            look = " class=n" if number else " class=bar" if isinstance(value, Html) else ""
            cells.append(f"<th scope=row>{text}" if place == 0 else f"<td{look}>{text}")
        lines.append(f"<tr>{''.join(cells)}")
    titles = "".join(f"<th{' class=n' * numeric[place]}>{escape(name)}" for place, name in enumerate(head))
    return wide(f"<table><thead><tr>{titles}</thead><tbody>{''.join(lines)}</tbody></table>", label or head[0])


def wide(markup: str, label: str) -> str:
    """Return something that may be wider than a phone, in a box that scrolls, by keys too."""
    return f"<div class=wide tabindex=0 role=region aria-label='{escape(label)}'>{markup}</div>"


def _text(value: Any) -> str:
    return value if isinstance(value, Html) else "" if value is None else escape(str(value))


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], label: str = "confusion matrix") -> str:
    """Return a confusion matrix (rows: true classes); of more than 40 classes the 30 most frequent mistakes."""
    if len(classes) > MOST_CLASSES:
        return _mistakes(classes, counts)
    upright = " class=tall" * (max(map(len, classes), default=0) > LETTERS_ACROSS)
    head = "".join(
        f"<th scope=col title='{escape(name)}'><div{upright}>{escape(shortened(name, LETTERS))}</div>"
        for name in classes
    )
    lines = []
    for place, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = max(1, sum(row))
        shades = "".join(_shade(count, count / total, place == column) for column, count in enumerate(row))
        lines.append(f"<tr><th scope=row title='{escape(name)}'>{escape(shortened(name, LETTERS))}{shades}")
    head = f"<thead><tr><th><span class=soft>true ↓ answer →</span>{head}</thead>"
    return wide(f"<table class=cm>{head}<tbody>{''.join(lines)}</tbody></table>", label)


def _shade(count: int, share: float, right: bool) -> str:
    if not count:
        return "<td>"
    colour = "var(--c0)" if right else "var(--c1)"
    return f"<td style='background:color-mix(in srgb,{colour} {10 + 38 * share:.0f}%,transparent)'>{count}"


def _mistakes(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    found = [
        (count, name, classes[column], sum(row))
        for place, (name, row) in enumerate(zip(classes, counts, strict=True))
        for column, count in enumerate(row)
        if count and column != place
    ]
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    rows = [(name, taken, count, f"{100 * count / total:.0f} %") for count, name, taken, total in found[:MOST_MISTAKES]]
    said = f"<p class=soft>{len(classes)} classes: the {len(rows)} most frequent of {len(found)} kinds of mistake.</p>"
    return said + table(("true class", "taken for", "times", "of the class"), rows)
