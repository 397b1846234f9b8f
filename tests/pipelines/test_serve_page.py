"""The page of the endpoint, as people use it: in a browser, at both widths, by mouse and by keyboard."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from mmray.tables.store import open_store
from tests.fusion import making
from tests.pipelines.test_serve import KEY, PNG, WAV, config
from tests.report.looking import WIDTHS_PX, opened

LONG_MS = 60_000
UNLOCKED = f"sessionStorage.setItem('mmray-key', {json.dumps(KEY)})"
EVIL = "<img src=x onerror=alert(1)>'\"&"
NASTY = 'it\'s "so" $(touch a) `touch b` \\n é 😀'  # for a shell, for Python, for a form
PICTURE: FilePayload = {"name": "a \"b\"; 'ç' $(x),type=y.png", "mimeType": "image/png", "buffer": PNG}


@pytest.fixture(scope="module")
def url(ray_session: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve tiny models, and a store of made-up vectors with hostile words, behind a key."""
    from mmray.pipelines.serve import serving

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    words = {"label": ["dog", EVIL, "dog"], "text": ["a dog", EVIL, "x" * 500], "uri": ["a.jpg", "b.jpg", "c.jpg"]}
    matrix = making.clusters(np.array([0, 0, 1]), 4, 0.1)
    store = making.store(tmp_path_factory.mktemp("searched") / "store", words, {"seen": matrix})
    about = {"id": "seen-00000000", "as": "seen", "kind": "embedding", "source": "uri", "reads_text": False}
    open_store(store).write_json(about, "provenance", "seen-00000000.json")
    with serving(config(tiny, keys_file=str(keys), store=store)) as address:
        yield f"{address}/"


@pytest.fixture
def page(url: str, chromium: Browser) -> Iterator[Page]:
    """Open the page with its key."""
    with opened(chromium, url, WIDTHS_PX[1], script=UNLOCKED) as found:
        expect(found.get_by_role("tab").first).to_be_visible()
        yield found


@pytest.fixture
def troubled(url: str, chromium: Browser) -> Iterator[Page]:
    """Open the page where requests fail, of which the console tells."""
    context = chromium.new_context()
    context.add_init_script(UNLOCKED)
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("tab").first).to_be_visible()
    yield page
    context.close()


def filled(page: Page, tab: str, **values: Any) -> Locator:
    """Fill a form; returns it."""
    page.locator(f"#tab-{tab}").click()
    for name, value in values.items():
        box = page.locator(f"#{tab}-{name}")
        if isinstance(value, dict):
            box.set_input_files(value)  # type: ignore[arg-type]
        else:
            box.fill(str(value))
    return page.locator(f"#form-{tab}")


def send(page: Page, tab: str, **values: Any) -> Locator:
    """Fill a form and send it; returns its card."""
    before = page.locator("#gallery > li").count()
    filled(page, tab, **values).locator("[type=submit]").click()
    expect(page.locator("#gallery > li")).to_have_count(before + 1)
    return page.locator("#gallery > li").first


def finished(card: Locator) -> Locator:
    ends(card, "finished")
    return card


def ends(card: Locator, state: str) -> None:
    expect(card).not_to_have_attribute("data-state", "running", timeout=LONG_MS)
    assert card.get_attribute("data-state") == state, card.inner_text()


def size(picture: Locator) -> list[int]:
    expect(picture).to_be_visible()
    found: list[int] = picture.evaluate("async one => (await one.decode(), [one.naturalWidth, one.naturalHeight])")
    return found


def test_pictures_and_sounds_are_made_and_shown(page: Page) -> None:
    card = finished(send(page, "image", prompt="<b>a cat</b>", size="64x72", n=2, steps=2))
    assert [size(one) for one in card.locator("img").all()] == [[64, 72], [64, 72]]
    expect(card.get_by_role("heading")).to_have_text("Image: <b>a cat</b>")

    card = finished(send(page, "audio", prompt="rain", length_s=0.5, steps=1))
    expect(card.get_by_label("spectrogram")).to_be_visible()
    heard = "one => one.duration || new Promise(done => { one.onloadedmetadata = () => done(one.duration); })"
    assert card.locator("audio").evaluate(heard) == pytest.approx(0.5)

    card = finished(send(page, "story", prompt="waves", size="64x64", length_s=0.5, steps=1))
    assert card.locator("video").evaluate(heard) == pytest.approx(0.5, abs=0.1)

    strength = page.locator("#spectrogram-strength")
    filled(page, "spectrogram", prompt="dogs", sound_prompt="barking", steps=1, n=2, best=1)
    expect(strength).to_be_hidden()
    page.locator("#spectrogram-imprint_text").fill("DOGS")
    expect(strength).to_be_visible()
    card = finished(send(page, "spectrogram"))
    assert len(card.locator("img").all()) == 2, "the best of two, and its spectrogram"
    assert "clap" in card.inner_text()
    expect(card.locator("audio")).to_be_visible()


