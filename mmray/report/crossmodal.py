"""Maps between two embeddings as one page: how often each finds the right target, beside chance."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mmray.report import charts
from mmray.report.page import contents, leaks, page, table, tiles

RANKS = (1, 5, 10)


def render(title: str, results: Mapping[str, Any]) -> str:
    """Return the page; ``results``: what ``results.json`` of a cross-modal study holds."""
    found = {"chance": results["chance"], **results["maps"]}
    figures = {
        "pairs": f"{results['pairs']:,}",
        "fitted on": f"{results['fitted_on']:,}",
        "asked about": f"{results['asked']:,}",
        "candidates": f"{results['candidates']:,}",
    }
    recall = {name: [(k, about[f"recall_at_{k}"]) for k in RANKS] for name, about in found.items()}
    rows = [
        (name, *(f"{about[f'recall_at_{k}']:.3f}" for k in RANKS), about["median_rank"], _different(about))
        for name, about in found.items()
    ]
    head = ("map", *(f"recall at {k}" for k in RANKS), "median rank", "different answers")
    excluded = [f"{count:,} {why.replace('_', ' ')}" for why, count in results["excluded"].items() if count]
    sections = {
        "Maps": "<p>Which target belongs to this source? Recall at k: how often the right one is among the k nearest. "
        "Different answers: how many targets are anybody's nearest; few of them is a collapse.</p>"
        + charts.line_chart(recall, "k", "recall", title="Recall", y_range=(0, 1))
        + table(head, rows, "maps"),
        "Left out": f"<p>{escape(', '.join(excluded))}</p>" if excluded else "",
    }
    sides = " to ".join(f"{results[side]['extractor']} ({results[side]['pooling']})" for side in ("source", "target"))
    about = f"<p class=about>{escape(sides)}</p>{leaks(results['warnings'])}"
    head_of_page = f"<header><h1>{escape(title)}</h1>{about}{tiles(figures)}</header>"
    return page(f"{title} · mmray report", [head_of_page, *contents(sections)])


def _different(about: Mapping[str, Any]) -> str:
    return f"{about['different_answers']:.4g} ({about['different_share']:.0%})"
