"""A wrong configuration is told before any work: file, key, and the nearest right one."""

from pathlib import Path

import pytest

from mmray.config import load_extract
from mmray.errors import ConfigError
from mmray.fusion.training import load_train

GOOD = """
manifest: m.parquet
store: out/
extractors:
  - {name: yamnet, source: uri, weights: w.h5}
  - {name: sbert, as: said, source: text, model: folder}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    return path


def test_keys_are_fields_and_as_defaults_to_the_name(file: Path) -> None:
    config = load_extract(str(file))
    assert [entry.as_ for entry in config.extractors] == ["yamnet", "said"]
    assert config.extractors[0].settings == {"source": "uri", "weights": "w.h5"}
    assert config.segment_s == 288


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ("stor: x", ["unknown key 'stor'", "did you mean 'store'?"]),
        ("resources: {decode_thread: 2}", ["'resources.decode_thread'", "did you mean 'decode_threads'?"]),
        ("segment_s: 100", ["segment_s", "multiple of 0.96", "99.84"]),
        ("max_error_rate: 2", ["max_error_rate", "less than or equal to 1"]),
        ("pools: [[yamnett], [said]]", ["pools", "did you mean 'yamnet'?"]),
        ("pools: [[yamnet]]", ["said in no pool"]),
        ("resources: {actors: [3, 1]}", ["resources.actors", "least <= most"]),
        ("timeout_s: soon", ["timeout_s", "'soon'"]),
    ],
)
def test_a_wrong_key_or_value_names_the_file_and_the_key(file: Path, wrong: str, names: list[str]) -> None:
    file.write_text(f"{GOOD}\n{wrong}\n")
    with pytest.raises(ConfigError) as caught:
        load_extract(str(file))
    for words in [str(file), *names]:
        assert words in str(caught.value)


def test_a_missing_key_is_named(file: Path) -> None:
    file.write_text(GOOD.replace("store: out/", ""))
    with pytest.raises(ConfigError, match="'store' is missing"):
        load_extract(str(file))


def test_two_extractors_of_one_name_need_another(file: Path) -> None:
    file.write_text(GOOD.replace("as: said", "as: yamnet"))
    with pytest.raises(ConfigError, match="two extractors are called 'yamnet'"):
        load_extract(str(file))


def test_set_reaches_every_key_with_yaml_values(file: Path) -> None:
    settings = [
        "resources.decode_threads=4",
        "extractors.said.model=other",
        "extractors.0.pooling=[max]",
        "store=s3://b/x",
    ]
    config = load_extract(str(file), settings, manifest="given.csv")
    assert config.resources.decode_threads == 4
    assert config.extractors[1].settings["model"] == "other"
    assert config.extractors[0].settings["pooling"] == ["max"]
    assert (config.store, config.manifest) == ("s3://b/x", "given.csv")


@pytest.mark.parametrize("setting", ["store", "extractors.nobody.model=x", "store.deeper.key=1", "store={"])
def test_a_wrong_set_is_told(file: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_extract(str(file), [setting])


@pytest.mark.parametrize("text", ["- a list", "a: [1", "\x00\x01"])
def test_what_is_no_mapping_is_told(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_extract(str(file))


def test_a_missing_file_is_told_with_its_neighbours(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*run\.yaml"):
        load_extract(str(file.with_name("rum.yaml")))


def test_entries_that_are_wrong_are_told_once(file: Path) -> None:
    path = file.with_name("train.yaml")
    path.write_text("store: s/\nout: o/\ninputs: [{extractor: clip, widnows: 3}]\nnetworks: [{inputs: clip}]\n")
    with pytest.raises(ConfigError) as caught:
        load_train(str(path))
    assert str(caught.value).splitlines() == [f"{path}: unknown key 'inputs[0].widnows'; did you mean 'windows'?"]
