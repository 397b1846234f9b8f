"""Trained networks as one page: no network, no script needed to read it, readable at the width of a phone."""

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmray.report import training_charts as charts
from mmray.report.page import Html, confusion, contents, leaks, table, tiles
from mmray.report.page import page as whole

if TYPE_CHECKING:
    from mmray.fusion.views import View

Record = Mapping[str, Any]
STYLE = """
.span { background: var(--c0); opacity: .4; } .dot-at { width: 2px; background: var(--c0); }
.wide td, .wide th { white-space: nowrap; }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .5rem 2rem; }
.thumbnail { display: block; width: 6rem; max-height: 4.5rem; object-fit: contain; object-position: left;
  image-rendering: pixelated; }
.views img { display: block; width: 10rem; max-width: 100%; image-rendering: pixelated; }
"""
ID = "sample_id_"
LEGEND = (
    "Of the test parts of all folds together; bar and brackets are 95 % intervals. Calibration error (ECE): how far "
    "confidence is from the share of right answers, at temperature 1 and at the temperature fitted on the validation "
    "part. Worst gap: how far a fusion falls below the best single network of its inputs, clean and at every level of "
    "noise; negative where it is always better."
)
PAIRS = "Examples are pairs that share samples: intervals take them for independent, and are too narrow."


# Input and sample -> a data URI.
Thumbnails = Mapping[tuple[str, str], str]


def page(
    account: Record, epochs: Sequence[Record], views: "Sequence[View]", thumbnails: Thumbnails = MappingProxyType({})
) -> str:
    """Return the HTML of an evaluation; ``account``: what ``mmray evaluate --json`` prints.

    ``epochs``: the rows of OUT/epochs.parquet; ``views``: of an example of each input; ``thumbnails``: of samples that
    were answered wrongly.
    """
    board = account["leaderboard"]
    best = board[0]["accuracy"] if board else None
    head = {
        "networks": f"{account['networks']:,}", "folds": f"{len(account['folds']):,}",
        "pairs tested" if account["pairs"] else "examples tested": f"{account['examples']:,}",
        "best accuracy": share(best),
    }  # fmt: skip
    figures = {row["network"]: account["figures"][row["network"]] for row in board}
    sections = {
        "Leaderboard": _board(account),
        "An input taken away": _removed(figures),
        "Under noise": charts.noise(figures, account["noise"]) + _below(account),
        "Whom the gates trust": charts.weights(figures, account["noise"]),
        "Calibration": _calibration(figures) + charts.reliability(figures),
        "Where single networks disagree": _disagreements(account["disagreements"]),
        "Confusion matrices": _confusions(figures, account["classes"]),
        "Folds": _folds(figures, account["folds"]),
        "Most confident errors": _errors(account["errors"], board, thumbnails),
        "Training": charts.curves(epochs),
        "Examples": charts.views(views),
        "Classes": _classes(account["folds"]),
        "Left out": "<ul>" + "".join(f"<li>{escape(note)}" for note in account["notes"] or ["nothing"]) + "</ul>",
    }
    top = f"<header><h1>Evaluation</h1>{leaks(account['warnings'])}{tiles(head)}</header>"
    return whole("mmray evaluation", [top, *contents(sections)], STYLE)


