"""Reports of real stores and studies: they say what is there, open in a browser, and ask nobody."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Browser

import mmray
from mmray import cli, provenance
from mmray.errors import ConfigError
from mmray.fusion import crossmodal
from mmray.fusion.config import load_study
from mmray.pipelines import pictures, projection, report, study, study_crossmodal
from mmray.pipelines.pictures import Medium
from mmray.report.reasons import WORDS
from mmray.tables import features, lease, ledger
from mmray.tables.store import open_store, write_parquet
from tests.fusion import making
from tests.report import looking

EVIL = "<img src=x onerror=alert(1)>'\"&"
CLASSES = np.arange(60) % 3


@pytest.fixture(scope="module")
def store(ray_session: None, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract films (some damaged), a picture, a sound and a file that is not there, under hostile names and labels."""
    folder = tmp_path_factory.mktemp("report")
    films = sorted((test_data / "video/grid_labelled/mp4").glob("*.mp4"))[:8]
    damaged = [test_data / "video/awkward/derived" / name for name in ("truncated_mdat.mp4", "zero_bytes.mp4")]
    rows = [(path.name, str(path), f"says {path.stem[0]}", "bin blue") for path in films]
    rows += [(path.name, str(path), None, None) for path in damaged]
    rows += [
        (f"{EVIL}.mp4", "/there/is/none.mp4", EVIL, EVIL),
        ("a photograph", str(test_data / "images/coco_mini_cc/000000397133.jpg"), "picture", "people in a kitchen"),
        ("a sound", str(next((test_data / "audio/esc10/rain").glob("*.ogg"))), "rain", None),
    ]
    table = pl.DataFrame(rows, ["sample_id", "uri", "label", "text"], orient="row")
    splits = ["test" if place % 4 == 0 else "train" for place in range(table.height)]
    table = table.with_columns(split=pl.Series(splits), group=pl.col("label"))
    write_parquet(table.to_arrow(), str(folder / "manifest.parquet"))
    entries = [{"name": "descriptors"}, {"name": "pixels", "fps": 2, "side_px": 8, "pooling": ["mean", "max"]}]
    keys = {"manifest": str(folder / "manifest.parquet"), "store": str(folder / "store"), "max_error_rate": 1}
    assert mmray.extract({**keys, "extractors": entries, "resources": {"actors": 1}})["adds_up"]
    return folder / "store"


