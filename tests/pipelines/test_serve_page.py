"""The page of the endpoint, as people use it: in a browser, at both widths, by mouse and by keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.pipelines.test_serve import KEY, PNG, WAV, config
from tests.report.looking import WIDTHS_PX, opened

LONG_MS = 60_000
UNLOCKED = f"sessionStorage.setItem('mmray-key', {json.dumps(KEY)})"


@pytest.fixture(scope="module")
def url(ray_session: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve tiny models behind a key."""
    from mmray.pipelines.serve import serving

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    sounding = {"name": "spectrogram", "as": "sounding", "model": str(tiny / "stable_diffusion"), "pool": "tiny"}
    sounding["sound_model"] = str(tiny / "auffusion")
    found = config(tiny, keys_file=str(keys))
    own = found.model_dump(by_alias=True, exclude_unset=True)
    with serving(type(found).model_validate({**own, "models": [*own["models"], sounding]})) as address:
        yield f"{address}/"


@pytest.fixture
def page(url: str, chromium: Browser) -> Iterator[Page]:
    """Open the page with its key."""
    with opened(chromium, url, WIDTHS_PX[1], script=UNLOCKED) as found:
        expect(found.get_by_role("tab").first).to_be_visible()
        yield found


def send(page: Page, tab: str, **values: Any) -> Locator:
    """Fill a form and send it; returns its card."""
    page.locator(f"#tab-{tab}").click()
    for name, value in values.items():
        box = page.locator(f"#{tab}-{name}")
        if isinstance(value, dict):
            box.set_input_files(value)  # type: ignore[arg-type]
        else:
            box.fill(str(value))
    page.locator(f"#form-{tab}").get_by_role("button", name="Ask").click()
    return page.locator("#gallery > li").first


def finished(card: Locator) -> Locator:
    expect(card.locator("progress")).to_have_count(0, timeout=LONG_MS)
    expect(card.locator(".bad")).to_have_count(0)
    return card


def size(picture: Locator) -> list[int]:
    expect(picture).to_be_visible()
    found: list[int] = picture.evaluate("async one => (await one.decode(), [one.naturalWidth, one.naturalHeight])")
    return found


def test_pictures_and_sounds_are_made_and_shown(page: Page) -> None:
    card = finished(send(page, "image", prompt="<b>a cat</b>", size="64x72", n=2, steps=2))
    assert [size(one) for one in card.locator("img").all()] == [[64, 72], [64, 72]]
    expect(card.get_by_role("heading")).to_have_text("Image: <b>a cat</b>")
    card.get_by_text("The request").click()
    shown = card.locator("pre").all_inner_texts()
    assert shown[0].startswith("curl http://127.0.0.1:")
    assert '"size":"64x72"' in shown[0]
    compile(shown[1], "shown", "exec")
    assert KEY not in "".join(shown)

    card = finished(send(page, "audio", prompt="rain", length_s=0.5, steps=1))
    expect(card.get_by_label("spectrogram")).to_be_visible()
    heard = "one => one.duration || new Promise(done => { one.onloadedmetadata = () => done(one.duration); })"
    assert card.locator("audio").evaluate(heard) == pytest.approx(0.5)

    card = finished(send(page, "spectrogram", prompt="dogs", sound_prompt="barking", steps=2))
    assert len(card.locator("img").all()) == 2
    expect(card.locator("audio")).to_be_visible()

    imprint = {"name": "p.png", "mimeType": "image/png", "buffer": PNG}
    card = finished(send(page, "image", prompt="a cat", size="auto", image=imprint, strength=0.9, steps=3, n=1))
    size(card.locator("img"))


def test_what_is_given_is_described(page: Page) -> None:
    picture = {"name": "p.png", "mimeType": "image/png", "buffer": PNG}
    card = finished(send(page, "caption", image=picture))
    assert card.locator("p").last.inner_text()
    card = finished(send(page, "scores", file=picture, labels="cat\ndog\n"))
    assert sorted(cell.inner_text() for cell in card.locator("td:first-child").all()) == ["cat", "dog"]
    finished(send(page, "transcription", file={"name": "s.wav", "mimeType": "audio/wav", "buffer": WAV}))


def test_work_is_cancelled_and_a_wrong_field_is_named(page: Page, url: str) -> None:
    card = send(page, "image", prompt="a cat", size="64x64", steps=400)
    expect(card.get_by_role("status")).to_contain_text("step ", timeout=LONG_MS)
    card.get_by_role("button", name="Cancel").click()
    expect(card.locator(".bad")).to_have_text("cancelled", timeout=LONG_MS)
    jobs = page.evaluate(
        "key => fetch('v1/jobs', {headers: {Authorization: `Bearer ${key}`}}).then(answer => answer.json())", KEY
    )
    assert jobs["data"][0]["status"] == "cancelled"

    before = page.locator("#gallery > li").count()
    send(page, "image", prompt="", size="64x64", steps=2)
    expect(page.locator("#form-image [role=alert]")).to_contain_text("What is to be seen:")
    assert page.locator("#gallery > li").count() == before  # nothing was asked
    expect(page.locator("#image-prompt")).to_be_focused()


def test_weights_over_time_follow_the_form(page: Page) -> None:
    page.locator("#tab-spectrogram").click()
    drawn = page.get_by_label("weights of picture and sound over time")
    assert drawn.locator("rect.sound").count() == 100
    assert float(drawn.locator("rect.picture").first.get_attribute("height") or 1) == 0  # the picture begins at .9
    page.locator("#spectrogram-sound_from").fill("0.5")
    expect(page.get_by_text("There is a time at which neither works")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_it_fits_both_widths_is_read_in_the_dark_and_goes_by_keyboard(
    url: str, chromium: Browser, width_px: int, scheme: str
) -> None:
    with opened(chromium, url, width_px, scheme, UNLOCKED) as page:
        tabs = page.get_by_role("tab")
        expect(tabs.first).to_be_visible()
        assert tabs.count() == 7
        tabs.first.focus()
        for place in range(1, 7):
            page.keyboard.press("ArrowRight")
            expect(tabs.nth(place)).to_be_focused()
            expect(page.get_by_role("tabpanel")).to_have_count(1)
            for box in page.get_by_role("tabpanel").locator("input, select, textarea").all():
                assert box.evaluate("one => one.labels.length") == 1
        page.keyboard.press("Home")
        page.locator("#image-prompt").fill("a dog")
        page.locator("#image-size").fill("64x64")
        page.locator("#image-steps").fill("1")
        page.locator("#image-steps").press("Control+Enter")
        finished(page.locator("#gallery > li").first)


def test_a_key_is_asked_for(url: str, chromium: Browser) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_text("This server wants a key.")).to_be_visible()
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    expect(page.get_by_role("tab").first).to_be_visible()
    expect(page.get_by_text("Random weights")).to_be_visible()
    context.close()