def share(value: float | None) -> str:
    """Return a share with three digits; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def interval(row: Record) -> str:
    """Return an accuracy with its 95 % interval."""
    if row["accuracy"] is None:
        return ""
    return f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"


def _board(account: Record) -> str:
    rows = [
        (
            row["network"], " + ".join(row["inputs"]), row["examples"], interval(row), _bar(row),
            share(row["macro_f1"]), share(row["balanced_accuracy"]),
            f"{row['ece_before']:.3f} → {row['ece_after']:.3f}",
            "" if row["worst_gap"] is None else f"{row['worst_gap']:+.4f} ({row['worst_gap_at']})",
        )
        for row in account["leaderboard"]
    ]  # fmt: skip
    head = ("network", "inputs", "examples", "accuracy", "", "macro F1", "balanced", "ECE", "worst gap")
    pairs = f"<p class=soft>{PAIRS}</p>" if account["pairs"] else ""
    return f"<p>{LEGEND}</p>{pairs}{table(head, rows, 'leaderboard')}"


def _bar(row: Record) -> Html:
    if row["accuracy"] is None:
        return Html("")
    low, high, at = (100 * row[name] for name in ("accuracy_low", "accuracy_high", "accuracy"))
    return Html(
        f"<div class=track><i class=span style='left:{low:.1f}%;"
        f"width:{high - low:.1f}%'></i><i class=dot-at style='left:{at:.1f}%'></i></div>"
    )


def _removed(figures: Record) -> str:
    rows = [
        (name, "nothing", about["examples"], about["unanswered"], interval(about), share(about["macro_f1"]))
        if one is None
        else (name, one["input"], one["examples"], one["unanswered"], interval(one), share(one["macro_f1"]))
        for name, about in figures.items() if about["removed"] for one in (None, *about["removed"])
    ]  # fmt: skip
    if not rows:
        return ""
    head = ("network", "without", "answered", "not answered", "accuracy", "macro F1")
    said = "<p>Examples with nothing left are answered by nobody, and count in no figure.</p>"
    return said + table(head, rows, "an input taken away")


def _below(account: Record) -> str:
    lines = "".join(f"<li>{escape(one)}" for one in account["below"])
    return f"<p class=warn>More than 0.005 below the best single network:</p><ul>{lines}</ul>" if lines else ""


def _calibration(figures: Record) -> str:
    rows = []
    for name, about in figures.items():
        for condition, found in about["calibration"].items():
            if found and found["examples"]:
                pairs = [(found["before"][one], found["after"][one]) for one in ("ece", "nll", "brier")]
                shown = (f"{before:.4f} → {after:.4f}" for before, after in pairs)
                rows.append((name, "all noise" if condition == "noise" else condition, found["examples"], *shown))
    head = ("network", "examples are", "number", "ECE", "NLL", "Brier")
    return "<p>At temperature 1 → at the fitted one; less is better.</p>" + table(head, rows, "calibration")


def _disagreements(found: Sequence[Record]) -> str:
    rows = []
    for one in found:
        first, second = one["networks"]
        where = f"{first} / {second}, {'all noise' if one['condition'] == 'noise' else 'clean'}"
        cases = ("only_first", "only_second", "neither")
        rows.append((where, one["examples"], *(one[case] for case in cases)))
        rows += [
            (Html(f"&emsp;{escape(name)} right"), "", *(_of(right[case], one[case]) for case in cases))
            for name, right in one["answered_rightly"].items()
        ]
    if not rows:
        return ""
    head = ("networks", "examples of both", "only the first is right", "only the second", "neither")
    said = (
        "<p>How often two single networks answer differently and who is right; below, what each fusion made of it.</p>"
    )
    return said + table(head, rows, "disagreements")


def _of(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.0f} %)" if total else ""


def _confusions(figures: Record, classes: Sequence[str]) -> str:
    return "<p>Rows are the true classes, columns the answers.</p>" + "".join(
        f"<details{' open' * (place == 0)}><summary>{escape(name)}, {interval(about)}</summary>"
        f"{confusion(classes, about['confusion'], f'confusion matrix of {name}')}</details>"
        for place, (name, about) in enumerate(figures.items())
    )


def _folds(figures: Record, folds: Sequence[Record]) -> str:
    by = {name: {row["fold"]: row for row in about["folds"]} for name, about in figures.items()}
    rows = [
        (
            str(fold["fold"]),
            ", ".join(fold["held_out"]),
            fold["examples"],
            *(interval(own[fold["fold"]]) if fold["fold"] in own else "" for own in by.values()),
        )
        for fold in folds
    ]
    return table(("fold", "held out", "examples", *by), rows, "folds")


def _errors(errors: Record, board: Sequence[Record], thumbnails: Thumbnails) -> str:
    parts: list[str] = []
    for row in board:
        if own := errors.get(row["network"]):
            inputs = [name for name in row["inputs"] if ID + name in own[0]]
            lines = [
                (
                    *(_sample(one[ID + name], thumbnails.get((name, one[ID + name]))) for name in inputs),
                    one["label"],
                    one["answer"],
                    one["confidence"],
                    str(one["fold"]),
                )
                for one in own
            ]
            shown = table((*inputs, "is", "taken for", "confidence", "fold"), lines, f"errors of {row['network']}")
            opened = " open" * (not parts)
            parts.append(f"<details{opened}><summary>{escape(row['network'])}</summary>{shown}</details>")
    return "".join(parts)


def _sample(name: str | None, picture: str | None) -> Html:
    words = escape(name or "")
    return Html(f"<img class=thumbnail alt='{words}' src='{picture}'>{words}" if picture else words)


def _classes(folds: Sequence[Record]) -> str:
    parts = []
    for fold in folds:
        counts = fold["counts"]
        columns = [(part, name) for part in counts for name in counts[part]]
        head = ("class", *(f"{part} {name}".strip() for part, name in columns))
        labels = counts["test"][columns[0][1]]
        rows = [(label, *(counts[part][name][label] for part, name in columns)) for label in labels]
        title = f"fold {fold['fold']}" + (f" ({', '.join(fold['held_out'])} held out)" if fold["held_out"] else "")
        parts.append(f"<details><summary>{escape(title)}</summary>{table(head, rows, title)}</details>")
    return "<p>Samples of each class in each part; tests may ask a sample more than once.</p>" + "".join(parts)
