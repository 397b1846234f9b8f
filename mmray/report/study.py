"""A study as one page: no network, no script needed to read it, readable at the width of a phone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from mmray.report import embedding_map
from mmray.report.cards import STYLE as CARDS
from mmray.report.cards import Sample, cards
from mmray.report.embedding_map import EmbeddingMap
from mmray.report.page import confusion, contents, leaks, tiles, wide
from mmray.report.page import page as whole

LEGEND = (
    "Of the test parts alone, with 95 % intervals of the accuracy; <i>balanced</i> is the mean recall of the classes. "
    "Several seeds count together: figures are of all their answers."
)
PUBLISHED = (
    " <i>published</i>, and the red mark, is the figure a document gives for its own run on its own corpus: not a "
    "result of this study."
)
SHOWN = 10  # confusion matrices: of the best rows, and of those with a published figure
MOST_ROWS = 500  # of the leaderboard, beside those with a published figure
MOST_CLASSES = 100  # of the table of class counts
STYLE = """
.span { background: var(--c0); opacity: .4; }
.between { display: flex; align-items: center; gap: .5rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.between .track { flex: 1; }
.dot-at { width: 2px; background: var(--c0); }
.track .theirs { top: -2px; bottom: -2px; width: 2px; background: #dc2626; }
.board td:last-child { min-width: 10rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .board thead { display: none; } .board, .board tbody { display: block; overflow-wrap: anywhere; }
  .board tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .board td { display: inline-block; max-width: 100%; border: 0; padding: .1rem .4rem .1rem 0; }
  .board td[data-h]::before { content: attr(data-h) " "; color: var(--soft); } .board td.bar { display: block; }
}
"""
HEAD = (
    "#", "embeddings", "fusion", "classifier", "labels", "tested", "accuracy", "95 %", "macro F1", "balanced", "s",
)  # fmt: skip


class StudyReport(NamedTuple):
    """What the report of a study says beside its own page.

    ``worst``: label set -> the samples most often answered wrongly; ``tested``, ``wrong``: how many samples were
    tested, and answered wrongly by some cell.
    """

    title: str
    account: Mapping[str, Any]
    confusions: Sequence[Any]
    splits: Mapping[str, Any]
    worst: Mapping[str, Sequence[Sample]]
    tested: Mapping[str, int]
    wrong: Mapping[str, int]
    maps: Sequence[EmbeddingMap]


def report(about: StudyReport) -> str:
    """Return the report of a study: its own page, with the worst errors and a map of the best embedding."""
    found = sections(about.account, about.confusions, about.splits)
    best = about.account["leaderboard"][:1]
    figures = {
        "cells": f"{about.account['cells']:,}",
        "failed or timed out": f"{about.account['failed'] + about.account['timed_out']:,}",
        "best accuracy": _share(best[0]["accuracy"]) if best else "",
        "samples tested": f"{max(about.tested.values(), default=0):,}",
    }
    head = f"<header><h1>{escape(about.title)}</h1>{found.pop('')}{tiles(figures)}</header>"
    maps = embedding_map.drawn(about.maps) if about.maps else ""
    ordered = {"Leaderboard": found.pop("Leaderboard"), "Worst errors": _worst(about), "Map of the best": maps, **found}
    style = STYLE + CARDS + embedding_map.STYLE
    script = embedding_map.SCRIPT if about.maps else ""
    return whole(f"{about.title} · mmray report", [head, *contents(ordered)], style, script)


def _worst(about: StudyReport) -> str:
    parts = []
    for name, samples in about.worst.items():
        counts = f"{about.wrong[name]:,} of {about.tested[name]:,} samples are answered wrongly by some cell"
        more = f", of which these {len(samples)} most often" if len(samples) < about.wrong[name] else ""
        said = f"Labels {name}: {counts}, the majority baseline apart{more}."
        parts.append(f"<p>{escape(said)}</p>{cards(samples)}")
    return "".join(parts)


def page(account: Mapping[str, Any], confusions: Sequence[Any], splits: Mapping[str, Any]) -> str:
    """Return the HTML of a study: warnings, leaderboard, confusion matrices, class counts per split, what was left out.

    ``confusions``: for each row of the leaderboard ``{"classes", "counts"}`` or None; ``splits``: for each label set
    the class counts of each fold of one cell.
    """
    found = sections(account, confusions, splits)
    parts = ["<h1>Study</h1>", *(f"<h2>{name}</h2>{markup}" if name else markup for name, markup in found.items())]
    return whole("mmray study", parts, STYLE)


def sections(account: Mapping[str, Any], confusions: Sequence[Any], splits: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of the page of a study: name -> markup; "" is what stands first."""
    rows = account["leaderboard"]
    picked = [n for n, row in enumerate(rows) if confusions[n] and (n < SHOWN or row["published"] is not None)]
    classes = "".join(_classes(name, about, splits.get(name)) for name, about in account["labels"].items())
    return {
        "": f"<p>{account['cells']} cells: {account['done']} done, {account['failed']} failed, "
        f"{account['timed_out']} timed out.</p>" + leaks(account["warnings"]),
        "Leaderboard": _board(rows),
        "Confusion matrices": "<p>Rows are the true classes, columns the answers.</p>"
        + "".join(_confusion(rows[n], confusions[n]) for n in picked),
        "Classes": classes,
        "Left out": "<ul>" + "".join(f"<li>{escape(note)}" for note in account["notes"] or ["nothing"]) + "</ul>",
    }


def _board(rows: Sequence[Mapping[str, Any]]) -> str:
    published = any(row["published"] is not None for row in rows)
    numbers = HEAD.index("tested")
    head = "".join(
        f"<th scope=col{' class=n' * (place >= numbers and name != '95 %')}>{name}"
        for place, name in enumerate((*HEAD, *["published"] * published, ""))
    )
    legend = f"<p>{LEGEND}{PUBLISHED * published}</p>"
    shown = [row for place, row in enumerate(rows) if place < MOST_ROWS or row["published"] is not None]
    said = "" if len(shown) == len(rows) else f"<p>{len(shown)} of {len(rows)} rows; leaderboard.csv has all.</p>"
    lines = "".join(_line(row, published) for row in shown)
    return legend + said + wide(f"<table class=board><thead><tr>{head}</thead>{lines}</table>", "leaderboard")


def _line(row: Mapping[str, Any], published: bool) -> str:
    plain = [escape(str(row[name])) for name in ("embeddings", "fusion", "classifier", "labels")]
    figures = [_share(row["accuracy"]), None, _share(row["macro_f1"]), _share(row["balanced_accuracy"])]
    cells = [f"<td class=n>{row['rank']}", f"<td><b>{plain[0]}</b>", *(f"<td>{one}" for one in plain[1:])]
    cells.append(f"<td class=n data-h=tested>{row['tested'] or ''}")
    for name, figure in zip(HEAD[6:10], figures, strict=True):
        cells.append(f"<td class=bar>{_bar(row)}" if figure is None else f"<td class=n data-h='{name}'>{figure}")
    status = "" if row["status"] == "done" else f"<b>{escape(row['status'])}</b> "
    cells.append(f"<td class=n data-h=s>{row['seconds']:.1f}")
    if published:
        cells.append(_theirs(row))
    return "<tr>" + "".join([*cells, f"<td>{status}{escape(row['detail'] or '')}"])


def _theirs(row: Mapping[str, Any]) -> str:
    if row["published"] is None:
        return "<td>"
    return f"<td class=n data-h=published>{_share(row['published'])} (table {escape(row['table'])})"


def _bar(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return ""
    low, high, at = (100 * row[name] for name in ("accuracy_low", "accuracy_high", "accuracy"))
    theirs = f"<i class=theirs style='left:{100 * row['published']:.1f}%'></i>" if row["published"] is not None else ""
    return (
        f"<div class=between><div class=track><i class=span style='left:{low:.1f}%;width:{high - low:.1f}%'></i>"
        f"<i class=dot-at style='left:{at:.1f}%'></i>{theirs}</div>{low / 100:.3f} to {high / 100:.3f}</div>"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _confusion(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    title = escape(f"{row['rank']}. {row['embeddings']}, {row['fusion']}, {row['classifier']}, {row['labels']}")
    matrix = confusion(found["classes"], found["counts"], f"confusion matrix of row {row['rank']}")
    return f"<details{' open' * (row['rank'] == 1)}><summary>{title}</summary>{matrix}</details>"


def _classes(name: str, about: Mapping[str, Any], folds: Sequence[Mapping[str, Any]] | None) -> str:
    left = ", ".join(f"{count} {why}" for why, count in about["left_out"].items())
    columns = [(f"fold {n} {side}", fold[side]) for n, fold in enumerate(folds or [], 1) for side in fold]
    head = "".join(f"<th class=n>{title}" for title in ["all", *(title for title, _ in columns)])
    lines = "".join(
        f"<tr><td>{escape(label)}<td class=n>{count}"
        + "".join(f"<td class=n>{fold.get(label, 0)}" for _, fold in columns)
        for label, count in list(about["classes"].items())[:MOST_CLASSES]
    )
    said = f"<p>Left out: {escape(left)}.</p>" if left else ""
    if (more := len(about["classes"]) - MOST_CLASSES) > 0:
        said += f"<p>The {MOST_CLASSES} most frequent classes; {more} more are not shown.</p>"
    table = wide(f"<table><tr><th>class{head}{lines}</table>", f"classes of {name}")
    return f"<details><summary>{escape(name)}</summary>{said}{table}</details>"
