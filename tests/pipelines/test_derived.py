"""Extractors that read other extractors: waves, what they are given, and when they are done again."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import mmray
from mmray import cli
from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.extractors.sbert import Sbert
from mmray.pipelines import derived, status, verify
from mmray.specs import Rows, Text
from tests.pipelines.conftest import Extract, ledger, rows


@pytest.fixture(scope="module")
def chain(tiny: Path) -> list[dict[str, Any]]:
    """Return objects, and sentence embeddings of their names; the one that reads stands first."""
    objects = {"name": "yolo_onnx", "weights": str(tiny / "yolox" / "yolox.onnx"), "fps": 2, "score_threshold": 0.02}
    return [{"name": "sbert", "as": "seen", "source": "yolo_onnx.objects", "model": str(tiny / "sbert")}, objects]


@pytest.fixture(scope="module")
def config(
    ray_session: None, chain: list[dict[str, Any]], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("derived") / "store"
    return {"manifest": str(corpus), "store": str(store), "extractors": chain, "resources": {"actors": 1}}


@pytest.fixture(scope="module")
def account(config: dict[str, Any]) -> dict[str, Any]:
    """Run both extractors once."""
    return mmray.extract(config)


def sentences(store: str) -> dict[str, str]:
    """Return what each sample shows, the most certain class first, by another way than the code."""
    said: dict[str, str] = {}
    for (name,), own in rows(store, "yolo_onnx").partition_by("sample_id", as_dict=True).items():
        best: dict[tuple[int, str], float] = {}
        for row in own.iter_rows(named=True):
            key = row["class_id"], row["class_name"]
            best[key] = max(best.get(key, 0.0), row["score"])
        said[str(name)] = ", ".join(word for _, word in sorted(best, key=lambda key: (-best[key], key[0])))
    return said


def test_objects_become_a_sentence_and_its_embedding(
    account: dict[str, Any], config: dict[str, Any], tiny: Path
) -> None:
    store = config["store"]
    assert account["adds_up"]
    seen, objects = account["accounts"].values()
    assert seen["pending"] == objects["pending"] == 0
    said = sentences(store)
    assert len(said) > 3
    assert (seen["ok"] + seen["partial"]) == len(said)
    assert seen["skipped"] == account["samples"] - len(said)
    assert set(seen["reasons"]) <= {"source_failed", "no_text", "truncated"}
    assert seen["reasons"]["source_failed"] == objects["failed"] == 1

    embed = Sbert(model=str(tiny / "sbert")).load("cpu", str(tiny / "sbert"))
    found = mmray.load(store, "seen")
    expected = []
    for name in found.ids:
        (one,) = embed([Text(said[name])])
        assert isinstance(one, Rows)
        expected.append(one.columns["embedding"].mean(axis=0))
    np.testing.assert_allclose(found.matrix, np.stack(expected), atol=1e-5)

    assert verify.verify(store)["ok"]
    assert status.status(store)["accounts"] == dict(sorted(account["accounts"].items()))
    assert mmray.extract(config)["nothing_to_do"]


def test_the_name_in_the_configuration_is_no_part_of_the_identity(
    account: dict[str, Any], config: dict[str, Any], chain: list[dict[str, Any]]
) -> None:
    renamed = [chain[0] | {"as": "words", "source": "found.objects"}, chain[1] | {"as": "found"}]
    again = mmray.extract(config | {"extractors": renamed})
    assert again["nothing_to_do"]
    assert set(again["accounts"]) == set(account["accounts"])


def test_what_a_source_had_to_skip_or_cut_short_is_passed_on(account: dict[str, Any], config: dict[str, Any]) -> None:
    frame = ledger(config["store"])
    source = frame.filter(pl.col("extractor").str.starts_with("yolo_onnx"))
    own = frame.filter(pl.col("extractor").str.starts_with("sbert"))
    both = own.join(source, on="sample_id", suffix="_source")
    partial = both.filter((pl.col("status_source") == "partial") & (pl.col("rows_source") > 0))
    assert partial.height == 1
    assert partial["status"].to_list() == ["partial"]
    assert partial["reason"].to_list() == partial["reason_source"].to_list()
    blind = both.filter((pl.col("status_source") == "ok") & (pl.col("rows_source") == 0))
    assert set(blind["reason"]) <= {"no_text"}


@pytest.fixture
def counted(
    extract: Extract, chain: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Return a function that runs an extraction of the objects and of the letters of their names."""
    monkeypatch.setitem(registry.BUILT_IN, "letters", "tests.pipelines.letters:Letters")
    return partial(extract, extractors=[{"name": "letters", "source": "yolo_onnx.objects"}, chain[1]])