def test_the_report_of_a_store_says_what_is_there_and_can_be_used(
    store: Path, tmp_path: Path, chromium: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    assert cli.main(["report", str(store), "-o", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["of"], result["samples"], result["maps"]) == ("store", 13, 3)
    assert result["size_bytes"] == file.stat().st_size < 500_000
    for width_px in looking.WIDTHS_PX:
        for scheme in ("light", "dark"):
            with looking.opened(chromium, file, width_px, scheme) as page:
                headings = page.locator("h2").all_inner_texts()
                assert headings == ["Account", "Coverage", "Classes", "Media", "Embeddings", "To look at"]
                for link in page.locator("nav a").all():
                    assert page.locator(link.get_attribute("href") or "").count() == 1
                x, y, sample, label = looking.lone_dot(page)
                told = page.locator("figure.map output").first
                page.touchscreen.tap(x, y) if width_px < 600 else page.mouse.move(x, y)
                assert told.inner_text() == (f"{sample} · {label}" if label else sample)
                before = told.inner_text()
                page.locator("figure.map svg").first.focus()
                page.keyboard.press("ArrowRight")
                assert told.inner_text() != before
    words = file.read_text()
    assert "13 samples, each accounted for by 2 extractors: the account adds up." in words
    assert WORDS["missing_file"][1] in words
    assert "3 of them are shown" not in words
    assert "The largest class has 8 samples, the smallest 1: 8 times as many." in words
    assert EVIL not in words


def test_a_label_can_be_seen_alone(store: Path, tmp_path: Path, chromium: Browser) -> None:
    file = tmp_path / "report.html"
    report.run(str(store), str(file))
    with looking.opened(chromium, file, 1280) as page:
        button = page.locator(".legend button").nth(1)
        button.click()
        faint = page.locator("figure.map").first.locator(".dots.faint")
        groups = page.locator(".legend button").count()
        assert faint.count() == groups - 1
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert page.locator(".dots.faint").count() == 0


def test_what_failed_is_shown_where_it_can_be_opened(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    result = report.run(str(store), str(file))
    words = file.read_text()
    assert "failed: empty: the file has no bytes" in words
    assert "failed: missing_file" in words
    assert "No picture: empty" not in words  # it is said already
    assert "truncated_mdat.mp4" in words
    assert words.count("data:image/jpeg;base64") == result["thumbnails"] >= 1


def test_thumbnails_of_pictures_films_and_sounds_and_of_what_hangs(ray_session: None, test_data: Path) -> None:
    film = next((test_data / "video/grid_labelled/mp4").glob("*.mp4"))
    sound = next((test_data / "audio/esc10/rain").glob("*.ogg"))
    media = [Medium(str(film), 0.5, 1.0), None, Medium(str(sound), 1.0), Medium("/there/is/none.jpg")]
    shown, none, heard, missing = pictures.made(media)
    for one in (shown, heard):
        assert (one.data or "").startswith("data:image/jpeg;base64,")
        assert len(one.data or "") < 15_000
    assert none == (None, None)
    assert missing.data is None
    assert (missing.trouble or "").startswith("missing_file")


@pytest.fixture
def studied(ray_session: None, test_data: Path, tmp_path: Path) -> Path:
    """Run a study over made-up vectors, of samples that have pictures; two of them can only be answered wrongly."""
    films = sorted(str(path) for path in (test_data / "video/grid_labelled/mp4").glob("*.mp4"))[:5]
    labels = [f"class {one} {EVIL if one == 2 else ''}".strip() for one in CLASSES]
    labels[0], labels[1] = labels[1], labels[0]  # their vectors are those of the other class
    columns = {"label": labels, "uri": [films[place % len(films)] for place in range(60)], "text": ["words"] * 60}
    matrices = {"a": making.clusters(CLASSES, 5, 0.3), "b": making.clusters(CLASSES, 4, 0.3, 1)}
    made = making.store(tmp_path / "store", columns, matrices)
    about = {"store": made, "out": str(tmp_path / "out"), "embeddings": [{"extractor": "a"}, {"extractor": "b"}]}
    about |= {"classifiers": ["naive_bayes", "majority"], "fusions": ["single", "early"], "folds": 3}
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(about))
    assert study.run(load_study(str(file)), str(file))["done"] == 6
    return tmp_path / "out"


def test_the_report_of_a_study_shows_the_worst_errors(studied: Path, tmp_path: Path, chromium: Browser) -> None:
    file = tmp_path / "report.html"
    result = report.run(str(studied), str(file))
    assert (result["of"], result["samples"]) == ("study", 60)
    assert result["maps"] >= 1
    assert result["thumbnails"] >= 2
    for width_px in looking.WIDTHS_PX:
        with looking.opened(chromium, file, width_px, "dark") as page:
            headings = page.locator("h2").all_inner_texts()
            assert headings[:4] == ["Leaderboard", "Worst errors", "Map of the best", "Confusion matrices"]
            cards = page.locator(".cards article")
            first, second = cards.nth(0).inner_text(), cards.nth(1).inner_text()
            assert {first.splitlines()[0], second.splitlines()[0]} == {"s0000", "s0001"}
            assert "wrong in 3 of 3 cells" in first
            assert "is class 1" in cards.filter(has_text="s0000").inner_text()
            assert "taken for class 0 (3)" in cards.filter(has_text="s0000").inner_text()
            x, y, sample, label = looking.lone_dot(page)
            page.touchscreen.tap(x, y) if width_px < 600 else page.mouse.move(x, y)
            assert page.locator("figure.map output").first.inner_text() == f"{sample} · {label}"
            assert label.startswith("class")
    assert EVIL not in file.read_text()


def test_a_study_is_reported_without_its_store(studied: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    file = tmp_path / "report.html"
    result = report.run(str(studied), str(file))
    assert (result["maps"], result["thumbnails"]) == (0, 0)
    assert "The store is not where it was" in file.read_text()
    assert "wrong in 3 of 3 cells" in file.read_text()


def test_the_report_of_maps_between_modalities(tmp_path: Path, chromium: Browser) -> None:
    matrices = {"a": making.clusters(CLASSES, 5, 0.3), "b": making.clusters(CLASSES, 4, 0.3, 1)}
    for matrix in matrices.values():
        matrix[20:40] = matrix[:20]  # the same pairs once more: some stand on both sides
    made = making.store(tmp_path / "store", {"label": ["x"] * 60}, matrices, have={"a": range(55)})
    earlier = tmp_path / "out" / "maps" / "contrastive"
    earlier.mkdir(parents=True)
    sides = {side: crossmodal.Side(extractor=name) for side, name in (("source", "a"), ("target", "b"))}
    study_crossmodal.run(
        crossmodal.CrossmodalConfig(store=made, out=str(tmp_path / "out"), maps=("linear",), held_out=20, **sides)
    )
    file = tmp_path / "report.html"
    assert report.run(str(tmp_path / "out"), str(file))["of"] == "cross-modal study"
    with looking.opened(chromium, file, 390) as page:
        rows = page.locator("table tbody tr th").all_inner_texts()
        assert rows == ["chance", "linear"]
        found = json.loads((tmp_path / "out" / "results.json").read_bytes())["maps"]["linear"]
        told = f"{found['different_answers']} ({found['different_share']:.0%})"
        assert page.locator("tbody tr").last.locator("td").last.inner_text() == told
        assert "5 only in target" in page.locator("main").inner_text()
        (said,) = json.loads((tmp_path / "out" / "results.json").read_bytes())["warnings"]
        assert page.locator(".warn").inner_text() == f"Leak: {said}"
    assert not earlier.exists(), "a map of an earlier run, of other pairs or settings, is found by no search"


def text_store(folder: Path, samples: int, dim: int = 8, partitions: int = 2) -> str:
    """Write a store of texts as an extraction leaves it, with so many samples."""
    made = open_store(str(folder), create=True)
    ids = [f"a folder/with a long name/of samples/{place:07d}" for place in range(samples)]
    texts = [f"text {place % 100}" for place in range(samples)]
    labels = [f"class {place % 300}" for place in range(samples)]
    made.write(pl.DataFrame({"sample_id": ids, "text": texts, "label": labels}).to_arrow(), "manifest.parquet")
    inputs = {text: provenance.fingerprint(text, 16) for text in set(texts)}
    matrix = np.random.default_rng(0).normal(size=(samples, dim)).astype(np.float32)
    for number in range(partitions):
        extractor = f"sbert-{number:08d}"
        about = {"id": extractor, "as": f"words {number}", "source": "text", "origin": None, "reads_text": True}
        about |= {"whole_sample": False, "kind": "embedding"}
        made.write_json(about, "provenance", f"{extractor}.json")
        failed = pl.int_range(samples) % 10 == 0
        rows = pl.DataFrame({"sample_id": ids, "input": [inputs[text] for text in texts]}).with_columns(
            segment=0, extractor=pl.lit(extractor), attempt=1, rows=1, frames=1, media_s=0.0, decode_s=0.0, model_s=0.0,
            status=pl.when(failed).then(pl.lit("failed")).otherwise(pl.lit("ok")), weights=pl.lit("w"),
            reason=pl.when(failed).then(pl.lit("bad_text")), detail=pl.when(failed).then(pl.lit("x" * 500)),
            part=pl.lit(None, pl.String), run_id=pl.lit("r"), node=pl.lit("n"),
            at=pl.lit(0).cast(pl.Datetime("us", "UTC")),
        )  # fmt: skip
        with lease.hold(made, f"run-{number}") as held:
            ledger.append(made, rows.to_arrow(), f"run-{number}", 1, held)
        made.write(
            features.table(ids, matrix, "g"), "features", f"extractor={extractor}", "pooling=mean", "part-0.parquet"
        )
    return made.uri


def test_a_large_store_gives_a_small_page_that_says_what_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "MOST_POINTS", 500)
    uri = text_store(tmp_path / "store", 10_000, partitions=13)
    file = tmp_path / "report.html"
    result = report.run(uri, str(file))
    words = file.read_text()
    assert result["size_bytes"] < 1_500_000
    assert result["maps"] == 12
    assert "500 of 10,000 samples, drawn at random" in words
    assert words.count("<path class='dots") == 12 * 17
    assert re.search(r"2\d\d rarer labels, or none \(\d+\)", words)
    assert "Maps of 12 feature partitions are shown; not those of words 12, mean" in words
    assert "1,000 samples failed or are partial; 60 of them are shown" in words
    assert "The 60 most frequent of 300 classes" in words


def test_vectors_that_cannot_be_drawn_are_counted(tmp_path: Path) -> None:
    uri = text_store(tmp_path / "store", 50, partitions=1)
    table = features.load(uri, "sbert-00000000")
    matrix = table.matrix.copy()
    matrix[:, 3], matrix[7, 0], matrix[9, 1] = np.nan, np.inf, np.nan
    write_parquet(features.table(table.ids, matrix, "g"), features.path(open_store(uri), "sbert-00000000", "mean"))
    file = tmp_path / "report.html"
    report.run(uri, str(file))
    words = file.read_text()
    assert "1 of 8 columns have no number for most samples and are left out." in words
    assert "2 have NaN or infinite numbers and are left out." in words
    matrix[:] = 1
    write_parquet(features.table(table.ids, matrix, "g"), features.path(open_store(uri), "sbert-00000000", "mean"))
    report.run(uri, str(file))
    assert "All vectors are equal." in file.read_text()


def test_what_cannot_be_reported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError,
        match=r"is nothing that can be reported: it has none of study\.json of a study; .*store\.json of a store",
    ):
        report.run(str(tmp_path), str(tmp_path / "report.html"))
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'mmray\[umap\]'"):
        report.run(str(tmp_path), str(tmp_path / "report.html"), "umap")
    open_store(str(tmp_path / "empty"), create=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="nothing was extracted into this store yet"):
        report.run(str(tmp_path / "empty"), str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()
