"""The page of a search: it stands alone, and shows and plays what was found."""

import base64
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import av
import numpy as np
import pytest
from playwright.sync_api import Browser

from mmray.report.search import Card, render
from tests.report import looking

NASTY = "näme 'x' \"y\" <b> & %20 #1 日本"


def card(**about: Any) -> Card:
    empty = dict.fromkeys(Card._fields)
    return Card(**{**empty, "rank": 1, "sample_id": "one", "score": 0.5, "from_s": 0.0, **about})


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]


@pytest.fixture
def media(test_data: Path, tmp_path: Path) -> dict[str, Path]:
    """Copy a picture, a sound and a film below the page's folder, under a nasty name."""
    sources = {
        "picture": test_data / "images/coco_mini_cc/000000397133.jpg",
        "sound": next((test_data / "audio/esc10/rain").glob("*.ogg")),
        "film": next((test_data / "video/grid_labelled/mp4").glob("*.mp4")),
    }
    (tmp_path / "media").mkdir()
    copies = {name: tmp_path / "media" / f"{NASTY}{path.suffix}" for name, path in sources.items()}
    for name, path in sources.items():
        shutil.copy(path, copies[name])
    return copies


def thumbnail(uri: str | None) -> np.ndarray[Any, Any]:
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    decoder = av.CodecContext.create("mjpeg", "r")
    (frame,) = decoder.decode(av.Packet(base64.b64decode(data)))
    return frame.to_ndarray(format="rgb24")


def test_each_medium_is_shown_and_played_by_a_relative_link(media: dict[str, Path], tmp_path: Path) -> None:
    hits = [card(sample_id=name, uri=str(path)) for name, path in media.items()]
    page = Tags(render(card(text="what?"), hits, "clip-1", str(tmp_path / "page.html")))
    (link,), (sound,), (film,) = page.of("a"), page.of("audio"), page.of("video")
    for name, address in [("picture", link["href"]), ("sound", sound["src"]), ("film", film["src"])]:
        parts = urlsplit(address or "")
        assert not parts.scheme
        assert tmp_path / unquote(parts.path) == media[name]
    assert thumbnail(page.of("img")[0]["src"]).shape == (214, 320, 3)  # of 640 x 427: the whole picture, unpadded
    assert thumbnail(page.of("img")[1]["src"]).shape == (160, 320, 3)  # the spectrogram of the sound
    assert thumbnail(film["poster"]).shape == (256, 320, 3)
    assert "controls" in sound
    assert "controls" in film


def test_colours_survive(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:] = (220, 40, 90)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "rgb24", frame.time_base or 1
    (tmp_path / "flat.png").write_bytes(bytes(encoder.encode(frame)[0]))
    page = Tags(render(card(text="?"), [card(uri=str(tmp_path / "flat.png"))], "clip-1", str(tmp_path / "page.html")))
    seen = thumbnail(page.of("img")[0]["src"])
    np.testing.assert_allclose(seen.reshape(-1, 3).mean(0), (220, 40, 90), atol=4)


def test_a_window_is_played_from_where_it_was_found(media: dict[str, Path], tmp_path: Path) -> None:
    one = card(uri=str(media["film"]), start_s=0.5, end_s=1.5, from_s=1.0, to_s=2.0)
    page = Tags(render(card(text="?"), [one], "clip-1", str(tmp_path / "page.html")))
    assert (page.of("video")[0]["src"] or "").endswith("#t=1.000,2.000")
    assert "0.50 to 1.50 s" in " ".join(page.words)


def test_media_elsewhere_have_file_urls(media: dict[str, Path], tmp_path: Path) -> None:
    page = Tags(
        render(card(text="?"), [card(uri=str(media["sound"]))], "clap-1", str(tmp_path / "pages" / "page.html"))
    )
    address = urlsplit(page.of("audio")[0]["src"] or "")
    assert (address.scheme, unquote(address.path)) == ("file", str(media["sound"]))


def test_what_corpora_say_is_text_not_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\" onload=\"y"
    hit = card(sample_id=evil, label=evil, text=evil * 50)
    html = render(card(text=evil, sample_id=evil), [hit], evil, str(tmp_path / "page.html"))
    page = Tags(html)
    assert not page.of("script")
    assert not any("onload" in attributes for _, attributes in page.found)
    assert evil in " ".join(page.words)


def test_the_page_asks_no_network_and_fits_a_phone(media: dict[str, Path], tmp_path: Path, chromium: Browser) -> None:
    hits = [card(uri=str(path), sample_id=NASTY * 9, rank=10 + n) for n, path in enumerate(media.values())]
    file = tmp_path / "page.html"
    file.write_text(render(card(text="?"), hits, "clip-1", str(file)))
    for width_px in looking.WIDTHS_PX:
        with looking.opened(chromium, file, width_px, "dark") as page:
            assert page.locator("article .id").count() == 3
    assert not Tags(file.read_text()).of("script", "link", "iframe")


def test_a_medium_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    hits = [card(uri=str(tmp_path / "empty.mp4"), text="its text"), card(uri=str(tmp_path / "gone.mp4"))]
    words = " ".join(Tags(render(card(text="?"), hits, "clip-1", str(tmp_path / "page.html"))).words)
    assert "cannot be shown: empty: the file has no bytes" in words
    assert "cannot be shown: missing_file" in words
    assert "its text" in words


def test_nothing_found_is_said(tmp_path: Path) -> None:
    assert "Nothing was found" in render(card(text="?"), [], "clip-1", str(tmp_path / "page.html"))
