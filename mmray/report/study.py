"""A study as one page: no network, no script needed to read it, readable at the width of a phone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LEGEND = (
    "Of the test parts alone. The bar is the 95 % interval of the accuracy; <i>balanced</i> is the mean recall of the "
    "classes. <i>published</i>, and the red mark, is the figure a document gives for its own run on its own corpus: "
    "not a result of this study."
)
SHOWN = 10  # confusion matrices: of the best rows, and of those with a published figure
STYLE = """
:root{color-scheme:light dark;--line:#8884;--bar:#3b82f6;--soft:#8882}
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:76rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}
th,td{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.warn{border-left:4px solid #d97706;padding:.3rem .7rem;background:#d9770622}
.track{position:relative;height:.7rem;min-width:7rem;background:var(--soft)}
.span,.dot{position:absolute;top:0;bottom:0}.span{background:var(--bar);opacity:.4}.dot{width:2px;background:var(--bar)}
.theirs{position:absolute;top:-2px;bottom:-2px;width:2px;background:#dc2626}
.cm td{border:1px solid var(--line);text-align:right;min-width:1.6rem}.cm th{font-weight:400}
@media (max-width:40rem){body{padding:.5rem}.board thead{display:none}.board tr{display:block;padding:.5rem 0;
border-bottom:1px solid var(--line)}.board td{display:inline-block;border:0;padding:.1rem .4rem .1rem 0}
.board td[data-h]::before{content:attr(data-h) " ";opacity:.6}.board td.bar{display:block}}
"""
HEAD = (
    "#", "embeddings", "fusion", "classifier", "labels", "samples", "accuracy", "95 %", "macro F1", "balanced", "s",
    "published", "",
)  # fmt: skip


def page(account: Mapping[str, Any], confusions: Sequence[Any], splits: Mapping[str, Any]) -> str:
    """Return the HTML of a study: warnings, leaderboard, confusion matrices, class counts per split, what was left out.

    ``confusions``: for each row of the leaderboard ``{"classes", "counts"}`` or None; ``splits``: for each label set
    the class counts of each fold of one cell.
    """
    rows = account["leaderboard"]
    picked = [n for n, row in enumerate(rows) if confusions[n] and (n < SHOWN or row["published"] is not None)]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1"><title>mmray study</title>',
        f"<style>{STYLE}</style></head><body><h1>Study</h1>",
        f"<p>{account['cells']} cells: {account['done']} done, {account['failed']} failed, "
        f"{account['timed_out']} timed out.</p>",
        *(f"<p class=warn><b>Leak:</b> {escape(one)}</p>" for one in account["warnings"]),
        f"<h2>Leaderboard</h2><p>{LEGEND}</p>",
        _board(rows),
        "<h2>Confusion matrices</h2><p>Rows are the true classes, columns the answers.</p>",
        *(_confusion(rows[n], confusions[n]) for n in picked),
        "<h2>Classes</h2>",
        *(_classes(name, about, splits.get(name)) for name, about in account["labels"].items()),
        "<h2>Left out</h2><ul>" + "".join(f"<li>{escape(note)}" for note in account["notes"] or ["nothing"]) + "</ul>",
        "</body></html>",
    ]
    return "\n".join(parts)


def _board(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{name}" for name in HEAD)
    return (
        f"<div class=wide><table class=board><thead><tr>{head}</thead>" + "".join(map(_line, rows)) + "</table></div>"
    )


def _line(row: Mapping[str, Any]) -> str:
    plain = [escape(str(row[name])) for name in ("embeddings", "fusion", "classifier", "labels")]
    figures = [_share(row["accuracy"]), None, _share(row["macro_f1"]), _share(row["balanced_accuracy"])]
    cells = [f"<td class=n>{row['rank']}", f"<td><b>{plain[0]}</b>", *(f"<td>{one}" for one in plain[1:])]
    cells.append(f"<td class=n data-h=samples>{row['samples'] or ''}")
    for name, figure in zip(HEAD[6:10], figures, strict=True):
        cells.append(f"<td class=bar>{_bar(row)}" if figure is None else f"<td class=n data-h='{name}'>{figure}")
    theirs = f"{_share(row['published'])} (table {escape(row['table'])})" if row["published"] is not None else ""
    status = "" if row["status"] == "done" else f"<b>{escape(row['status'])}</b> "
    cells.append(f"<td class=n data-h=s>{row['seconds']:.1f}")
    cells.append(f"<td class=n data-h=published>{theirs}" if theirs else "<td>")
    return "<tr>" + "".join([*cells, f"<td>{status}{escape(row['detail'] or '')}"])


def _bar(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return ""
    low, high, at = (100 * row[name] for name in ("accuracy_low", "accuracy_high", "accuracy"))
    theirs = f"<i class=theirs style='left:{100 * row['published']:.1f}%'></i>" if row["published"] is not None else ""
    return (
        f"<div class=track title='{low:.1f} to {high:.1f} %'><i class=span style='left:{low:.1f}%;"
        f"width:{high - low:.1f}%'></i><i class=dot style='left:{at:.1f}%'></i>{theirs}</div>"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _confusion(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    title = f"{row['rank']}. {row['embeddings']}, {row['fusion']}, {row['classifier']}, {row['labels']}"
    head = "".join(f"<th>{escape(name[:12])}" for name in found["classes"])
    lines = []
    for name, counts in zip(found["classes"], found["counts"], strict=True):
        total = max(1, sum(counts))
        shades = "".join(f"<td style='background:rgba(59,130,246,{count / total:.2f})'>{count}" for count in counts)
        lines.append(f"<tr><th>{escape(name)}{shades}")
    table = f"<div class=wide><table class=cm><tr><th>{head}{''.join(lines)}</table></div>"
    return f"<details{' open' * (row['rank'] == 1)}><summary>{escape(title)}</summary>{table}</details>"


def _classes(name: str, about: Mapping[str, Any], folds: Sequence[Mapping[str, Any]] | None) -> str:
    left = ", ".join(f"{count} {why}" for why, count in about["left_out"].items())
    columns = [(f"fold {n} {side}", fold[side]) for n, fold in enumerate(folds or [], 1) for side in fold]
    head = "".join(f"<th class=n>{title}" for title in ["all", *(title for title, _ in columns)])
    lines = "".join(
        f"<tr><td>{escape(label)}<td class=n>{count}"
        + "".join(f"<td class=n>{fold.get(label, 0)}" for _, fold in columns)
        for label, count in about["classes"].items()
    )
    said = f"<p>Left out: {escape(left)}.</p>" if left else ""
    table = f"<div class=wide><table><tr><th>class{head}{lines}</table></div>"
    return f"<details><summary>{escape(name)}</summary>{said}{table}</details>"
