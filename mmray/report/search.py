"""The results of a search as one HTML file: thumbnails inside it, players that point to the media.

It needs no network and runs no script.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from mmray import storage
from mmray.errors import SampleError
from mmray.media.probe import Probe, probe
from mmray.report import page, thumbnails
from mmray.report.cards import link, shortened

SIDE_PX = 320
TEXT_LETTERS = 400
STYLE = """
.query { max-width: 36rem; }
.query img, .query video, .query audio { max-width: 20rem; }
.query blockquote { font-size: 1.4rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem;
  margin-top: 1.5rem; align-items: start; }
article { min-width: 0; padding: .75rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .6rem; }
img, video { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--ground);
  border-radius: .35rem; }
video { background: #000; }
audio { display: block; width: 100%; } .spectrum { aspect-ratio: 2; margin-bottom: .35rem; }
blockquote { margin: .5rem 0; }
.at { display: flex; gap: .6rem; align-items: baseline; margin-top: .4rem; font-variant-numeric: tabular-nums; }
.at b { flex: none; } .id { min-width: 0; margin: 0; }
meter { flex: 1; min-width: 0; height: .7rem; align-self: center; }
"""


class Card(NamedTuple):
    """A sample to show; [from_s, to_s) is its part of the medium, start_s and end_s the window that was found."""

    rank: int
    sample_id: str
    score: float
    label: str | None
    uri: str | None
    text: str | None
    start_s: float | None
    end_s: float | None
    from_s: float
    to_s: float | None


def render(query: Card, hits: Sequence[Card], partition: str, file: str) -> str:
    """Return the page that will stand at ``file``: media below its folder are linked by relative path."""
    folder = storage.parent(file)
    asked = _show(query, _probed(query), folder) + (
        f"<p class=id>{escape(query.sample_id)}</p>" if query.sample_id else ""
    )
    found = "\n".join(_card(hit, folder) for hit in hits) or "<p>Nothing was found.</p>"
    title = shortened(query.sample_id or query.text, 80)
    parts = [
        f"<header>\n<h1>Search</h1>\n<div class=query>{asked}</div>",
        f"<p class=about>{len(hits)} nearest in {escape(partition)}, by cosine</p>\n</header>",
        f"<main>\n{found}\n</main>",
    ]
    return page.page(f"{title} · mmray search", parts, STYLE)


def _card(hit: Card, folder: str) -> str:
    about = _probed(hit)
    timed = isinstance(about, Probe) and about.duration_s is not None  # a still lasts no time
    span = f"{hit.start_s:.2f} to {hit.end_s:.2f} s" if timed and hit.end_s is not None else ""
    notes = " · ".join(escape(one) for one in (hit.label or "", span) if one)
    bar = max(0.0, min(1.0, hit.score))
    return (
        f"<article>\n{_show(hit, about, folder)}\n<div class=at><b>{hit.rank}</b>"
        f"<span class=id>{escape(hit.sample_id)}</span></div>\n"
        f"<div class=at><meter min=0 max=1 value={bar:.4f}></meter><span>{hit.score:.3f}</span></div>\n"
        f"<p class=notes>{notes}</p>\n</article>"
    )


def _probed(card: Card) -> Probe | SampleError | None:
    """Look at a card's medium; returns why it cannot be shown where it cannot, None where there is none."""
    if not card.uri:
        return None
    try:
        return probe(card.uri)
    except SampleError as error:
        return error


def _show(card: Card, about: Probe | SampleError | None, folder: str) -> str:
    """Return the picture, the players and the text of a sample, as far as it has them."""
    text = f"<blockquote>{escape(shortened(card.text, TEXT_LETTERS))}</blockquote>" if card.text else ""
    if about is None:
        return text
    try:
        if isinstance(about, SampleError):
            raise about
        picture = _picture(card, about)
    except SampleError as error:
        return f"<p class=notes>cannot be shown: {escape(str(error))}</p>{text}"
    return _media(about, card.sample_id, picture, link(card.uri or "", folder), _fragment(card)) + text


def _picture(card: Card, about: Probe) -> str | None:
    uri, span = card.uri or "", (card.from_s, card.to_s)
    if about.width:
        return thumbnails.frame(uri, about, SIDE_PX, *span)
    return thumbnails.sound(uri, SIDE_PX, *span) if about.audio_tracks else None


def _media(about: Probe, name: str, picture: str | None, address: str | None, fragment: str) -> str:
    look = "" if about.width else " class=spectrum"
    image = f'<img alt="{escape(name)}"{look} src="{picture}">' if picture else ""
    if address is None:  # object stores: a browser cannot play from there
        return image
    if about.duration_s is None:
        return f'<a href="{address}">{image}</a>'
    if about.width:
        poster = f' poster="{picture}"' if picture else ""
        return f'<video controls preload=none{poster} src="{address}{fragment}"></video>'
    return f'{image}<audio controls preload=none src="{address}{fragment}"></audio>'


def _fragment(card: Card) -> str:
    """Return where to play from and to, as a media fragment; empty for the whole medium."""
    if not card.from_s and card.to_s is None:
        return ""
    return f"#t={card.from_s:.3f}" + (f",{card.to_s:.3f}" if card.to_s is not None else "")
