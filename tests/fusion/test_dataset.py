"""Joined partitions say who is absent; nothing is filled in, nothing dropped without a word."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmray.errors import ConfigError
from mmray.fusion import dataset
from mmray.fusion.config import Embedding
from mmray.tables import lease, ledger, windows
from mmray.tables.store import open_store
from tests.fusion import making

TEXTS = ["a dog", "a cat", None, "  ", "a dog", "birds"]


@pytest.fixture
def store(tmp_path: Path) -> str:
    matrix = np.arange(12, dtype=np.float32).reshape(6, 2)
    broken = matrix.copy()
    broken[1, 0], broken[2, 1] = np.nan, np.inf
    columns = {"label": ["x", "y"] * 3, "text": TEXTS}
    return making.store(tmp_path / "s", columns, {"a": matrix, "b": broken}, have={"b": [4, 3, 2, 1]})


def test_who_is_absent_is_not_a_number_and_is_said(store: str) -> None:
    data = dataset.load(store, [Embedding(extractor="a"), Embedding(extractor="b")])
    block = data.blocks["b"]
    assert block.present.tolist() == [False, False, False, True, True, False]
    assert block.matrix is not None
    assert np.isnan(block.matrix[~block.present]).all()
    np.testing.assert_array_equal(block.matrix[[3, 4]], [[6, 7], [8, 9]])
    assert data.having(["a", "b"]).tolist() == block.present.tolist()
    assert any("2 of 4 vectors have NaN" in note for note in data.notes)
    assert any("4 of 6 samples have no vector" in note for note in data.notes)


def test_texts_are_a_block_too_and_blanks_are_absent(store: str) -> None:
    about = Embedding.model_validate({"extractor": "tfidf", "as": "words", "source": "text"})
    data = dataset.load(store, [about])
    assert data.blocks["words"].present.tolist() == [True, True, False, False, True, True]
    contents = data.contents(["words"])
    assert contents[0] == contents[4]
    assert contents[2] is None
    assert len({contents[0], contents[1], contents[5]}) == 3


def test_what_is_not_there_is_named(store: str) -> None:
    with pytest.raises(ConfigError, match=r"embeddings\[1\].*no extractor 'bb'; did you mean 'b'"):
        dataset.load(store, [Embedding(extractor="a"), Embedding(extractor="bb")])
    with pytest.raises(ConfigError, match=r"no pooling 'max'.*mean"):
        dataset.load(store, [Embedding(extractor="a", pooling="max")])
    with pytest.raises(ConfigError, match=r"'txt' is no column.*text"):
        dataset.load(store, [Embedding(extractor="tfidf", source="txt")])
    with pytest.raises(ConfigError, match=r"split_column: the manifest has no column 'fold'"):
        dataset.load(store, [Embedding(extractor="a")]).column("fold", "split_column")


def test_two_ids_under_one_name_are_never_mixed(store: str, tmp_path: Path) -> None:
    making.store(tmp_path / "s", {"label": ["x"] * 6}, {"c": np.ones((6, 2), np.float32)})
    path = tmp_path / "s" / "provenance"
    (path / "c-11111111.json").write_text((path / "c-00000000.json").read_text().replace("00000000", "11111111"))
    with pytest.raises(ConfigError, match=r"may be any of c-00000000.*c-11111111"):
        dataset.load(store, [Embedding(extractor="c")])


def test_the_texts_of_an_extractor_are_read_as_the_ledger_counts_them(store: str) -> None:
    opened = open_store(store)
    opened.write_json({"id": "whisper-1", "as": "spoken", "kind": "text"}, "provenance", "whisper-1.json")
    head = {"sample_id": ["s0000", "s0000", "s0001", "s0002"], "segment": [0, 0, 0, 0], "window": [0, 1, 0, 0]}
    times = {"start_s": [0.0, 1, 0, 0], "end_s": [1.0, 2, 1, 1], "run_id": ["r"] * 4}
    said = {"text": [" a dog ", "barks", "a cat", "of a dead run"], "language": ["en"] * 4, "avg_logprob": [0.0] * 4}
    part = "windows/extractor=whisper-1/part-0.parquet"
    opened.write(pa.table(head | times | said, schema=windows.schema("text", {})), part)
    keys = {"sample_id": ["s0000", "s0001", "s0003"], "status": ["ok", "partial", "skipped"]}
    same = {"segment": [0] * 3, "extractor": ["whisper-1"] * 3, "attempt": [1] * 3, "run_id": ["r"] * 3}
    parts = {"part": [part, part, None]}
    rows = [dict.fromkeys(ledger.SCHEMA.names) | dict(zip(keys | same | parts, values, strict=True))
            for values in zip(*(keys | same | parts).values(), strict=True)]  # fmt: skip
    with lease.hold(opened, "r") as held:
        ledger.append(opened, pa.Table.from_pylist(rows, schema=ledger.SCHEMA), "r", 0, held)
    about = Embedding.model_validate({"extractor": "counts", "source": "spoken.text"})
    assert dataset.load(store, [about]).blocks["counts"].texts == ("a dog barks", "a cat", None, None, None, None)
    with pytest.raises(ConfigError, match="the rows of a-00000000 are not texts"):
        dataset.load(store, [Embedding(extractor="counts", source="a.text")])


def test_samples_are_duplicates_in_what_is_read_of_them(tmp_path: Path) -> None:
    matrix = np.array([[1, 2], [1, 2], [3, 4], [0, 0], [0, 0]], np.float32)
    columns = {"label": ["x"] * 5, "text": ["a", "b", "c", "d", "d"]}
    about = [Embedding(extractor="a"), Embedding.model_validate({"extractor": "tfidf", "as": "words"})]
    data = dataset.load(making.store(tmp_path / "t", columns, {"a": matrix}), about)
    vectors, texts, both = (data.contents(names) for names in (["a"], ["words"], ["a", "words"]))
    assert vectors[0] == vectors[1] != vectors[2]
    assert vectors[3] is vectors[4] is None  # nothing was found in either
    assert texts[3] == texts[4]
    assert len(set(texts)) == 4
    assert len(set(both)) == 4
    assert both[3] == both[4]


@pytest.mark.parametrize("same", ["vectors", "texts"])
def test_what_is_the_same_everywhere_tells_nothing_and_is_refused(tmp_path: Path, same: str) -> None:
    columns = {"label": ["x", "y"], "text": ["a", "a"]}
    store = making.store(tmp_path / "t", columns, {"a": np.ones((2, 3), np.float32)})
    one = Embedding(extractor="a") if same == "vectors" else Embedding(extractor="tfidf")
    with pytest.raises(ConfigError, match=r"embeddings\[0\].* is the same in all samples"):
        dataset.load(store, [one])


def test_what_says_nothing_is_none(tmp_path: Path) -> None:
    table = pa.table({"label": ["x", " ", None], "number": [1.0, float("nan"), None], "list": [["a"], [], None]})
    assert dataset.values(table) == {"label": ["x", None, None], "number": [1.0, None, None], "list": [["a"], [], None]}
