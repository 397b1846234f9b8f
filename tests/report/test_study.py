"""The page of a study stands on its own, says everything, and takes no text for markup."""

import re
from html.parser import HTMLParser
from typing import Any

from mmray.fusion.leaderboard import COLUMNS
from mmray.report import study

NAME = "<b>&'näme"


def account() -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS) | {
        "rank": 1, "status": "done", "embeddings": NAME, "fusion": "single", "classifier": "mlp", "labels": "given",
        "samples": 4, "accuracy": 0.75, "accuracy_low": 0.4, "accuracy_high": 0.9, "macro_f1": 0.7, "table": "3.1",
        "balanced_accuracy": 0.7, "seconds": 1.0, "published": 0.54, "detail": "a note",
    }  # fmt: skip
    late = row | {"rank": 2, "status": "timed_out", "accuracy": None, "published": None, "detail": "took longer"}
    return {
        "cells": 2, "done": 1, "failed": 0, "timed_out": 1, "warnings": ["2 group(s) stand"], "notes": ["1 left"],
        "leaderboard": [row, late], "labels": {"given": {"classes": {"x": 3, NAME: 1}, "left_out": {"odd": 2}}},
    }  # fmt: skip


def test_the_page_is_whole_and_asks_nobody() -> None:
    confusion = {"classes": ["x", NAME], "counts": [[3, 0], [1, 0]]}
    folds = [{"train": {"x": 2}, "resampled": {"x": 5}, "test": {"x": 1}}]
    page = study.page(account(), [confusion, None], {"given": folds})
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "width=device-width" in page
    assert NAME not in page
    assert "&lt;b&gt;&amp;&#x27;näme" in page
    for words in ("0.540 (table 3.1)", "timed_out", "took longer", "2 group(s) stand", "1 left", "2 odd", "a note"):
        assert words in page
    parsed: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: parsed.append(tag)  # type: ignore[method-assign]
    reader.feed(page)
    assert parsed.count("table") == 3
    assert "<th class=n>fold 1 resampled" in page
