"""A clip with an alignment becomes one sample per word, and what is left out is counted."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from mmray.errors import ConfigError
from mmray.tables import manifest, words

ALIGNED = "bin:0.690-0.900;blue:0.900-1.060;sp:1.060-1.100;at:1.1-1.14"


def clips(*aligned: str | None, **columns: list[object]) -> pa.Table:
    ids = [f"s1/{number}.mpg" for number in range(len(aligned))]
    return pa.table({"sample_id": ids, "uri": ids, "spoken": pa.array(aligned, pa.string()), **columns})


def test_every_word_is_a_part_of_its_clip() -> None:
    table, left_out = words.spoken(clips(ALIGNED, None, fold=[3, 4]), "spoken")
    rows = table.to_pylist()
    assert [row["word"] for row in rows] == ["bin", "blue", "at"]
    assert [row["sample_id"] for row in rows] == ["s1/0.mpg#1", "s1/0.mpg#2", "s1/0.mpg#3"]
    shared = {"clip": "s1/0.mpg", "uri": "s1/0.mpg", "fold": 3}
    assert rows[1] == shared | {
        "sample_id": "s1/0.mpg#2", "position": 2, "word": "blue", "label": "blue", "start_s": 0.9, "end_s": 1.06
    }  # fmt: skip
    assert left_out == {"clips without words": 1}


def test_a_clip_that_is_a_part_itself_shifts_its_words() -> None:
    table, _ = words.spoken(clips("go:0.5-1", start_s=[20.0], end_s=[25.0]), "spoken")
    assert table.select(["start_s", "end_s"]).to_pylist() == [{"start_s": 20.5, "end_s": 21.0}]


def test_slots_name_and_choose_the_words() -> None:
    table, left_out = words.spoken(clips(ALIGNED, "bin:0-1;blue:1-2"), "spoken", ["_", "colour", "_"])
    assert table.select(["word", "slot", "position"]).to_pylist() == [{"word": "blue", "slot": "colour", "position": 2}]
    assert left_out == {"clips of another number of words": 1, "words of other slots": 2}


def test_a_label_of_the_clip_stays() -> None:
    table, _ = words.spoken(clips(ALIGNED, label=["george"]), "spoken")
    assert set(table["label"].to_pylist()) == {"george"}


def test_align_files_stand_under_the_id_of_their_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "0.align").write_text("0 14250 sil\n14250 22250 bin\n22250 26500 blue\n26500 75000 sil\n")
    table, left_out = words.spoken(clips(None, None).drop_columns("spoken"), "./")
    assert table.select(["clip", "word", "start_s", "end_s"]).to_pylist() == [
        {"clip": "s1/0.mpg", "word": "bin", "start_s": 0.57, "end_s": 0.89},
        {"clip": "s1/0.mpg", "word": "blue", "start_s": 0.89, "end_s": 1.06},
    ]
    assert left_out == {"clips without words": 1}


@pytest.mark.parametrize("aligned", ["bin", "bin:1", "bin:a-b", "bin:2-1", "bin:1-1", ":1-2", "bin:-1-2", "bin:nan-1"])
def test_a_wrong_alignment_names_the_clip(aligned: str) -> None:
    with pytest.raises(ConfigError, match=r"s1/1\.mpg.*not word:start-end"):
        words.spoken(clips(ALIGNED, aligned), "spoken")


@pytest.mark.parametrize("line", ["0 25000", "0 x bin", "5 5 bin", "25000 0 bin", "-5 5 bin"])
def test_a_wrong_align_file_names_the_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "0.align").write_text(f"0 10 sil\n{line}\n")
    with pytest.raises(ConfigError, match=r"0\.align: line 2"):
        words.spoken(clips(None), str(tmp_path))


@pytest.mark.parametrize(
    ("where", "slots", "said"),
    [("spokn", [], "did you mean 'spoken'"), ("spoken", ["_"] * 4, "another number of words: 1"), ("fold", [], "fold")],
)
def test_nothing_to_find_is_told(where: str, slots: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        words.spoken(clips(ALIGNED, fold=[1]), where, slots)


def test_the_words_of_grid_are_those_of_its_list(test_data: Path) -> None:
    folder = test_data / "video" / "grid_labelled"
    table, _ = manifest.gather([str(folder)])
    joined, _ = manifest.joined(table, str(folder / "labels.csv"), "file")
    found, left_out = words.spoken(joined, "alignment", ["_", "colour", "_", "_", "digit", "_"])
    with (folder / "labels.csv").open() as file:
        listed = {row["file"]: row for row in csv.DictReader(file)}
    rows = manifest.checked(found, "grid").to_pylist()
    assert len(rows) == 2 * len(listed) == 800
    assert all(row["label"] == listed[row["clip"]][row["slot"]] for row in rows)
    assert all(0 < row["start_s"] < row["end_s"] < 3 for row in rows)
    assert left_out == {"words of other slots": 1600}
