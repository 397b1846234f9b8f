"""A study finishes: what runs too long is given up, what fails is said, what was done is not done again."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from mmray import cli
from mmray.errors import ConfigError
from mmray.fusion import cells
from mmray.fusion.config import load_study
from mmray.pipelines import study
from tests.conftest import ROOT
from tests.fusion import making
from tests.pipelines.conftest import wait_for

CLASSES = np.arange(60) % 3
Write = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Return a function that writes a study over a small store."""
    columns = {"label": [f"class {one}" for one in CLASSES], "text": ["?", "!"] * 30, "words": ["what is that"] * 60}
    columns["group"] = [str(place // 6) for place in range(60)]
    wide = making.clusters(np.arange(60) % 20, 1000, 5)
    matrices = {"a": making.clusters(CLASSES, 5, 1.0), "b": making.clusters(CLASSES, 4, 1.0, 1), "wide": wide}
    columns |= {"tags": [["x"]] * 60, "one": ["same"] * 60, "each": list(range(60))}
    columns["many"] = [f"class {one}" for one in np.arange(60) % 20]
    store = making.store(tmp_path / "store", columns, matrices)

    def write(**keys: Any) -> Path:
        about = {"store": store, "out": str(tmp_path / "out"), "embeddings": [{"extractor": "a"}, {"extractor": "b"}]}
        about |= {"classifiers": ["logistic", "naive_bayes", "majority"], "folds": 3, "split": "group"}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(about | keys))
        return path

    return write


def run(path: Path, *words: str) -> dict[str, Any]:
    return study.run(load_study(str(path), list(words)), str(path))


def test_a_study_gives_a_leaderboard_and_is_done_once(
    ray_session: None, config: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(rows=[{"embeddings": ["a", "b"], "fusion": "late", "classifier": ["logistic", "naive_bayes"],
                         "published": 0.548, "table": "3.5"}])  # fmt: skip
    assert cli.main(["study", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"study", "cells", "done", "failed", "timed_out", "leaderboard", "seconds"} <= set(result)
    assert (result["cells"], result["done"], result["computed"], result["warnings"]) == (13, 13, 13, [])
    assert 0 < result["busy"] <= 1
    board = result["leaderboard"]
    assert [row["rank"] for row in board] == list(range(1, 14))
    assert all(a["accuracy"] >= b["accuracy"] for a, b in itertools.pairwise(board))
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in board)
    (theirs,) = (row for row in board if row["published"] is not None)
    assert (theirs["classifier"], theirs["table"], theirs["published"]) == ("logistic + naive_bayes", "3.5", 0.548)
    assert {row["classifier"] for row in board[-3:]} == {"majority"}
    table = pl.read_parquet(tmp_path / "out" / "leaderboard.parquet")
    assert table.equals(pl.read_csv(tmp_path / "out" / "leaderboard.csv", schema=table.schema))
    assert table.to_dicts() == board
    files = list((tmp_path / "out" / "cells").glob("*.json"))
    assert len(files) == 13
    for file in files:
        answers = json.loads(file.read_text())["answers"]
        assert {name: len(values) for name, values in answers.items()} == {"ids": 60, "true": 60, "classes": 60}
    everything = json.dumps(result) + (tmp_path / "out" / "study.json").read_text()
    assert "s0000" not in everything  # answers stay in the files of the cells
    assert cli.main(["study", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "0 computed now" in printed
    assert "0.548 (table 3.5)" in printed
    assert "published: the document's own figures" in printed
    assert run(path, "seeds=[0, 1]")["computed"] == 13
    assert run(path, "folds=4")["computed"] == 13


def test_what_takes_too_long_and_what_fails_is_said_and_the_rest_goes_on(ray_session: None, config: Write) -> None:
    path = config(
        embeddings=[{"extractor": "a"}, {"extractor": "wide"}, {"extractor": "tfidf"}],
        labels=[{"as": "many", "column": "many"}], fusions=[], timeout_s=2,
        rows=[
            {"embeddings": "a", "classifier": "majority"}, {"embeddings": "a", "classifier": "naive_bayes"},
            {"embeddings": ["a", "wide"], "fusion": "late", "classifier": "boosting"},
            {"embeddings": "tfidf", "classifier": "logistic"},
        ], inner_folds=20, split="stratified",
    )  # fmt: skip
    result = run(path)
    assert (result["done"], result["failed"], result["timed_out"]) == (2, 1, 1)
    by = {row["classifier"]: row for row in result["leaderboard"]}
    assert by["boosting"]["detail"] == "took longer than timeout_s = 2"
    assert by["logistic"]["detail"].startswith("ValueError: empty vocabulary")
    assert [row["status"] for row in result["leaderboard"]][:2] == ["done", "done"]
    again = run(path)  # what failed is tried again; what timed out only with more time
    assert again["computed"] == 1
    assert cli.main(["study", str(path)]) == 1


def test_waiting_in_line_is_not_taking_too_long(
    ray_session: None, config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleeps_or_dies(cell: cells.Cell, *_: Any) -> dict[str, Any]:
        time.sleep(6) if cell.seed < 4 else os._exit(1)  # four cores: the fifth cell waits for one
        return {"status": "failed", "detail": "slept", "seconds": 6}

    monkeypatch.setattr(study, "_cell", sleeps_or_dies)
    keys = {"embeddings": [{"extractor": "a"}], "fusions": ["single"], "classifiers": ["majority"]}
    result = run(config(seeds=list(range(5)), timeout_s=5, **keys))  # a new worker takes seconds to start
    assert (result["failed"], result["timed_out"]) == (5, 0)
    assert result["leaderboard"][0]["detail"] == "slept; its process died 3 times"


def test_a_cell_whose_process_is_killed_from_outside_is_done_again(
    ray_session: None, config: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute, mark = study._cell, tmp_path / "killed once"

    def killed_once(cell: cells.Cell, *rest: Any) -> dict[str, Any]:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(cell, *rest)

    monkeypatch.setattr(study, "_cell", killed_once)
    result = run(config(embeddings=[{"extractor": "a"}], fusions=["single"], classifiers=["majority"]))
    assert mark.exists()
    assert result["done"] == result["cells"]


def test_a_study_that_is_killed_goes_on(ray_session: None, config: Write, tmp_path: Path) -> None:
    path = config(seeds=list(range(8)))
    command = [sys.executable, "-m", "mmray.cli", "study", str(path), "--json"]
    written = tmp_path / "out" / "cells"
    killed = subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": ""}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(list(written.glob("*.json"))) >= 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {file.name: file.stat().st_mtime_ns for file in written.glob("*.json")}
    result = run(path)
    assert (result["done"], result["computed"]) == (96, 96 - len(kept))
    assert {file.name: file.stat().st_mtime_ns for file in written.glob("*.json") if file.name in kept} == kept


def test_leaks_are_loud_or_an_error(ray_session: None, config: Write) -> None:
    path = config(split="stratified", classifiers=["majority"])
    (warning,) = {one[:11] for one in run(path)["warnings"]}
    assert warning == "10 group(s)"
    with pytest.raises(ConfigError, match=r"study\.yaml: leaks: 10 group"):
        run(path, "leaks=error")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("classifierz=[mlp]", "unknown key 'classifierz'; did you mean 'classifiers'"),
        ("embeddings.0.poling=max", r"unknown key 'embeddings\[0\].poling'"),
        ("embeddings.0.extractor=c", r"no extractor 'c'"),
        ("split=given", "split_column: the manifest has no column 'split'"),
        ("labels=[{as: x, column: lable}]", "the manifest has no column 'lable'; did you mean 'label'"),
        ("rows=[{embeddings: a, classifier: mlp, labels: z}]", r"rows\[0\].labels: there is no 'z'"),
        ("folds=11", "folds: 11 folds need at least as many groups; there are 10"),
        ("inner_folds=7", "inner_folds: 7 folds need at least as many groups; there are 6"),
        ("group_column=gruop", "group_column: the manifest has no column 'gruop'; did you mean 'group'"),
        ("test_fraction=0.2", "test_fraction: one split instead of folds; leave one of them out"),
        (
            "rows=[{embeddings: [a, a], fusion: late, classifier: mlp}]",
            r"rows\[0\]: embeddings: one stands there twice",
        ),
        ("labels=[{column: each}]", r"fewer than two classes .* \(60 class\(es\) of a single sample are left out"),
        ("seeds=[-1]", r"seeds\[0\]: Input should be greater than or equal to 0"),
        ("seeds=[4294967296]", r"seeds\[0\]: Input should be less than 4294967296"),
        ("timeout_s=.inf", "timeout_s: Input should be less than"),
        ("timeout_s=0", "timeout_s: Input should be greater than 0"),
        ("embeddings=[{extractor: a}, {extractor: tfidf, source: words}]", "'tfidf' is the same in all samples"),
        ("labels=[{column: tags}]", "column: holds lists"),
        ("labels=[{column: one}]", "labels 'given': fewer than two classes among 60 samples"),
    ],
)
def test_a_wrong_word_is_named_before_any_work(config: Write, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(config(), setting)


def test_numbers_are_labels(config: Write) -> None:
    config = load_study(str(config()), ["labels=[{column: number, drop: [7], merge: {even: [0, 2]}}]"])
    assert (config.labels[0].drop, config.labels[0].merge) == (("7",), {"even": ("0", "2")})


def test_cells_that_fit_no_machine_are_refused(ray_session: None, config: Write) -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_cell: 64 do not fit: the largest machine has 4"):
        run(config(), "cpus_per_cell=64")


def test_combinations_without_a_cell_are_refused(config: Write) -> None:
    with pytest.raises(ConfigError, match="fusions: early, late: needs embeddings of two modalities"):
        run(config(embeddings=[{"extractor": "a"}], fusions=["early", "late"]))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*study*.yaml")), ids=lambda path: path.name)
def test_the_studies_that_are_shipped_are_valid(path: Path) -> None:
    assert load_study(str(path)).embeddings


def test_a_damaged_cell_is_done_again_and_left_out_of_the_report(
    ray_session: None, config: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = config(fusions=["single"])
    first = run(path)
    files = sorted((tmp_path / "out" / "cells").iterdir())
    damages = [files[0].read_bytes()[:100], b"", b"{}", b'{"status": "done"}', b"\xff\xfe"]
    for file, data in zip(files, damages, strict=False):
        file.write_bytes(data)
    assert cli.main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "report.html")]) == 0
    assert all(f"{file.name}: " in caplog.text for file in files[: len(damages)])
    again = run(path)
    assert again["computed"] == len(damages) < len(files)
    assert [row["accuracy"] for row in again["leaderboard"]] == [row["accuracy"] for row in first["leaderboard"]]


def test_the_folder_of_something_else_is_not_written_into(config: Write, tmp_path: Path) -> None:
    for kind, name in (("a store", "store"), ("trained networks", "train"), ("a cross-modal study", "results")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / f"{name}.json").write_text("{}")
        with pytest.raises(ConfigError, match=rf"study\.yaml: out: {folder} holds {kind} \({name}\.json\)"):
            run(config(out=str(folder)))
        assert [file.name for file in folder.iterdir()] == [f"{name}.json"]
