"""A store as one page: its account, who has what, classes, media, maps of its embeddings, what failed."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from mmray.errors import Reason
from mmray.report import charts, embedding_map
from mmray.report.cards import STYLE as CARDS
from mmray.report.cards import Sample, cards
from mmray.report.embedding_map import EmbeddingMap
from mmray.report.page import Html, contents, page, table, tiles
from mmray.report.reasons import WORDS

COUNTS = ("ok", "partial", "failed", "skipped", "pending")
SHADES = {"ok": "c2", "partial": "c6", "failed": "c1", "skipped": "c7", "pending": "rest"}
MOST_CLASSES = 60
UNLABELLED = "(no label)"
STYLE = """
.stack { display: flex; height: .7rem; min-width: 8rem; background: color-mix(in srgb, var(--ink) 9%, transparent); }
.stack i { background: var(--c); } .rest { --c: transparent; }
.keys { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .875rem; margin: .5rem 0; }
.keys i { display: inline-block; width: .7rem; height: .7rem; margin-right: .35rem; background: var(--c); }
dl { margin: .5rem 0; } dt { margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
.keys .rest { background: color-mix(in srgb, var(--ink) 9%, transparent); }
"""


class Combination(NamedTuple):
    """Samples that have a result of just these extractors."""

    extractors: tuple[str, ...]
    samples: int


class Media(NamedTuple):
    """Facts on the media of one source: how many per kind, the most frequent first; ``flagged``: flag -> samples."""

    source: str
    media: int
    hours: float
    durations: Mapping[str, int]
    kinds: Mapping[str, Mapping[str, int]]
    flagged: Mapping[str, int]
    looked_at: Mapping[str, int]
    problems: Mapping[str, int]


class StoreReport(NamedTuple):
    """What the page of a store says; ``account`` as ``mmray status`` has it.

    ``modalities``: extractor -> sound, pictures, texts; ``reach``: modality -> samples with any result of it;
    ``classes``: class -> column -> samples; ``trouble``: samples to look at, of ``troubled`` in all.
    """

    title: str
    uri: str
    account: Mapping[str, Any]
    modalities: Mapping[str, str]
    reach: Mapping[str, int]
    combinations: Sequence[Combination]
    combined: int
    classes: Mapping[str, Mapping[str, int]]
    media: Sequence[Media]
    maps: Sequence[EmbeddingMap]
    notes: Sequence[str]
    trouble: Sequence[Sample]
    troubled: int


def render(about: StoreReport) -> str:
    """Return the page."""
    pending = sum(counts["pending"] for counts in about.account["accounts"].values())
    figures = {
        "samples": f"{about.account['samples']:,}",
        "extractors": f"{len(about.account['accounts'])}",
        "hours of media": f"{sum(one.hours for one in about.media):,.2f}",
        "classes": f"{len(about.classes.keys() - {UNLABELLED})}",
        "samples failed or partial": f"{about.troubled:,}",
        "results pending": f"{pending:,}",
    }
    sections = {
        "Account": _account(about),
        "Coverage": _coverage(about),
        "Classes": _classes(about.classes),
        "Media": "".join(map(_media, about.media)),
        "Embeddings": embedding_map.drawn(about.maps) if about.maps else "",
        "To look at": _trouble(about),
        "Notes": _notes(about.notes),
    }
    head = f"<header><h1>{escape(about.title)}</h1><p class=about>{escape(about.uri)}</p>{tiles(figures)}</header>"
    style = STYLE + CARDS + embedding_map.STYLE
    script = embedding_map.SCRIPT if about.maps else ""
    return page(f"{about.title} · mmray report", [head, *contents(sections)], style, script)


def _account(about: StoreReport) -> str:
    samples, accounts, names = (about.account[name] for name in ("samples", "accounts", "names"))
    rows = [
        (_called(extractor, names), Html(_stack(counts, samples)), *(counts[name] for name in COUNTS))
        for extractor, counts in accounts.items()
    ]
    keys = "".join(f"<span><i class={SHADES[name]}></i>{name}</span>" for name in COUNTS)
    sums = "adds up" if about.account["adds_up"] else "DOES NOT ADD UP"
    said = f"{samples:,} samples, each accounted for by {len(rows)} extractors: the account {sums}."
    shown = table(("extractor", "", *COUNTS), rows, "account")
    account = f"<div><div class=keys>{keys}</div>{shown}</div>"
    return f"<p>{said}</p><div class=pair>{account}{_reasons(accounts, names)}</div>"


def _reasons(accounts: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return what each reason means, what mends it, and how often which extractor gave it."""
    given: dict[str, list[str]] = {}
    for extractor, counts in accounts.items():
        for reason, count in counts["reasons"].items():
            given.setdefault(reason, []).append(f"{names.get(extractor, extractor)} {count:,}")
    lines = []
    for reason, counts in sorted(given.items()):
        words, mend = WORDS[Reason(reason)] if reason in list(Reason) else ("", "")
        lines.append(
            f"<dt><b>{escape(reason)}</b> {escape(words)}<dd>{_with_code(mend)}<br>"
            f"<span class=soft>{escape(', '.join(counts))}</span>"
        )
    return f"<div><h3>Reasons, and what mends them</h3><dl>{''.join(lines)}</dl></div>" if lines else ""


def _with_code(text: str) -> str:
    """Escape a text and show what stands between backticks as code."""
    return "".join(f"<code>{escape(one)}</code>" if n % 2 else escape(one) for n, one in enumerate(text.split("`")))


def _stack(counts: Mapping[str, Any], samples: int) -> str:
    """Return one bar of the shares of the statuses."""
    shares = {name: 100 * counts[name] / max(1, samples) for name in COUNTS if name != "pending"}
    words = escape(", ".join(f"{name} {counts[name]}" for name in COUNTS))
    bars = "".join(f"<i class={SHADES[name]} style='width:{share:.2f}%'></i>" for name, share in shares.items())
    return f"<div class=stack role=img aria-label='{words}'>{bars}</div>"


def _called(extractor: str, names: Mapping[str, str]) -> str:
    called = names.get(extractor, extractor)
    return extractor if called == extractor.rpartition("-")[0] else f"{extractor} ({called})"


def _coverage(about: StoreReport) -> str:
    """Return who has what: each extractor by modality, and which of them come together."""
    samples, names = about.account["samples"], about.account["names"]
    rows = []
    for modality in dict.fromkeys(about.modalities.values()):
        rows.append([modality, "any", *_share(about.reach.get(modality, 0), samples)])
        for extractor, counts in about.account["accounts"].items():
            if about.modalities[extractor] == modality:
                rows.append(["", names.get(extractor, extractor), *_share(counts["ok"] + counts["partial"], samples)])
    together = [
        (_combination(one.extractors, list(names.values())), *_share(one.samples, samples))
        for one in about.combinations
    ]
    said = ""
    if len(together) < about.combined:
        said = f"<p class=soft>The {len(together)} most frequent of {about.combined} combinations.</p>"
    head = ("samples", "share", "")
    return (
        "<p>Samples with a result, whole or partial.</p><div class=pair><div>"
        + table(("modality", "extractor", *head), rows, "coverage")
        + f"</div><div>{said}"
        + table(("have", *head), together, "combinations")
        + "</div></div>"
    )


def _combination(have: Sequence[str], names: Sequence[str]) -> str:
    """Say in few words which extractors these are."""
    lacking = [name for name in names if name not in have]
    if not lacking:
        return "everything"
    if not have:
        return "nothing"
    return " + ".join(have) if len(have) <= len(lacking) else f"all but {', '.join(lacking)}"


def _share(count: int, samples: int) -> tuple[int, str, Html]:
    share = count / max(1, samples)
    return count, f"{share:.1%}", Html(charts.bar(share))


def _classes(classes: Mapping[str, Mapping[str, int]]) -> str:
    if not classes:
        return ""
    columns = list(next(iter(classes.values())))
    labelled = {name: counts for name, counts in classes.items() if name != UNLABELLED}
    sizes = [counts["samples"] for counts in labelled.values()] or [0]
    rows = [
        (name, Html(charts.bar(counts["samples"] / max(sizes))), *(counts[column] for column in columns))
        for name, counts in list(labelled.items())[:MOST_CLASSES]
    ]
    said = _balance(sizes)
    if len(rows) < len(labelled):
        said += f"<p class=soft>The {len(rows)} most frequent of {len(labelled)} classes.</p>"
    if UNLABELLED in classes:
        rows.append((UNLABELLED, Html(""), *(classes[UNLABELLED][column] for column in columns)))
    return said + table(("class", "", *columns), rows, "classes")


def _balance(sizes: Sequence[int]) -> str:
    """Say how far apart the classes are in size."""
    if len(sizes) < 2:
        return ""
    most, least = max(sizes), min(sizes)
    return f"<p>The largest class has {most:,} samples, the smallest {least:,}: {most / least:.3g} times as many.</p>"


def _media(about: Media) -> str:
    """Return durations, formats and flags of one source."""
    parts = []
    if about.durations:
        parts.append(_bars("How long they are", about.durations))
    parts += [_bars(kind, counts) for kind, counts in about.kinds.items() if counts]
    if about.looked_at:
        rows = [(flag, about.flagged.get(flag, 0), looked) for flag, looked in about.looked_at.items()]
        parts.append(f"<div><h3>Flags</h3>{table(('flag', 'media', 'of those looked at'), rows)}</div>")
    if about.problems:
        parts.append(_bars("Cannot be probed", about.problems))
    said = f"<p>{about.media:,} media in the column <code>{escape(about.source)}</code>, {about.hours:,.2f} hours.</p>"
    return f"{said}<div class=pair>{''.join(parts)}</div>"


def _bars(title: str, counts: Mapping[str, int]) -> str:
    return f"<div><h3>{escape(title)}</h3>{charts.bars(list(counts.items()), label=title)}</div>"


def _trouble(about: StoreReport) -> str:
    if not about.troubled:
        return ""
    shown = len(about.trouble)
    said = f"{about.troubled:,} samples failed or are partial" + (
        f"; {shown} of them are shown, some of every reason." if shown < about.troubled else "."
    )
    return f"<p>{said}</p>{cards(about.trouble)}"


def _notes(notes: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(note)}" for note in notes) + "</ul>" if notes else ""
