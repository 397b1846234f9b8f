"""`mmray init` writes a configuration that runs as it stands, for what is in a folder."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mmray import cli
from mmray.config import load_extract
from mmray.pipelines import job


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home without weights."""
    for variable in ("MMRAY_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return tmp_path


def entries(file: Path) -> list[str]:
    config = load_extract(str(file))
    for place, entry in enumerate(config.extractors):
        job.build(entry.name, entry.settings, f"extractors[{place}]", str(file))
    return [entry.name for entry in config.extractors]


def test_films_with_a_list_beside_them(home: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "my films"
    for label, clip in zip(("dog", "cat"), sorted(clips.glob("*.mp4"))[:2], strict=True):
        (folder / label).mkdir(parents=True)
        shutil.copy(clip, folder / label / f"{label}.mp4")
    (folder / "said.csv").write_text("clip,text\ndog/dog.mp4,it barks\ncat/cat.mp4,it purrs\n")
    assert cli.main(["init", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["found"] == {"films": 2, "texts": 2}
    file = folder / "mmray.yaml"
    assert entries(file)[0] == "descriptors"
    for name in ("yamnet", "clip", "whisper", "sbert"):
        assert f"# - {{name: {name}, " in file.read_text()
    assert told["waiting"]["yamnet"] == "mmray models pull yamnet"

    assert cli.main([*shlex.split(told["manifest"])[1:], "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["samples"] == 2
    assert {"text", "label"} <= set(made["columns"])
    assert made["output"] == load_extract(str(file)).manifest

    assert cli.main(["init", str(folder)]) == 2  # what somebody may have changed is never written over
    assert "is there already" in capsys.readouterr().err


def test_a_list_of_texts_is_a_manifest_as_it_stands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "texts.csv").write_text("sample_id,text\na,one\nb,\n")
    assert cli.main(["init", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == {"texts": 1}
    assert load_extract(str(home / "mmray.yaml")).manifest == str(home / "texts.csv")
    assert entries(home / "mmray.yaml") == ["sbert"]


def test_nothing_to_read_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "empty").mkdir()
    (home / "empty" / "notes.csv").write_text("when,what\n1,2\n")
    assert cli.main(["init", str(home / "empty")]) == 2
    assert "no media found" in capsys.readouterr().err
    assert cli.main(["init", str(home / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
