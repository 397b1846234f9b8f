"""The shell of all pages: tables and confusion matrices are escaped, bounded and reachable by keys."""

import re

from mmray.errors import Reason
from mmray.report import page, reasons

EVIL = "<script>alert('x')</script>"


def test_a_table_escapes_all_but_markup_made_here() -> None:
    table = page.table((EVIL, "n"), [(EVIL, 12345), (page.Html("<i>ours</i>"), None)], EVIL)
    assert "<script" not in table
    assert "<i>ours</i>" in table
    assert "<td class=n>12,345" in table
    assert "tabindex=0" in table


def test_links_lead_to_the_sections_that_are_there() -> None:
    html = page.page(EVIL, page.contents({"Worst errors": "<p>w</p>", "Empty": "", "Map & more": "<p>m</p>"}))
    assert "<script" not in html
    assert (
        re.findall(r"href='#([^']*)'", html)
        == re.findall(r"<section id='([^']*)'", html)
        == ["worst-errors", "map-more"]
    )


def test_a_confusion_matrix_shows_every_count_and_no_nought() -> None:
    matrix = page.confusion(["a", EVIL], [[30, 2], [0, 9]])
    assert "<script" not in matrix
    assert re.findall(r">(\d+)", matrix) == ["30", "2", "9"]


def test_many_classes_become_the_most_frequent_mistakes() -> None:
    classes = [f"class {place}" for place in range(200)]
    counts = [[0] * 200 for _ in classes]
    counts[3][5], counts[4][4], counts[7][1] = 9, 99, 2
    matrix = page.confusion(classes, counts)
    assert "200 classes: the 2 most frequent of 2 kinds of mistake" in matrix
    assert matrix.index("class 5") < matrix.index("class 1")
    assert "99" not in matrix
    assert len(matrix) < 10_000


def test_every_reason_has_words_and_a_mend() -> None:
    assert set(reasons.WORDS) == set(Reason)
    assert all(words and mend for words, mend in reasons.WORDS.values())
    named = [re.findall(r"--reason (\w+)", mend) for _, mend in reasons.WORDS.values()]
    assert {name for names in named for name in names} <= set(Reason)
