"""What another tool made becomes a partition like any other: accounted for, verified, and never in the way."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import mmray
from mmray import cli, provenance, storage
from mmray.errors import ConfigError, MmrayError
from mmray.pipelines import adopt, search, status, verify
from mmray.pipelines.search import Question
from mmray.tables import lease
from mmray.tables.store import open_store
from tests.pipelines.conftest import rows
from tests.tables.test_foreign import idx_file, npz_file

MATRIX = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
IDS = [f"s{number:02d}" for number in range(20)]
LABELS = np.array(["cat", "dog"] * 10)


def given(folder: Path, first: int = 0, last: int = 20, name: str = "a.npz", **changes: Any) -> str:
    arrays = {"ids": np.array(IDS), "matrix": MATRIX, "labels": LABELS} | changes
    return str(npz_file(folder / name, **{key: values[first:last] for key, values in arrays.items()}))


def everything(store: Path) -> dict[str, bytes]:
    """Return all files but the counter of runs."""
    paths = (path for path in sorted(store.rglob("*")) if path.is_file() and path.name != "generation.json")
    return {str(path): path.read_bytes() for path in paths}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    adopt.run([given(tmp_path)], str(tmp_path / "store"), "tool", {"split": "train"})
    return tmp_path / "store"


def test_vectors_come_back_as_they_were(store: Path) -> None:
    found = mmray.load(str(store), "tool")
    np.testing.assert_array_equal(found.matrix, MATRIX)
    assert found.ids == IDS
    assert found.labels == list(LABELS)
    seen = status.status(str(store))
    (counts,) = seen["accounts"].values()
    assert counts == {"ok": 20, "partial": 0, "failed": 0, "skipped": 0, "pending": 0, "reasons": {}}
    assert seen["adds_up"]
    assert seen["nothing_to_do"]
    assert verify.verify(str(store))["ok"]
    assert pl.read_parquet(store / "manifest.parquet")["split"].unique().to_list() == ["train"]
    assert rows(store, "tool")["start_s"].null_count() == 20


def test_where_they_come_from_is_written_down(store: Path, tmp_path: Path) -> None:
    import hashlib

    (path,) = (store / "provenance").glob("tool-*.json")
    about = json.loads(path.read_text())
    assert (about["as"], about["kind"], about["source"], about["weights"]) == ("tool", "embedding", None, "imported")
    (file,) = about["files"]
    data = (tmp_path / "a.npz").read_bytes()
    assert file["uri"] == str(tmp_path / "a.npz")
    assert (file["sha256"], file["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    ledger = pl.read_parquet(store / "ledger" / "*.parquet")
    assert ledger["weights"].unique().to_list() == ["imported"]
    assert ledger["input"].n_unique() == 20


def test_the_same_again_changes_nothing(store: Path, tmp_path: Path) -> None:
    before = everything(store)
    result = adopt.run([given(tmp_path)], str(store), "tool", {"split": "train"})
    assert (result["added"], result["unchanged"], result["there_before"]) == (0, 20, 20)
    assert everything(store) == before


def test_a_column_that_was_forgotten_comes_with_the_same_again(store: Path, tmp_path: Path) -> None:
    assert adopt.run([given(tmp_path)], str(store), "tool", {"fold": 3})["unchanged"] == 20
    assert pl.read_parquet(store / "manifest.parquet").select("fold", "split").unique().rows() == [(3, "train")]


def test_a_second_import_adds(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    adopt.run([given(tmp_path, 0, 12)], store, "tool", {"split": "train"})
    result = adopt.run([given(tmp_path, 12, 20, "b.npz")], store, "tool", {"split": "test"})
    assert (result["added"], result["unchanged"], result["there_before"], result["samples"]) == (8, 0, 12, 20)
    found = mmray.load(store, "tool")
    order = np.argsort(found.ids)
    np.testing.assert_array_equal(found.matrix[order], MATRIX)
    assert pl.read_parquet(f"{store}/manifest.parquet")["split"].to_list() == ["train"] * 12 + ["test"] * 8
    assert verify.verify(store)["ok"]
    (path,) = (tmp_path / "store" / "provenance").glob("*.json")
    assert [Path(one["uri"]).name for one in json.loads(path.read_text())["files"]] == ["a.npz", "b.npz"]


def test_the_last_run_is_the_last_to_commit_also_where_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    for first, run_id in ((0, "20261231T100000000-aaaa"), (10, "20261231T090000000-bbbb")):
        monkeypatch.setattr(provenance, "new_run_id", lambda run_id=run_id: run_id)
        adopt.run([given(tmp_path, first, first + 10)], store, "tool", {"split": "train"})
    assert status.status(store)["run_id"] == "20261231T090000000-bbbb"


@pytest.mark.parametrize(
    ("change", "name", "columns", "said"),
    [
        (
            {"matrix": MATRIX + 1},
            "tool",
            {"split": "train"},
            "20 sample.s., such as 's00', .* other numbers",
        ),
        ({"matrix": MATRIX[:, :5]}, "tool", {"split": "train"}, "with vectors of 6 numbers; these have 5"),
        (
            {"labels": LABELS[::-1]},
            "tool",
            {"split": "train"},
            "label of 20 sample.s. is .*'s00': 'dog', there",
        ),
        ({}, "tool", {"split": "test"}, "split of 20 sample.s. is another than in the store"),
        ({}, "tool", {"label": "x"}, "--column label=x: .* has that column"),
        ({}, "tool", {"fold": [1]}, "--column fold: give a text or a number"),
        ({}, "to/ol", {}, "--as to/ol"),
        ({"ids": np.array(["x"] * 20)}, "tool", {}, "rows 1 and 2 have the same sample_id"),
    ],
    ids=["numbers", "dim", "label", "column", "twice", "list", "name", "doubled"],
)
def test_a_contradiction_is_told_and_nothing_is_written(
    store: Path, tmp_path: Path, change: dict[str, Any], name: str, columns: dict[str, Any], said: str
) -> None:
    before = everything(store)
    with pytest.raises(ConfigError, match=said):
        adopt.run([given(tmp_path, **change)], str(store), name, columns)
    assert everything(store) == before


def test_other_numbers_late_in_the_files_leave_no_part_behind(store: Path, tmp_path: Path) -> None:
    before = everything(store)
    new = given(tmp_path, name="new.npz", ids=np.array([f"n{one}" for one in IDS]))
    with pytest.raises(ConfigError, match="with other numbers"):
        adopt.run([new, given(tmp_path, matrix=MATRIX * 2)], str(store), "tool", {"split": "train"})
    assert everything(store) == before


def test_the_same_id_in_two_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have the same sample_id 's05'"):
        adopt.run([given(tmp_path, 0, 6), given(tmp_path, 5, 9, "b.npz")], str(tmp_path / "store"), "tool", {})


def test_a_vector_with_nan_is_a_failed_sample_until_it_comes_whole(tmp_path: Path) -> None:
    broken = MATRIX.copy()
    broken[3, 2:4], broken[7, 0] = np.nan, np.inf
    store = str(tmp_path / "store")
    result = adopt.run([given(tmp_path, matrix=broken)], store, "tool", {})
    assert (result["added"], result["failed"], result["ok"]) == (20, 2, 18)
    (counts,) = status.status(store)["accounts"].values()
    assert (counts["ok"], counts["failed"], counts["reasons"]) == (18, 2, {"corrupt": 2})
    ledger = pl.read_parquet(f"{store}/ledger/*.parquet").filter(pl.col("status") == "failed").sort("sample_id")
    assert ledger["detail"][0] == "2 of 6 numbers are NaN, infinite or missing"
    assert verify.verify(store)["ok"]
    assert adopt.run([given(tmp_path, matrix=broken)], store, "tool", {})["unchanged"] == 20
    mended = adopt.run([given(tmp_path)], store, "tool", {})
    assert (mended["added"], mended["unchanged"], mended["ok"]) == (0, 18, 20)
    assert verify.verify(store)["ok"]
    found = mmray.load(store, "tool")
    np.testing.assert_array_equal(found.matrix[np.argsort(found.ids)], MATRIX)


def test_nothing_but_nan_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not one vector is whole: 6 of 6 numbers"):
        adopt.run([given(tmp_path, matrix=MATRIX * np.nan)], str(tmp_path / "store"), "tool", {})


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_what_is_exported_can_be_imported(store: Path, tmp_path: Path, ending: str) -> None:
    target = str(tmp_path / f"out.{ending}")
    assert cli.main(["export", str(store), "--extractor", "tool", "-o", target]) == 0
    other = str(tmp_path / "other")
    assert cli.main(["import", target, "--store", other, "--as", "tool"]) == 0
    found = mmray.load(other, "tool")
    assert (found.ids, found.labels) == (IDS, list(LABELS))
    np.testing.assert_array_equal(found.matrix, MATRIX)


def test_the_verbs_work_on_an_imported_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["import", given(tmp_path), "--store", str(store), "--as", "tool", "--column", "split=train"]
    assert cli.main(again) == 0
    assert "20 unchanged; there were 20, now 20" in capsys.readouterr().out
    assert cli.main([*again[:-1], "split"]) == 2
    assert "--column split: write it as key=value" in capsys.readouterr().err
    assert cli.main(["search", str(store), "--sample", "s03", "-k", "3", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    unit = MATRIX / np.linalg.norm(MATRIX, axis=1, keepdims=True)
    assert [one["sample_id"] for one in results] == [IDS[place] for place in np.argsort(-(unit @ unit[3]))[1:4]]
    assert cli.main(["search", str(store), "--text", "cat"]) == 2


def test_a_study_runs_on_imported_vectors(ray_session: None, store: Path, tmp_path: Path) -> None:
    config = {"store": str(store), "out": str(tmp_path / "study"), "embeddings": [{"extractor": "tool"}], "folds": 2}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(config | {"classifiers": ["naive_bayes"]}))
    assert cli.main(["study", str(path)]) == 0
    assert pl.read_parquet(tmp_path / "study" / "leaderboard.parquet")["samples"].to_list() == [20]


def test_an_import_that_was_killed_at_its_end_is_finished_by_the_same_again(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    adopt.run([given(tmp_path, 0, 12)], store, "tool", {})
    (features,) = (tmp_path / "store" / "features").rglob("*.parquet")
    then = features.read_bytes()
    adopt.run([given(tmp_path)], store, "tool", {})
    features.write_bytes(then)  # the ledger was written, the features were not
    broken = verify.verify(store)["broken"]
    assert [one["promise"] for one in broken] == ["features"] * 8
    assert "the same run again makes it" in broken[0]["detail"]
    assert adopt.run([given(tmp_path)], store, "tool", {})["unchanged"] == 20
    assert verify.verify(store)["ok"]


def test_another_run_at_work_is_waited_for(store: Path, tmp_path: Path) -> None:
    with lease.hold(open_store(str(store)), "somebody"), pytest.raises(MmrayError, match="somebody"):
        adopt.run([given(tmp_path)], str(store), "tool", {})


def test_a_bucket_holds_what_a_folder_holds(store: Path, tmp_path: Path, s3_bucket: str) -> None:
    storage.put(f"{s3_bucket}/a.npz", Path(given(tmp_path)).read_bytes())
    adopt.run([f"{s3_bucket}/a.npz"], f"{s3_bucket}/store", "tool", {"split": "train"})
    remote, local = mmray.load(f"{s3_bucket}/store", "tool"), mmray.load(str(store), "tool")
    assert (remote.ids, remote.labels) == (local.ids, local.labels)
    np.testing.assert_array_equal(remote.matrix, local.matrix)
    assert verify.verify(f"{s3_bucket}/store")["ok"]
    assert adopt.run([f"{s3_bucket}/a.npz"], f"{s3_bucket}/store", "tool", {})["unchanged"] == 20


def test_extraction_and_import_share_a_store_and_leave_each_other_alone(
    ray_session: None, test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spoken digits and the written ones: samples of both kinds in one store."""
    (tmp_path / "spoken").mkdir()
    for name in ("0_george_0.wav", "1_theo_1.wav", "2_lucas_2.wav"):
        shutil.copy(test_data / "digits" / "fsdd" / name, tmp_path / "spoken")
    manifest, store = str(tmp_path / "m.parquet"), str(tmp_path / "store")
    words = ["manifest", str(tmp_path / "spoken"), "-o", manifest, "--pattern", "{label}_{group}_{take}.wav"]
    assert cli.main(words) == 0
    images = idx_file(tmp_path / "some-images-idx3-ubyte.gz", np.random.default_rng(0).integers(0, 256, (9, 4, 4)))
    labels = idx_file(tmp_path / "some-labels-idx1-ubyte", np.arange(9))
    config = {"manifest": manifest, "store": store, "extractors": [{"name": "waveform", "pooling": "first"}]}
    config |= {"resources": {"actors": 1}}

    def written() -> None:
        adopt.run([str(images), str(labels)], store, "image", {"split": "train"})

    def account() -> dict[str, Any]:
        assert verify.verify(store)["ok"]
        seen = status.status(store)
        assert seen["adds_up"]
        assert seen["nothing_to_do"]
        return {seen["names"][one]: counts for one, counts in seen["accounts"].items()}

    written()
    pictures = mmray.load(store, "image").matrix
    for _ in range(2):  # after one another in both orders, and again
        assert mmray.extract(config)["adds_up"]
        counts = account()
        assert (counts["image"]["ok"], counts["image"]["reasons"]) == (9, {"no_source": 3})
        assert (counts["waveform"]["ok"], counts["waveform"]["reasons"]) == (3, {"no_source": 9})
        written()
    assert mmray.extract(config)["nothing_to_do"]
    np.testing.assert_array_equal(mmray.load(store, "image").matrix, pictures)
    assert sorted(filter(None, mmray.load(store, "waveform", "first").labels)) == ["0", "1", "2"]

    # Vectors of samples that are there: their column stays when the corpus is extracted again without it.
    heard = npz_file(tmp_path / "h.npz", ids=np.array(["1_theo_1.wav"]), matrix=MATRIX[:1])
    adopt.run([str(heard)], store, "heard", {"take": 1, "mood": "calm"})
    assert mmray.extract(config | {"extractors": [{"name": "waveform"}]})["adds_up"]
    table = pl.read_parquet(f"{store}/manifest.parquet").filter(pl.col("sample_id") == "1_theo_1.wav")
    assert table.select("label", "group", "take", "mood").row(0) == ("1", "theo", "1", "calm")
    assert account()["heard"]["ok"] == 1
    with pytest.raises(ConfigError, match="`mmray extract` makes"):
        adopt.run([str(heard)], store, "waveform", {})