def test_a_source_done_again_makes_its_readers_pending(counted: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    counted()
    before = ledger(store)
    assert status.retry(str(store), "truncated")["segments"] == 2
    waiting = status.status(str(store))
    assert [about["pending"] for about in waiting["accounts"].values()] == [1, 1]
    again = counted()
    assert again["adds_up"]
    assert all(about["pending"] == 0 for about in again["accounts"].values())
    after = ledger(store)
    changed = before.join(after, on=before.columns, how="anti", nulls_equal=True)
    assert changed["sample_id"].unique().to_list() == ["cut off.mp4"]
    # The file is the same: only what derives has a new input.
    assert changed["extractor"].str.starts_with("letters").all()
    assert counted()["nothing_to_do"]


def test_a_plan_counts_what_waits_for_its_source(config: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config | {"store": str(tmp_path / "store")}))
    assert cli.main(["plan", str(file), "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)
    seen, objects = predicted["extractors"].values()
    assert seen["name"] == "seen"
    assert seen["pending"] == objects["pending"] == predicted["samples"]
    assert seen["bytes"] > 0


def test_a_limit_leaves_readers_pending_too(counted: Callable[..., dict[str, Any]]) -> None:
    account = counted(limit=4)
    assert account["adds_up"]
    assert [about["pending"] for about in account["accounts"].values()] == [account["samples"] - 4] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "yolo.objects"}, "no column 'yolo.objects'.*no entry of this configuration is called 'yolo'"),
        ({"source": "yolo_onnx.text"}, r"gives no 'text'; write yolo_onnx\.objects"),
        ({"source": "seen.text"}, "circle: seen -> seen"),
        ({"source": "yolo_onnx"}, r"write yolo_onnx.text or .objects"),
        ({"source": "uri"}, "sbert reads texts, and uri names media"),
        ({"name": "pixels", "source": "text", "model": None}, "pixels reads media, not texts"),
        ({"name": "pixels", "model": None}, "is text, and pixels does not read text"),
        ({"name": "clip"}, "does not read text .set modality: text."),
    ],
)
def test_a_source_that_cannot_be_read_is_a_configuration_error(
    extract: Extract, chain: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    entry = {key: value for key, value in (chain[0] | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=rf"extractors\[0\]\.source: .*{message}"):
        extract(extractors=[entry, chain[1]])


def test_extractors_that_read_each_other_are_told_how(extract: Extract, chain: list[dict[str, Any]]) -> None:
    one = chain[0] | {"as": "one", "source": "two.text"}
    with pytest.raises(ConfigError, match="circle: one -> two -> one"):
        extract(extractors=[one, chain[0] | {"as": "two", "source": "one.text"}])


def test_order_puts_sources_first() -> None:
    assert derived.order({"c": "b", "a": "", "b": "a"}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="x -> y -> x"):
        derived.order({"a": "x", "x": "y", "y": "x"})


def test_bad_weights_of_a_later_wave_are_found_before_any_decoding(
    ray_session: None, chain: list[dict[str, Any]], corpus: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny / "sbert", folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("attention.self.key.weight"))
    save_file(
        {key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    config = {"manifest": str(corpus), "store": str(tmp_path / "store"), "resources": {"actors": 1}}
    config |= {"extractors": [chain[0] | {"model": str(folder)}, chain[1]]}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    assert cli.main(["extract", str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err
    assert str(folder) in said
    assert name.removeprefix("bert.") in said
    assert not list((tmp_path / "store").glob("windows/**/*.parquet"))
