"""Pages as a browser shows them: what every page must keep to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

WIDTHS_PX = (390, 1280)
# Elements that reach beyond the window, unless a box around them scrolls.
BEYOND = """() => [...document.body.querySelectorAll("*")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !one.closest(".wide");
}).map(one => one.outerHTML.slice(0, 80))"""
# Texts whose contrast with what is behind them is below 4.5.
FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const blend = colours => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
  };
  const light = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const behind = one => one ? [...behind(one.parentElement), getComputedStyle(one).backgroundColor] : ["white"];
  const faint = [];
  for (const one of document.body.querySelectorAll("*")) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !one.getClientRects().length || one.closest("svg, script")) continue;
    const back = behind(one), pair = [light(blend(back)), light(blend([...back, getComputedStyle(one).color]))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) faint.push([one.outerHTML.slice(0, 80), contrast]);
  }
  return faint;
}"""


@contextmanager
def opened(
    browser: Browser, where: Path | str, width_px: int, scheme: str = "light", script: str = ""
) -> Iterator[Page]:
    """Open a file or a server's page; at the end see that it asked nobody else, said no error, fits and can be read.

    ``script`` runs before those of the page.
    """
    address = where if isinstance(where, str) else where.as_uri()
    context = browser.new_context(
        viewport={"width": width_px, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        has_touch=width_px < 600,
    )
    try:
        context.add_init_script(script)
        page = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        yield page
        others = [url for url in asked if not url.startswith(("data:", "blob:"))]
        assert others == [address] if isinstance(where, Path) else all(url.startswith(where) for url in others)
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        assert page.evaluate(BEYOND) == []
        assert page.evaluate(FAINT) == []
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title()
        assert not page.locator("img:not([alt]), img[alt='']").count()
    finally:
        context.close()


def lone_dot(page: Page, place: int = 0) -> tuple[float, float, str, str]:
    """Return where in the window a dot of a map is, the last that no other covers, and whose sample and label it is."""
    svg = page.locator("figure.map svg").nth(place)
    svg.scroll_into_view_if_needed()
    found = svg.evaluate(
        """svg => {
          const names = JSON.parse(document.getElementById("map-ids").textContent);
          const dots = [...svg.querySelectorAll(".dots")].flatMap(path => {
            const at = path.dataset.at.split(" ");
            return [...path.getAttribute("d").matchAll(/M(\\d+) (\\d+)/g)].map(
              ([, x, y], n) => [+x, +y, names[at[n]], path.dataset.label]);
          });
          const lone = dots.filter(a => dots.filter(b => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 < 16).length === 1);
          const [x, y, name, label] = lone[lone.length - 1];
          const box = svg.getBoundingClientRect(), scale = box.width / 420;
          return [box.left + x * scale, box.top + y * scale, name, label];
        }"""
    )
    return found[0], found[1], found[2], found[3]
