"""Samples to look at: a small picture, or why there is none, the id and some words."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from mmray import storage

TEXT_LETTERS = 160
ID_LETTERS = 120
FIRST = 14
STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 100%), 1fr)); gap: .75rem;
  align-items: start; }
.cards article { min-width: 0; padding: .6rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .6rem; font-size: .875rem; }
.cards img { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--ground);
  border-radius: .35rem; }
.cards .id { font-weight: 600; } .cards p { margin: .3rem 0 0; } .cards blockquote { margin: .3rem 0 0; }
"""


class Sample(NamedTuple):
    """A sample to show; ``picture``: a data URI; ``trouble``: why there is none; ``address``: of its medium."""

    sample_id: str
    notes: tuple[str, ...] = ()
    picture: str | None = None
    trouble: str | None = None
    text: str | None = None
    address: str | None = None


def cards(samples: Sequence[Sample]) -> str:
    """Return the samples side by side; those behind the first are folded away."""
    first, more = samples[:FIRST], samples[FIRST:]
    folded = f"<details><summary>{len(more)} more</summary>{_side_by_side(more)}</details>" if more else ""
    return _side_by_side(first) + folded


def _side_by_side(samples: Sequence[Sample]) -> str:
    return f"<div class=cards>{''.join(map(_card, samples))}</div>"


def _card(one: Sample) -> str:
    name = shortened(one.sample_id, ID_LETTERS)
    image = f'<img alt="{escape(name)}" src="{one.picture}">' if one.picture else ""
    if image and one.address:
        image = f'<a href="{one.address}">{image}</a>'
    unsaid = one.trouble and not any(note.endswith(one.trouble) for note in one.notes)
    trouble = f"<p class=notes>No picture: {escape(shortened(one.trouble, TEXT_LETTERS))}</p>" if unsaid else ""
    text = f"<blockquote>{escape(shortened(one.text, TEXT_LETTERS))}</blockquote>" if one.text else ""
    notes = "".join(f"<p class=notes>{escape(shortened(note, 2 * TEXT_LETTERS))}</p>" for note in one.notes)
    return f"<article>{image}<p class=id>{escape(name)}</p>{text}{trouble}{notes}</article>"


def shortened(text: str | None, letters: int) -> str:
    """Return at most so many letters of a text, on one line."""
    words = " ".join((text or "").split())
    return words if len(words) <= letters else f"{words[:letters]}…"


def link(uri: str, folder: str) -> str | None:
    """Return a link to a medium: relative where it stands below the page's folder, else a file URL; None for none."""
    if storage.is_remote(uri):
        return escape(uri) if uri.startswith(("http://", "https://")) else None
    path, base = storage.local_path(uri).absolute(), storage.local_path(folder).absolute()
    if not storage.is_remote(folder) and path.is_relative_to(base):
        return quote(f"./{path.relative_to(base).as_posix()}")
    return Path(os.path.normpath(path)).as_uri()
