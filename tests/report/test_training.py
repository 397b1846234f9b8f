"""The page of an evaluation stands on its own, says every figure, and takes no text for markup."""

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest

from mmray.fusion import answers, evaluation
from mmray.fusion.answers import CLEAN, Condition
from mmray.fusion.examples import Examples
from mmray.fusion.views import View
from mmray.report import training

NAME = "<b>&'näme"
CLASSES = ["x", NAME]


def account() -> dict[str, Any]:
    """Return the account of two single networks and one that joins them, which noise makes worse than one of them."""
    random, frames = np.random.default_rng(0), []
    tested = [Examples(np.array([[0, 0], [1, -1], [2, 2], [3, 3]]), np.array([0, 1, 0, 1])) for _ in range(2)]
    networks = {NAME: ("sound", "image"), "sound": ("sound",), "image": ("image",)}
    for name, inputs in networks.items():
        conditions = [CLEAN, *(Condition("removed", one) for one in inputs if len(inputs) > 1)]
        conditions += [Condition("noise", "sound", level) for level in (10.0, -5.0) if "sound" in inputs]
        for condition in conditions:
            for fold, asked in enumerate(tested):
                numbers = np.flatnonzero((asked.places[:, [1] if name == "image" else [0]] >= 0).any(1))
                sure = random.dirichlet([1, 1], len(numbers)).astype(np.float32)
                weights = sure if name == NAME else None
                frame = answers.answered(condition, numbers, asked.classes[numbers], sure, sure, weights)
                frames.append(frame.with_columns(network=pl.lit(name), fold=pl.lit(fold, pl.Int32)))
    frame = pl.concat(frames)
    found = evaluation.Answers(frame, networks, [4, 4])
    figures = evaluation.measure(found, CLASSES)
    answered = evaluation.predictions(frame, tested, ["a", "b", "c", "<i>d"], ["sound", "image"], CLASSES)
    counts = {part: {"": {"x": 2, NAME: 2}} for part in ("train", "validation", "test")}
    return {
        "networks": 3, "fits": 6, "computed": 6, "examples": 8, "pairs": True, "classes": CLASSES,
        "folds": [{"fold": n, "held_out": ["<i>anna"], "examples": 4, "counts": counts} for n in range(2)],
        "leaderboard": evaluation.leaderboard(figures), "figures": figures, "noise": {"sound": "snr_db"},
        "below": ["it is <i>worse"], "disagreements": evaluation.disagreements(found),
        "errors": evaluation.worst_errors(answered), "warnings": ["2 group(s) stand"], "notes": ["1 <i>left"],
    }  # fmt: skip


def views() -> list[View]:
    wave = np.sin(np.arange(800, dtype=np.float32))
    seen = np.random.default_rng(0).random((16, 20), np.float32)
    about = ("sound", "<i>d", NAME, "snr_db")
    picture = np.full((4, 4, 1), 0.5, np.float32)
    return [
        View(*about, None, wave, 8000, seen, 0.01),
        View(*about, -5.0, 3 * wave, 8000, seen, 0.01),
        View("image", "<i>d", NAME, None, None, picture=picture),
    ]


def epochs() -> list[dict[str, Any]]:
    return [
        {"network": NAME, "fold": fold, "epoch": epoch, "validation_loss": 1 / epoch, "validation_accuracy": 0.5}
        for fold in range(2)
        for epoch in range(1, 5)
    ]


def test_the_page_is_whole_and_asks_nobody() -> None:
    about = account()
    page = training.page(about, epochs(), views())
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page
    for raw in (NAME, "<i>"):
        assert raw not in re.sub(r"<i class=[^>]*>", "", page)
    said = [
        "&lt;b&gt;&amp;&#x27;näme",
        "&lt;i&gt;anna",
        "2 group(s) stand",
        "1 &lt;i&gt;left",
        "it is &lt;i&gt;worse",
        "pairs",
    ]
    for row in about["leaderboard"]:
        said += [f"{row['accuracy']:.3f}", f"{row['macro_f1']:.3f}", f"{row['ece_before']:.3f}"]
    said += [f"{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}" for row in about["figures"][NAME]["removed"]]
    clean = about["figures"][NAME]["calibration"]["clean"]["before"]
    for words in (*said, f"{clean['nll']:.4f}", f"{clean['brier']:.4f}", "signal to noise, dB: -5", "validation loss"):
        assert words in page
    assert page.count("&lt;i&gt;anna") == 6  # of two folds: held out; counted, in a title and in a label
    assert page.count("data:image/png") == 3
    tags: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    reader.feed(page)
    # noise 1, weights 1, reliability 2 + 2 + 1, epochs 2, waveforms 2, spectrograms 2
    assert page.count("<figure class=chart>") == 13
    assert tags.count("h2") == page.count("<a href='#") == 13


@pytest.mark.parametrize("without", ["noise", "views", "epochs"])
def test_what_there_is_none_of_has_no_section(without: str) -> None:
    about = account()
    if without == "noise":
        for figures in about["figures"].values():
            figures["noise"], figures["weights"], figures["calibration"]["noise"] = [], [], None
        about |= {"noise": {}, "below": []}
    page = training.page(about, [] if without == "epochs" else epochs(), [] if without == "views" else views())
    names = {"noise": "Under noise", "views": "Examples", "epochs": "Training"}
    assert {key for key, name in names.items() if f"<h2>{name}</h2>" not in page} == {without}
