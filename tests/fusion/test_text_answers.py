"""Classifiers of texts are asked as they were tuned: all of the test part, and without each of their texts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mmray.config import validate
from mmray.fusion import text_fits, text_material, text_model
from mmray.fusion.text_answers import TextAsking
from mmray.fusion.text_training import TextConfig
from mmray.models.tiny import make_tiny

WORDS = {"sea": "waves sail boat", "town": "cars streets brick", "wood": "ferns moss pine"}


def test_a_classifier_answers_all_who_have_a_text_left(tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "tiny", names=["distilbert"])[0]
    labels = [list(WORDS)[place % 3] for place in range(30)]
    texts = [None if place % 5 == 0 else WORDS[label] for place, label in enumerate(labels)]
    table = {"sample_id": [f"s{n}" for n in range(30)], "title": [f"clip {n}" for n in range(30)], "text": texts}
    pl.DataFrame({**table, "label": labels}).write_parquet(tmp_path / "texts.parquet")
    about = {
        "kind": "text", "manifest": str(tmp_path / "texts.parquet"), "out": str(tmp_path / "out"), "folds": 2,
        "inputs": ["title", "text"], "schedule": {"epochs": 1, "batch_size": 8},
        "networks": [{"as": "joined", "model": str(model)}, {"inputs": ["text"], "model": str(model)}],
    }  # fmt: skip
    config = validate(TextConfig, about, "", "text.yaml")
    planned, material = text_fits.prepare(config), text_material.load(config)
    tested = tuple(fold.test.examples() for fold in planned.split.folds)
    blocks = {name: block.texts or () for name, block in material.dataset.blocks.items()}
    ask = TextAsking(config, blocks, tested, config.out)
    joined, alone = (next(fit for fit in planned.fits if fit.network == name) for name in ("joined", "text"))
    for fit in (joined, alone):
        fitting = planned.make(fit, torch.device("cpu"))
        fitting.epoch()
        fitting.export(fit.folder(config.out))
    assert ask.key(joined) != ask.key(alone)

    frame, places = ask(joined), tested[0].places.max(axis=1)
    having = [n for n, place in enumerate(places) if texts[place] is not None]
    counts = dict(frame.group_by("condition", "input").agg(pl.col("example")).select(
        pl.concat_str("condition", "input", ignore_nulls=True), "example").iter_rows())  # fmt: skip
    assert counts == {"clean": list(range(15)), "removedtitle": having, "removedtext": list(range(15))}
    classifier = text_model.load(joined.folder(config.out))
    for condition, name in (("clean", None), ("removed", "text"), ("removed", "title")):
        part = frame.filter(pl.col("condition") == condition, pl.col("input").eq_missing(name))
        own = places[part["example"].to_numpy()]
        given = [
            [None if name == "title" else table["title"][place], None if name == "text" else texts[place]]
            for place in own
        ]
        expected = torch.from_numpy(classifier.logits(given)).softmax(1).numpy()
        np.testing.assert_allclose(part["confidence"], expected.max(1), atol=1e-5)
        right = [planned.split.classes.index(labels[place]) for place in own]
        np.testing.assert_allclose(part["probability"], expected[np.arange(len(own)), right], atol=1e-5)
        assert part["class"].to_list() == right
    assert classifier.about.temperature == pytest.approx(1) or (frame["confidence"] != frame["raw_confidence"]).any()
    single = ask(alone)
    assert set(single["condition"]) == {"clean"}
    assert single["example"].to_list() == having