def test_vectors_of_any_size_are_compared_and_what_reaches_them_is_said(store: Path, tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[:, 0], matrix[7:9] = 1, MATRIX[3] * np.float32([[1e30], [1e-30]])
    adopt.run([given(tmp_path, matrix=matrix)], str(store), "far", {})
    found = search.run(str(store), Question("sample", IDS[7], 20, "far"))
    assert [one["sample_id"] for one in found["results"][:1]] == [IDS[8]]
    assert found["results"][0]["score"] == 1
    expected = (
        matrix.astype(np.float64)
        / np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
        @ (MATRIX[3].astype(np.float64) / np.linalg.norm(MATRIX[3].astype(np.float64)))
    )
    scores = {one["sample_id"]: one["score"] for one in found["results"]}
    np.testing.assert_allclose([scores[one] for one in IDS if one in scores], np.delete(expected, 7), atol=2e-6)
    with pytest.raises(ConfigError, match=r"does not reach far-\w+, which holds embedding \(imported: only --sample"):
        search.run(str(store), Question("text", "a dog", 3, "far"))
    (path,) = (store / "provenance").glob("far-*.json")
    path.write_text(path.read_text().replace('"name": "import"', '"name": "moody"'))
    with pytest.raises(ConfigError, match=r"far-\w+ \(its extractor 'moody' is not installed here: only --sample"):
        search.run(str(store), Question("text", "a dog"))
