"""The verbs a user meets first: what they print, and how they end."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from mmray import cli
from mmray.pipelines import extract as extraction
from mmray.tables import lease, ledger
from mmray.tables.store import open_store


@pytest.fixture
def config(corpus: Path, light: list[dict[str, Any]], tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    about = {"manifest": str(corpus), "store": str(tmp_path / "store"), "extractors": light, "resources": {"actors": 1}}
    path.write_text(yaml.safe_dump(about))
    return path


def test_plan_predicts_and_extract_keeps_the_plan(
    ray_session: None, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(config), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["problems"] == {"empty": 1}
    for about in plan["extractors"].values():
        assert about["core_hours"] > 0
        assert about["failures"] == 1
    planned = (tmp_path / "store" / "segments.parquet").stat().st_mtime_ns
    assert cli.main(["plan", str(config)]) == 0
    assert "core hours" in capsys.readouterr().out
    assert (tmp_path / "store" / "segments.parquet").stat().st_mtime_ns == planned
    assert cli.main(["extract", str(config), "--set", "max_error_rate=1"]) == 0
    assert "the account adds up" in capsys.readouterr().out
    assert cli.main(["extract", str(config), "--set", "max_error_rate=0.01"]) == 1
    assert "nothing to do" in capsys.readouterr().out


def test_account_verify_retry_and_export_are_verbs(
    ray_session: None, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    cli.main(["extract", str(config), "--json"])
    account = json.loads(capsys.readouterr().out)
    assert cli.main(["status", store, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    keys = {"run_id", "samples", "accounts", "names", "changed", "absent", "nothing_to_do", "adds_up", "seconds"}
    assert keys <= set(seen)
    assert keys == set(account)
    assert seen["accounts"] == account["accounts"]
    assert cli.main(["verify", store]) == 0
    assert cli.main(["retry", store, "--reason", "emty"]) == 2
    assert "did you mean 'empty'" in capsys.readouterr().err
    target = str(tmp_path / "out.npz")
    assert cli.main(["export", store, "--extractor", "descriptors", "--pooling", "summary", "-o", target]) == 0
    assert cli.main(["export", store, "--extractor", "descriptor", "--pooling", "summary", "-o", target]) == 2
    assert "did you mean 'descriptors'" in capsys.readouterr().err
    next((tmp_path / "store").glob("windows/*/*.parquet")).unlink()
    assert cli.main(["verify", store, "--json"]) == 1
    broken = json.loads(capsys.readouterr().out)
    assert set(broken["broken"][0]) == {"promise", "path", "detail"}


def test_a_manifest_is_made_from_a_folder_with_a_joined_list(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(str(path.relative_to(clips)) for path in clips.rglob("*.*") if path.is_file())
    (tmp_path / "words.csv").write_text("file,word\n" + "".join(f'"{name}",x\n' for name in names[:2]))
    target = str(tmp_path / "m.parquet")
    words = ["manifest", str(clips), "-o", target, "--label-from", "parent", "--join", str(tmp_path / "words.csv")]
    assert cli.main([*words, "--on", "file", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], said["not_joined"]) == (len(names), len(names) - 2)
    assert pq.read_schema(target).names == ["sample_id", "uri", "size_bytes", "source_tag", "label", "word"]
    assert cli.main(["manifest", str(tmp_path / "nowhere"), "-o", target]) == 2
    assert cli.main(["manifest", str(clips), "-o", target, "--pattern", ""]) == 2
    assert cli.main(["manifest", str(clips), "-o", target, "--words", "word", "--slots", "a,,_"]) == 2


def test_models_are_listed_with_their_licences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["models", "list", "--json"]) == 0
    models = {one["name"]: one for one in json.loads(capsys.readouterr().out)["models"]}
    assert models["yamnet"]["licence"] == "Apache-2.0"
    keys = {"name", "source", "revision", "sha256", "licence", "non_commercial", "size_bytes", "present"}
    assert set(models["yamnet"]) == keys | {"extractor", "generator", "output"}
    assert cli.main(["models", "list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 180
    assert cli.main(["models", "make-tiny", str(tmp_path / "tiny")]) == 0
    assert (tmp_path / "tiny" / "yamnet" / "yamnet.h5").is_file()
    assert cli.main(["models", "pull"]) == 2


@pytest.mark.parametrize(
    ("verb", "kind", "words"),
    [
        ("study", "fusion", "kind: 'fusion' is not for `mmray study` (known: crossmodal)"),
        ("train", "txt", "kind: 'txt' is not for `mmray train`; did you mean 'text'?"),
        ("evaluate", "crossmodal", "kind: 'crossmodal' is not for `mmray train` (known: fusion, text)"),
        ("train", "fusion --set kind=text", "the key 'inputs' is missing"),
    ],
)
def test_a_configuration_of_another_verb_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, kind: str, words: str
) -> None:
    path = tmp_path / "run.yaml"
    kind, *rest = kind.split()
    path.write_text(f"kind: {kind}\nout: out\n")
    assert cli.main([verb, str(path), *rest]) == 2
    assert words in capsys.readouterr().err


def test_a_long_run_leaves_few_ledger_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tables.test_ledger import row

    monkeypatch.setattr(extraction, "MERGE_FILES", 5)
    store = open_store(str(tmp_path), create=True)
    import pyarrow as pa

    from mmray.pipelines.worker import RESULT

    with lease.hold(store, "run") as held:
        commit = extraction.Commit(store, "run", held)
        for number in range(23):
            commit.add(pa.Table.from_pylist([row(f"s{number}")], RESULT))
            commit.now()
    assert len(ledger.parts(store)) <= 8
    assert ledger.read(store).height == 23
