"""The results of a search as one HTML file: thumbnails inside it, players that point to the media.

It needs no network and runs no script.
"""

import base64
import os
from collections.abc import Sequence
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from mmray import storage
from mmray.errors import SampleError
from mmray.geometry import placed
from mmray.media.decode import decode
from mmray.media.probe import Probe, probe
from mmray.specs import Frame, FrameSpec

THUMBNAIL = FrameSpec(uniform=1, side_px=320, fit="letterbox", interpolation="bilinear")
QUALITY = 5  # of MJPEG, 2 best to 31: about 12 kB a thumbnail
TEXT_LETTERS = 400
STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --paper: #fff; --ink: #1d1c1a; --soft: #6c675f; --line: #e4e0d9; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161513; --paper: #211f1c; --ink: #ece8e1; --soft: #a39c90; --line: #37332d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1.5rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.1rem; font-weight: 600; color: var(--soft); }
.query { max-width: 36rem; }
.query img, .query video, .query audio { max-width: 20rem; }
.query blockquote { font-size: 1.4rem; }
.about, .notes { margin: .25rem 0 0; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem;
  margin-top: 1.5rem; align-items: start; }
article { min-width: 0; padding: .75rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .6rem; }
img, video { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--ground);
  border-radius: .35rem; }
video { background: #000; }
audio { display: block; width: 100%; }
blockquote { margin: .5rem 0; overflow-wrap: anywhere; }
.line { display: flex; gap: .6rem; align-items: baseline; margin-top: .4rem; font-variant-numeric: tabular-nums; }
.id { min-width: 0; margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
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


def render(query: Card, hits: Sequence[Card], partition: str, page: str) -> str:
    """Return the page that will stand at ``page``: media below its folder are linked by relative path."""
    folder = storage.parent(page)
    asked = _show(query, _probed(query), folder) + (
        f"<p class=id>{escape(query.sample_id)}</p>" if query.sample_id else ""
    )
    found = "\n".join(_card(hit, folder) for hit in hits) or "<p>Nothing was found.</p>"
    title = escape(_shortened(query.sample_id or query.text, 80))
    return (
        f"<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        f'<meta name=viewport content="width=device-width, initial-scale=1">\n<title>{title} · mmray search</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Search</h1>\n<div class=query>{asked}</div>\n"
        f"<p class=about>{len(hits)} nearest in {escape(partition)}, by cosine</p>\n</header>\n"
        f"<main>\n{found}\n</main>\n</body>\n</html>\n"
    )


def _card(hit: Card, folder: str) -> str:
    about = _probed(hit)
    timed = isinstance(about, Probe) and about.duration_s is not None  # a still lasts no time
    span = f"{hit.start_s:.2f} to {hit.end_s:.2f} s" if timed and hit.end_s is not None else ""
    notes = " · ".join(escape(one) for one in (hit.label or "", span) if one)
    bar = max(0.0, min(1.0, hit.score))
    return (
        f"<article>\n{_show(hit, about, folder)}\n<div class=line><b>{hit.rank}</b>"
        f'<span class=id title="{escape(hit.sample_id)}">{escape(hit.sample_id)}</span></div>\n'
        f"<div class=line><meter min=0 max=1 value={bar:.4f}></meter><span>{hit.score:.3f}</span></div>\n"
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
    text = f"<blockquote>{escape(_shortened(card.text, TEXT_LETTERS))}</blockquote>" if card.text else ""
    if about is None:
        return text
    try:
        if isinstance(about, SampleError):
            raise about
        picture = _thumbnail(card, about) if about.width else None
    except SampleError as error:
        return f"<p class=notes>cannot be shown: {escape(str(error))}</p>{text}"
    return _media(about, picture, _link(card.uri or "", folder), _fragment(card)) + text


def _media(about: Probe, picture: str | None, link: str | None, fragment: str) -> str:
    image = f'<img alt="" src="{picture}">' if picture else ""
    if link is None:  # object stores: a browser cannot play from there
        return image
    if about.duration_s is None:
        return f'<a href="{link}">{image}</a>'
    if about.width:
        poster = f' poster="{picture}"' if picture else ""
        return f'<video controls preload=none{poster} src="{link}{fragment}"></video>'
    return f'<audio controls preload=none src="{link}{fragment}"></audio>'


def _fragment(card: Card) -> str:
    """Return where to play from and to, as a media fragment; empty for the whole medium."""
    if not card.from_s and card.to_s is None:
        return ""
    return f"#t={card.from_s:.3f}" + (f",{card.to_s:.3f}" if card.to_s is not None else "")


def _link(uri: str, folder: str) -> str | None:
    """Return a link to a medium: relative where it stands below the page's folder, else a file URL; None for none."""
    if storage.is_remote(uri):
        return escape(uri) if uri.startswith(("http://", "https://")) else None
    path, base = storage.local_path(uri).absolute(), storage.local_path(folder).absolute()
    if not storage.is_remote(folder) and path.is_relative_to(base):
        return quote(f"./{path.relative_to(base).as_posix()}")
    return Path(os.path.normpath(path)).as_uri()


def _thumbnail(card: Card, about: Probe) -> str | None:
    """Return the frame in the middle of the part to show, as a data URI; None where there is no frame."""
    still = about.duration_s is None
    decoding = decode(
        card.uri or "",
        [THUMBNAIL],
        offset_s=0.0 if still else card.from_s,
        limit_s=None if still else card.to_s,
        duration_s=None if still or about.duration_s is None else max(0.0, about.duration_s - card.from_s),
    )
    try:
        frame = next(decoding, None)
    finally:
        decoding.close()
    if frame is None:
        return None
    assert isinstance(frame[1], Frame)
    return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(_unpadded(frame[1]))).decode()}"


def _unpadded(frame: Frame) -> npt.NDArray[np.uint8]:
    """Return the picture without the grey beside it."""
    place = placed(THUMBNAIL, frame.width, frame.height)
    return frame.image[place.top_px : place.top_px + place.height_px, place.left_px : place.left_px + place.width_px]


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """Return uint8 RGB (height, width, 3) as JPEG."""
    import av

    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = image.shape[1], image.shape[0], "yuvj420p"
    encoder.time_base = Fraction(1, 1)
    encoder.options = {"qscale": str(QUALITY)}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _shortened(text: str | None, letters: int) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= letters else f"{words[:letters]}…"
