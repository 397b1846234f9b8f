"""File names become columns; a name that does not fit is told."""

import pyarrow as pa
import pytest

from mmray.errors import ConfigError
from mmray.tables import patterns


def table(*uris: str | None) -> pa.Table:
    return pa.table({"sample_id": [str(n) for n in range(len(uris))], "uri": pa.array(uris, pa.string())})


def test_fields_become_columns() -> None:
    found = patterns.named(table("/d/fsdd/0_george_12.wav", "s3://b/9_theo_0.wav"), "{label}_{group}_{take}.wav")
    assert found.select(["label", "group", "take"]).to_pylist() == [
        {"label": "0", "group": "george", "take": "12"},
        {"label": "9", "group": "theo", "take": "0"},
    ]


def test_folders_count_as_far_as_the_pattern_names_them() -> None:
    found = patterns.named(table("/data/train/dog/a-1.2.mp4", "test/cat/b-x.mov"), "{split}/{label}/*")
    assert found["split"].to_pylist() == ["train", "test"]
    assert found["label"].to_pylist() == ["dog", "cat"]
    assert set(found.column_names) == {"sample_id", "uri", "split", "label"}


@pytest.mark.parametrize(
    "uri",
    [
        "0_george.wav",
        "_george_3.wav",
        "0_george_3.wav.mp3",
        "0_george_3xwav",  # a dot is a dot
        "0_g/eorge_3.wav",
        None,
    ],
)
def test_a_name_that_does_not_fit_is_told(uri: str | None) -> None:
    with pytest.raises(ConfigError, match="1 of 2 files are not named so") as told:
        patterns.named(table("0_george_1.wav", uri), "{label}_{group}_{take}.wav")
    assert str(uri) in str(told.value)


def test_a_dot_in_a_name_is_a_letter_like_others() -> None:
    found = patterns.named(table("v1.2_x.y.mp4", "/a_b/c_{d}+.mp4"), "{label}_{take}.mp4")
    assert found["label"].to_pylist() == ["v1.2", "c"]
    assert found["take"].to_pylist() == ["x.y", "{d}+"]


@pytest.mark.parametrize(
    ("uri", "pattern"),
    [
        ("0_mary_ann_3.wav", "{label}_{group}_{take}.wav"),
        ("ab.wav.abc", "{label}{group}.*"),
        ("abc.wav", "{label}*.wav"),
        ("x.tar.gz", "{label}.*"),
    ],
)
def test_a_name_with_two_readings_is_told(uri: str, pattern: str) -> None:
    with pytest.raises(ConfigError, match="1 of 1 files can be read in two ways"):
        patterns.named(table(uri), pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*.wav", "has no {field}"),
        ("{}.wav", "cannot be a column"),
        ("{a b}.wav", "cannot be a column"),
        ("{label}_{label}.wav", "cannot be a column"),
        ("{uri}.wav", "cannot be a column"),
        ("{label_{x}.wav", "not named so"),
        ("{label}.mp4", "not named so"),
    ],
)
def test_an_impossible_pattern_is_told(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        patterns.named(table("a_b.wav"), pattern)


def test_a_column_is_not_written_over() -> None:
    labelled = table("cat/a_1.wav").append_column("label", pa.array(["cat"]))
    with pytest.raises(ConfigError, match="has a column 'label' already"):
        patterns.named(labelled, "{label}_*.wav")