def test_what_is_given_is_described(page: Page) -> None:
    card = finished(send(page, "caption", image=PICTURE))
    assert card.locator(".said").inner_text()
    card = finished(send(page, "scores", file=PICTURE, labels=f"{EVIL}\ndog\n"))
    assert sorted(cell.inner_text() for cell in card.locator("tbody th").all()) == sorted([EVIL, "dog"])
    assert card.locator("meter").count() == 2
    finished(send(page, "transcription", file={"name": f"{EVIL}.wav", "mimeType": "audio/wav", "buffer": WAV}))


def test_a_search_shows_what_was_found(page: Page) -> None:
    card = finished(send(page, "search", sample="s0000", within="seen"))
    rows = card.locator("tbody tr")
    assert rows.locator("b").all_inner_texts() == ["s0001", "s0002"]
    assert EVIL in rows.first.inner_text()
    assert page.locator("img[src=x]").count() == 0


ASKED: dict[str, dict[str, Any]] = {
    "image": {"prompt": NASTY, "size": "64x64", "steps": 1},
    "edit": {"prompt": f"<{NASTY};type=x", "image": PICTURE, "strength": 0.9, "steps": 3},
    "spectrogram": {"prompt": NASTY, "sound_prompt": "@x", "imprint": PICTURE, "strength": 0.5, "steps": 2},
}
PIXELS = """async one => {
  await one.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: one.naturalWidth, height: one.naturalHeight});
  const context = canvas.getContext("2d");
  context.drawImage(one, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.mark.parametrize("what", ["image", "edit", pytest.param("spectrogram", marks=pytest.mark.slow)])
def test_what_is_pasted_does_what_the_form_did(page: Page, tmp_path: Path, what: str) -> None:
    card = finished(send(page, "image" if what == "edit" else what, **ASKED[what]))
    shown = np.array(card.locator("img").first.evaluate(PIXELS)).reshape(-1, 4)[:, :3]
    curl, python = card.locator("pre").all_text_contents()
    assert KEY not in curl + python
    (tmp_path / str(PICTURE["name"])).write_bytes(PNG)
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        environment = {**os.environ, "MMRAY_KEY": KEY}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    answer = json.loads((tmp_path / "answer.json").read_bytes())["data"][0]["b64_json"]
    saved = next(path for path in tmp_path.glob("*-0.png")).read_bytes()
    for data in (base64.b64decode(answer), saved):
        pasted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
        assert np.abs(pasted.astype(int) - shown).max() <= 1
    assert not [path for path in tmp_path.iterdir() if path.name in ("a", "b", "x")]  # nothing of it was run


def test_keys_send_and_cancel_and_a_wrong_field_is_named(page: Page) -> None:
    filled(page, "image", size="64x64", steps=400)
    page.locator("#image-prompt").press_sequentially("a cat")
    page.locator("#image-prompt").press("Shift+Enter")
    page.locator("#image-prompt").press_sequentially("or two")
    page.locator("#image-prompt").press("Enter")
    card = page.locator("#gallery > li")
    expect(card.locator(".state")).to_contain_text("step ", timeout=LONG_MS)
    page.keyboard.press("Escape")
    ends(card, "cancelled")
    assert '"a cat\\nor two"' in (card.locator("pre").first.text_content() or "")
    jobs = page.evaluate(
        "key => fetch('v1/jobs', {headers: {Authorization: `Bearer ${key}`}}).then(answer => answer.json())", KEY
    )
    assert jobs["data"][0]["status"] == "cancelled"

    problem = page.locator("#problem-image")
    for field, value, words in (
        ("prompt", "x" * 201, "What to show: has 201 characters, and at most 200 are read here"),
        ("prompt", " ", "What to show: is needed"),
        ("steps", "401", "Steps: at most 400"),
        ("size", "big", "Size, px: write it as width x height, such as 512x768"),
    ):
        filled(page, "image", **{"prompt": "a cat", "size": "64x64", "steps": 2, field: value})
        page.locator("#image-prompt").press("Enter")
        expect(problem).to_have_text(words)
        expect(page.locator(f"#image-{field}")).to_be_focused()
    expect(card).to_have_count(1)  # nothing was asked


def test_what_the_server_refuses_is_said_at_the_field(troubled: Page) -> None:
    unreadable = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    filled(troubled, "caption", image=unreadable).locator("[type=submit]").click()
    expect(troubled.locator("#problem-caption")).to_contain_text(re.compile("^Picture: (?!image)"))
    expect(troubled.locator("#caption-image")).to_have_attribute("aria-invalid", "true")
    expect(troubled.locator("#gallery > li")).to_have_count(0)
    card = send(troubled, "image", prompt="a cat", size="65x64", steps=1)  # a job, that finds it out later
    ends(card, "failed")
    expect(card.locator(".state")).to_contain_text(re.compile("^Size, px: (?!size)"))


def test_jobs_are_there_again_after_a_reload_and_a_lost_connection(troubled: Page) -> None:
    card = send(troubled, "image", prompt="a cat", size="64x64", steps=100)
    troubled.context.set_offline(True)
    expect(card.locator(".state")).to_contain_text("the server does not answer", timeout=LONG_MS)
    troubled.context.set_offline(False)
    troubled.reload()
    card = troubled.locator("#gallery > li")
    expect(card.get_by_role("heading")).to_have_text("Image: a cat")
    assert size(finished(card).locator("img")) == [64, 64]
    card.get_by_role("button", name="Remove").click()
    troubled.reload()
    expect(troubled.get_by_role("tab").first).to_be_visible()
    expect(troubled.locator("#none")).to_be_visible()


def test_a_busy_server_is_asked_again(troubled: Page) -> None:
    busy = {"error": {"message": "come again", "type": "server_error", "param": None, "code": "queue_full"}}
    answers = {"status": 503, "headers": {"Retry-After": "1"}, "json": busy}
    troubled.route("**/v1/captions", lambda route: route.fulfill(**answers), times=1)
    card = send(troubled, "caption", image=PICTURE)
    expect(card.locator(".state")).to_have_text("come again; asking again in 1 s")
    finished(card)


def test_weights_over_time_follow_the_form(page: Page) -> None:
    page.locator("#tab-spectrogram").click()
    drawn = page.get_by_label("weights of picture and sound over time")
    assert drawn.locator("rect.sound").count() == 100
    assert float(drawn.locator("rect.picture").first.get_attribute("height") or 1) == 0  # the picture begins at .9
    page.locator("#spectrogram-sound_from").fill("0.5")
    expect(page.get_by_text("There is a time at which neither paints")).to_be_visible()
    page.locator("#spectrogram-imprint").set_input_files(PICTURE)
    page.locator("#spectrogram-strength").fill("0.5")
    assert drawn.locator("rect.imprint").count() == 50
    expect(page.get_by_text("There is a time at which neither paints")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_it_fits_both_widths_is_read_in_the_dark_and_goes_by_keyboard(
    url: str, chromium: Browser, width_px: int, scheme: str
) -> None:
    with opened(chromium, url, width_px, scheme, UNLOCKED) as page:
        tabs = page.get_by_role("tab")
        expect(tabs.first).to_be_visible()
        assert tabs.count() == 8
        tabs.first.focus()
        for place in range(1, 8):
            page.keyboard.press("ArrowRight")
            expect(tabs.nth(place)).to_be_focused()
            expect(page.get_by_role("tabpanel")).to_have_count(1)
            for box in page.get_by_role("tabpanel").locator("input, select, textarea").all():
                assert box.evaluate("one => one.labels.length") == 1
        page.keyboard.press("Home")
        filled(page, "image", prompt="a dog", size="64x64", steps="1").locator("#image-steps").press("Enter")
        finished(page.locator("#gallery > li")).get_by_text("Request as curl and Python").click()


def test_a_key_is_asked_for(url: str, chromium: Browser) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_text("This server wants a key.")).to_be_visible()
    page.keyboard.type("not a key")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This key is not one of this server's.")).to_be_visible()
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    expect(page.get_by_role("tab").first).to_be_visible()
    expect(page.get_by_text("Random weights")).to_be_visible()
    context.close()
