"""What every extractor of texts does with bad ones, and with folders whose tokenizer is bad."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mmray.errors import ConfigError, Reason, SampleError
from mmray.extractors.clap import Clap
from mmray.extractors.clip import Clip
from mmray.extractors.distilbert import DistilBert
from mmray.extractors.sbert import Sbert
from mmray.extractors.summary import Summary
from mmray.extractors.zero_shot import ZeroShot
from mmray.models.tokenizer import Tokenizer
from mmray.specs import Rows, Text, TextSpec
from tests.near import assert_near

READERS = [
    Clap(modality="text"),
    Clip(modality="text"),
    DistilBert(),
    Sbert(),
    Summary(max_tokens=8),  # what it writes is no matter here, and costs
    ZeroShot(candidate_labels=("bird", "rain")),
]
STRANGE = {
    "Chinese": "一只鸟在树上唱歌。" * 20,
    "Arabic": "طائر يغني على الشجرة " * 10,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🐦 " * 20,
    "combining": "e" + "\u0301" * 200,
    "NUL": "a\x00dog\x00barks",
    "control": "\x07\x1b[31m a bird \x08\x7f",
    "special tokens": "a </s> b [SEP] c <|endoftext|> d <pad> e [PAD] f <mask>",
    "one word": "x" * 3000,
    "mostly space": "a" + " \t\n" * 2000 + "b",
    "private use": "\ue000\U0010ffff",
}


@pytest.fixture(scope="module", params=READERS, ids=lambda reader: reader.name)
def extract(request, tiny):
    return request.param.load("cpu", str(tiny / request.param.name))


def numbers(rows: Rows) -> np.ndarray:
    (column,) = (rows.columns[name] for name in ("embedding", "scores", "avg_logprob") if name in rows.columns)
    return np.asarray(column)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_texts_are_read_from_the_column_text(reader):
    assert reader.source == "text"
    assert reader.specs == (TextSpec(),)
    assert type(reader)(**reader.model_dump(exclude={"source"}), source="spoken").source == "spoken"


def test_pictures_are_still_read_from_their_files():
    assert Clip().source == "uri"


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000\u2028", "\x00", "\x07\x1b\x7f", "\ufeff", "\u200b \u200d"])
def test_nothing_to_see_is_no_text_and_skipped_alone(extract, text):
    first, bad, last = extract([Text("a dog"), Text(text), Text("a cat")])
    assert isinstance(bad, SampleError)
    assert (bad.reason, bad.status) == (Reason.NO_TEXT, "skipped")
    assert isinstance(first, Rows)
    assert isinstance(last, Rows)


def test_half_a_surrogate_pair_fails_alone(extract):
    first, bad, last = extract([Text("a dog"), Text("caf\ud83d"), Text("a cat")])
    assert isinstance(bad, SampleError)
    assert (bad.reason, bad.status) == (Reason.BAD_TEXT, "failed")
    assert "character 3" in bad.detail
    assert isinstance(first, Rows)
    assert isinstance(last, Rows)


def test_strange_texts_have_rows_like_others_and_disturb_nobody(extract):
    (expected,) = extract([Text("a dog barks")])
    for name, text in STRANGE.items():
        strange, plain = extract([Text(text), Text("a dog barks")])
        assert isinstance(strange, Rows), name
        assert np.isfinite(numbers(strange)).all(), name
        np.testing.assert_allclose(numbers(plain), numbers(expected), atol=1e-5, err_msg=name)
    texts = [Text(text) for text in STRANGE.values()]
    for name, one, text in zip(STRANGE, extract(texts), texts, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(next(extract([text]))), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("reader", "end"), [(Clip(modality="text"), "<|endoftext|>"), (Clap(modality="text"), "</s>")])
def test_special_tokens_in_a_text_are_words_like_others(tiny, reader, end):
    extract = reader.load("cpu", str(tiny / reader.name))
    one, other = extract([Text(f"a dog {end} a cat"), Text(f"a dog {end} a bird")])
    assert np.abs(numbers(one) - numbers(other)).max() > 1e-4


@pytest.mark.slow
def test_a_megabyte_is_read_to_its_end(extract):
    (rows,) = extract([Text("the orchestra tuned its instruments " * 28_000 + "a volcano")])
    assert len(rows) > 1000
    assert np.isfinite(numbers(rows)).all()


# Folders whose tokenizer is bad.


@pytest.fixture
def folder(tiny, tmp_path):
    target = tmp_path / "distilbert"
    shutil.copytree(tiny / "distilbert", target)
    return target


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"distilbert: has no tokenizer.*tokenizer\.json"):
        DistilBert().load("cpu", str(folder))


def test_a_damaged_tokenizer_is_refused(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="its tokenizer cannot be read"):
        DistilBert().load("cpu", str(folder))


def test_another_models_tokenizer_is_refused(folder, tiny):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "clip" / name, folder / name)
    with pytest.raises(ConfigError, match=r"its tokenizer knows \d+ tokens, its model \d+"):
        DistilBert().load("cpu", str(folder))


def test_a_vocabulary_of_older_folders_is_read(folder, tiny):
    expected = numbers(next(DistilBert().load("cpu", str(folder))([Text("a bird sings")])))
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n")
    (folder / "tokenizer.json").unlink()
    found = numbers(next(DistilBert().load("cpu", str(folder))([Text("a bird sings")])))
    assert_near(found, expected)


@pytest.mark.parametrize(
    ("about", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 50, "pad_token_id": 0}, 50),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 64),  # the tokenizer's own
        ({"model_type": "roberta", "max_position_embeddings": 50, "pad_token_id": 1}, 48),
        ({"model_type": "t5", "pad_token_id": 0}, 64),
        ({"model_type": "mpnet", "max_position_embeddings": 50, "pad_token_id": 1}, 48),
        ({"model_type": "clap_text_model", "max_position_embeddings": 50, "pad_token_id": 1}, 48),
    ],
)
def test_the_limit_is_what_tokenizer_and_positions_allow(tiny, about, limit):
    assert Tokenizer(str(tiny / "distilbert"), SimpleNamespace(vocab_size=1000, **about), "cpu").limit == limit
