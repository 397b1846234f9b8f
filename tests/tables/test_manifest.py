"""A manifest comes from anything that lists media, and says which row is wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray import storage
from mmray.errors import ConfigError
from mmray.tables import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/a.mp4", "cat/b.WAV", "dog/ü 日本 'x\".mkv", "dog/notes.txt", ".hidden/c.mp4", "top.jpg"):
        path = tmp_path / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "media"


def test_a_folder_is_scanned_for_media_alone(folder: Path) -> None:
    table, passed_over = manifest.gather([str(folder)], label_from_parent=True)
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    assert set(rows) == {"cat/a.mp4", "cat/b.WAV", "dog/ü 日本 'x\".mkv", "top.jpg"}
    assert rows["cat/a.mp4"]["label"] == "cat"
    assert rows["cat/a.mp4"]["size_bytes"] == len("cat/a.mp4")
    assert Path(rows["cat/a.mp4"]["uri"]).is_file()
    assert passed_over == {".txt": 1}


def test_a_glob_names_samples_from_its_fixed_part(folder: Path) -> None:
    table, _ = manifest.gather([f"{folder}/**/*.mp4", f"{folder}/top.jpg"])
    assert set(table["sample_id"].to_pylist()) >= {"cat/a.mp4", "top.jpg"}


def test_a_bucket_is_scanned_like_a_folder(s3_bucket: str) -> None:
    for name in ("cat/a.mp4", "dog/b.wav", "list.csv"):
        storage.put(f"{s3_bucket}/media/{name}", b"x")
    table, _ = manifest.gather([f"{s3_bucket}/media"], label_from_parent=True)
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    assert {name: row["label"] for name, row in rows.items()} == {"cat/a.mp4": "cat", "dog/b.wav": "dog"}
    assert rows["dog/b.wav"]["uri"] == f"{s3_bucket}/media/dog/b.wav"
    assert rows["dog/b.wav"]["source_tag"]
    globbed, _ = manifest.gather([f"{s3_bucket}/media/*/*.wav"])
    assert globbed["sample_id"].to_pylist() == ["dog/b.wav"]


CSV = 'sample_id,uri,label,text\n007,a/x.mp4,1,"Grüße, ""Welt"""\n8,,2,\n'
JSONL = '{"sample_id": "007", "uri": "a/x.mp4", "label": 1}\n\n{"sample_id": 8, "label": "2", "text": "日本"}\n'


@pytest.mark.parametrize(
    ("name", "content"), [("list.csv", CSV), ("list.tsv", CSV.replace(",", "\t")), ("list.jsonl", JSONL)]
)
def test_a_list_keeps_ids_and_labels_as_text(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    table = manifest.read(str(tmp_path / name))
    assert table["sample_id"].to_pylist() == ["007", "8"]
    assert table["label"].to_pylist() == ["1", "2"]
    assert table["uri"].to_pylist() == [str(tmp_path / "a/x.mp4"), None]


def test_a_parquet_manifest_comes_back_as_written(tmp_path: Path, folder: Path) -> None:
    table, _ = manifest.gather([str(folder)])
    pq.write_table(table, tmp_path / "m.parquet")
    assert manifest.read(str(tmp_path / "m.parquet")).equals(table)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sample_id,uri\na,1\nb,2\na,3\n", r"rows 1 and 3 have the same sample_id 'a'"),
        ("sample_id,uri\na,1\n,2\n", r"row 2 has no sample_id"),
        ("id,uri\na,1\n", r"'sample_id' is missing.*id, uri"),
        ("sample_id,uri\na,1,2,3\n", r"list\.csv: cannot be read"),
        ("sample_id,start_s,end_s\na,3,2\n", r"row 1: start_s"),
        ("sample_id,start_s\na,soon\n", r"start_s"),
        ("", r"list\.csv"),
    ],
)
def test_a_wrong_list_names_the_row(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(ConfigError, match=words):
        manifest.read(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("content", ['{"sample_id": "a"}\n{nonsense\n', '{"sample_id": "a"}\n[1]\n'])
def test_a_wrong_line_of_jsonl_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="line 2"):
        manifest.read(str(tmp_path / "list.jsonl"))


def test_what_is_not_there_or_no_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for name in ("none.csv", "none", "broken.parquet"):
        with pytest.raises(ConfigError, match=name):
            manifest.gather([str(tmp_path / name)])


def test_the_same_id_from_two_sources_is_told(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "top.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"same sample_id 'top\.jpg'"):
        manifest.gather([str(folder), str(other)])


def test_a_list_is_joined_by_a_column(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("file,word,sample_id\ncat/a.mp4,miau,zzz\nnobody.mp4,x,y\n")
    table, _ = manifest.gather([str(folder)])
    joined, bare = manifest.joined(table, str(tmp_path / "words.csv"), "file")
    rows = {row["sample_id"]: row["word"] for row in joined.to_pylist()}
    assert rows["cat/a.mp4"] == "miau"
    assert rows["top.jpg"] is None
    assert bare == table.num_rows - 1
    labelled = manifest.labelled(joined, "word")
    assert "miau" in labelled["label"].to_pylist()
    with pytest.raises(ConfigError, match="did you mean 'file'"):
        manifest.joined(table, str(tmp_path / "words.csv"), "fil")


def test_types_are_those_of_the_contract(folder: Path) -> None:
    table, _ = manifest.gather([str(folder)])
    assert table.schema.field("sample_id").type == pa.string()
    assert table.schema.field("size_bytes").type == pa.int64()
    assert table.schema.field("source_tag").type == pa.string()


def test_json_lines_end_where_json_says_so(tmp_path):
    """A string may hold U+2028 and U+0085 as they are."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"sample_id": "a", "text": "one\u2028two\u0085three"}\r\n{"sample_id": "b", "text": "x"}\n', "utf-8"
    )
    assert manifest.read(str(path))["text"].to_pylist() == ["one\u2028two\u0085three", "x"]


def test_half_a_surrogate_pair_costs_a_character_and_is_said(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"sample_id": "a", "text": "half \ud800 pair, whole \ud83d\ude00"}')
    assert manifest.read(str(path))["text"].to_pylist() == ["half \ufffd pair, whole \U0001f600"]
    assert "1 value(s) held half of a surrogate pair" in caplog.text
    path.write_text(r'{"sample_id": "\udfff", "text": "x"}')
    with pytest.raises(ConfigError, match="line 1: sample_id holds half"):
        manifest.read(str(path))


def test_a_number_that_is_none_is_no_label(tmp_path: Path) -> None:
    nothing = float("nan")
    table = pa.table({"sample_id": ["a", "b", "c"], "label": [3.0, nothing, None], "speaker": [nothing, 1.0, 2.5]})
    assert manifest.checked(table, "x")["label"].to_pylist() == ["3", None, None]
    assert manifest.labelled(table, "speaker")["label"].to_pylist() == [None, "1", "2.5"]
