"""Texts are read to their end and joined as the tokenizer does; a tuned classifier is what was measured, everywhere."""

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmray import storage
from mmray.config import validate
from mmray.errors import ConfigError, MmrayError
from mmray.fusion import text_fits, text_fitting, text_model
from mmray.fusion.fits import Fit
from mmray.fusion.text_fits import Prepared
from mmray.fusion.text_fitting import TextFitting, share, temperature
from mmray.fusion.text_model import TextClassifier
from mmray.fusion.text_tokens import Joiner, cuts
from mmray.fusion.text_training import TextConfig, TextSchedule, load_text
from mmray.models import hub
from mmray.models.tiny import make_tiny
from mmray.models.tokenizer import Tokenizer
from mmray.models.torch_setup import ensure_torchaudio, quiet
from tests.fusion import making
from tests.near import assert_near, assert_near_trained

WORDS = {"sea": "waves sail boat", "town": "cars streets brick", "wood": "ferns moss pine"}
SCHEDULE = {"epochs": 10, "learning_rate": 6e-3, "batch_size": 8, "patience": 5}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Make the same numbers on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny DistilBERT."""
    return make_tiny(tmp_path_factory.mktemp("tiny"), names=["distilbert"])[0]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def still(folder: Path) -> Path:
    """Take dropout from a DistilBERT."""
    file, rates = folder / "config.json", ("dropout", "attention_dropout", "seq_classif_dropout")
    file.write_text(json.dumps(json.loads(file.read_text()) | dict.fromkeys(rates, 0.0)))
    return folder


def table(count: int = 60) -> dict[str, list[Any]]:
    """Return labelled samples: a title that says little, a text that says all, some without one of them."""
    random = np.random.default_rng(0)
    names = list(WORDS)
    labels = [names[place % 3] for place in range(count)]
    texts: list[str | None] = [" ".join(random.permutation(WORDS[label].split())[:2]) for label in labels]
    titles: list[str | None] = [f"clip {place}" for place in range(count)]
    texts[7], titles[8] = None, "\u200b \n"
    return {"title": titles, "text": texts, "label": labels}


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Callable[..., TextConfig]:
    """Return a function that writes a manifest and reads a configuration; keyword arguments replace its keys."""

    def make(columns: dict[str, Sequence[Any]] | None = None, **keys: Any) -> TextConfig:
        columns = table() if columns is None else columns
        ids = [f"s{place:04d}" for place in range(len(next(iter(columns.values()))))]
        pl.DataFrame({"sample_id": ids, **columns}).write_parquet(tmp_path / "texts.parquet")
        about: dict[str, Any] = {
            "kind": "text",
            "manifest": str(tmp_path / "texts.parquet"),
            "out": str(tmp_path / "out"),
        }
        about |= {"inputs": ["title", "text"], "networks": [{"as": "joined", "model": str(tiny)}]}
        return validate(TextConfig, about | {"test_fraction": 0.25, "schedule": SCHEDULE, **keys}, "", "text.yaml")

    return make


def made(config: TextConfig, network: str = "joined") -> tuple[Prepared, TextFitting, Fit]:
    found = text_fits.prepare(config)
    fit = next(one for one in found.fits if one.network == network)
    return found, found.make(fit, "cpu"), fit


def trained(fitting: TextFitting, epochs: int = 1000) -> list[dict[str, float]]:
    rows = []
    while not fitting.over and len(rows) < epochs:
        rows.append(fitting.epoch())
    return rows


def family() -> Any:
    """Yield small encoders of every type, pre-trained on masked words: none has a pooling layer."""
    ensure_torchaudio()
    import transformers

    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size |= {"vocab_size": 400, "max_position_embeddings": 66, "initializer_range": 0.2}
    for name in ("Bert", "Roberta", "XLMRoberta", "MPNet"):
        yield getattr(transformers, f"{name}Config")(**size), getattr(transformers, f"{name}ForMaskedLM")


def bpe(folder: Path) -> None:
    """Write a tokenizer as RoBERTa has it: single bytes, two separators between the texts of a pair."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    RobertaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[]).save_pretrained(folder)


def joiner(folder: Path | str, texts: int, tokens: int | None = None, chunks: int = 8) -> tuple[Joiner, Tokenizer]:
    model = hub.load("AutoModel", str(folder), "float32", "cpu", unread=("pooler.",))
    tokenizer = Tokenizer(str(folder), model.config, "cpu")
    return Joiner(tokenizer, texts, tokens, chunks), tokenizer


def test_every_type_of_encoder_is_joined_as_its_tokenizer_does_and_gets_a_new_head(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for settings, kind in family():
        folder = Path(shutil.copytree(tiny, tmp_path / settings.model_type))
        with quiet():
            kind(settings).save_pretrained(folder)
        if settings.model_type in ("roberta", "xlm-roberta"):
            bpe(folder)
        one, tokenizer = joiner(folder, 1)
        two = joiner(folder, 2)[0]
        pairs = [("a bird [SEP] </s>", "it sings"), ("x", None), (None, "two dogs")]
        plain = tokenizer([first or "" for first, _ in pairs])
        pair = tokenizer([first or "" for first, _ in pairs], [second or "" for _, second in pairs])
        every = np.arange(3)
        found = two.inputs(two(pairs), every, "cpu")
        assert found.keys() == pair.keys()
        for name in pair:
            assert torch.equal(found[name], pair[name]), (settings.model_type, name)
        alone = one.inputs(one([(first or "x",) for first, _ in pairs[:2]]), every[:2], "cpu")
        assert torch.equal(alone["input_ids"], plain["input_ids"][:2, : alone["input_ids"].shape[1]])

        classes = ("yes", "no", "né")
        model = text_model.begin(str(folder), classes, 1)
        given = load_file(folder / "model.safetensors")
        inside = f"{model.base_model_prefix}."
        same = [
            name for name, value in model.state_dict().items() if torch.equal(given.get(name, torch.zeros(0)), value)
        ]
        assert {name for name in given if name.startswith(inside)} == set(same)
        assert model.config.id2label == dict(enumerate(classes))
        again, other = text_model.begin(str(folder), classes, 1), text_model.begin(str(folder), classes, 2)
        head = next(name for name in model.state_dict() if name.startswith("classifier") and name.endswith("weight"))
        assert torch.equal(model.state_dict()[head], again.state_dict()[head])
        assert not torch.equal(model.state_dict()[head], other.state_dict()[head])


def test_more_than_two_texts_stand_between_separators(tiny: Path) -> None:
    join, tokenizer = joiner(tiny, 3)
    chunks = join([("ab", None, "c")])
    library = tokenizer.library
    cls, sep = library.cls_token_id, library.sep_token_id
    own = [library(text, add_special_tokens=False)["input_ids"] for text in ("ab", "", "c")]
    assert chunks.ids.tolist() == [cls, *own[0], sep, *own[1], sep, *own[2], sep]


@pytest.mark.parametrize("texts", [1, 2, 3, 5])
def test_no_token_is_lost_and_short_texts_stand_in_every_chunk(texts: int) -> None:
    random = np.random.default_rng(texts)
    for _ in range(300):
        lengths = random.integers(0, random.choice([5, 60, 2000]), texts).tolist()
        room = int(random.integers(4 * texts, 200))
        found = cuts(lengths, room)
        assert all(sum(end - start for start, end in cut) <= room for cut in found)
        assert len(found) == 1 or sum(lengths) > room
        for place, length in enumerate(lengths):
            pieces = [cut[place] for cut in found]
            if length <= room // texts:
                assert set(pieces) == {(0, length)}
            else:
                assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
                assert pieces[-1][1] == length
                sizes = [end - start for start, end in pieces]
                assert max(sizes) - min(sizes) <= 1
        long = [length for length in lengths if length > room // texts]
        left = room - sum(lengths) + sum(long)
        assert len(found) == 1 or len(found) <= 1 + sum(long) / (left - len(long))


def test_a_long_text_is_read_to_its_end_or_evenly_where_chunks_are_few(tiny: Path) -> None:
    join = joiner(tiny, 2, tokens=32, chunks=20)[0]
    title, text = "short", " ".join(10 * chr(97 + place) for place in range(20))
    chunks = join([(title, text), ("x", "y")])
    assert chunks.counts.tolist() == [9, 1]
    assert chunks.lengths.max() <= 32
    assert not chunks.shortened.any()
    few = joiner(tiny, 2, tokens=32, chunks=3)[0]([(title, text), ("x", "y")])
    assert few.counts.tolist() == [3, 1]
    assert few.shortened.tolist() == [True, False]
    whole = [chunks.ids[a:b].tolist() for a, b in zip(chunks.starts[:-1], chunks.starts[1:], strict=True)]
    taken = [few.ids[a:b].tolist() for a, b in zip(few.starts[:-1], few.starts[1:], strict=True)]
    assert taken == [whole[0], whole[3], whole[6], whole[9]]


def test_it_learns_and_its_folder_says_the_same_to_transformers(
    config: Callable[..., TextConfig], tmp_path: Path
) -> None:
    prepared, fitting, fit = made(config())
    assert prepared.notes[:2] == (
        "title: 1 of 60 samples have no text in title", "text: 1 of 60 samples have no text in text",
    )  # fmt: skip
    rows = trained(fitting)
    assert rows[0].keys() == {"train_loss", "validation_loss", "validation_accuracy", "learning_rate"}
    assert rows[-1]["train_loss"] < 0.3 < rows[0]["train_loss"]
    folder = fit.folder(str(tmp_path / "out"))
    assert fit.done(str(tmp_path / "out")) is None
    fitting.export(folder)
    about = fit.done(str(tmp_path / "out"))
    assert about is not None
    assert about["weights"] == "random:0"
    assert about["figures"]["best_epoch"] <= about["figures"]["epochs"] == len(rows)

    test = prepared.split.folds[0].test.examples()
    samples = [tuple(table()[name][place] for name in ("title", "text")) for place in test.places.max(1)]
    samples = [(title if title and title.strip("\u200b \n") else None, text) for title, text in samples]
    classifier = text_model.load(folder)
    assert classifier.about.classes == ("sea", "town", "wood")
    found = classifier.logits(samples)
    assert (found.argmax(1) == test.classes).mean() > 0.9
    assert found.dtype == np.float32
    np.testing.assert_allclose(classifier.logits(samples, 1), found, atol=1e-5)  # neighbours change nothing
    assert np.abs(classifier.logits([(None, samples[0][1])]) - found[0]).max() > 1e-3

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, library = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = library([a or "" for a, _ in samples], [b or "" for _, b in samples], padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs).logits.numpy() / classifier.about.temperature
    np.testing.assert_allclose(theirs, found, atol=1e-5)
    assert model.config.id2label == {0: "sea", 1: "town", 2: "wood"}


def test_a_restored_fitting_ends_as_one_that_was_never_disturbed(
    config: Callable[..., TextConfig], tmp_path: Path
) -> None:
    prepared, whole, fit = made(config(schedule=SCHEDULE | {"epochs": 4}))
    rows = trained(whole)
    whole.export(str(tmp_path / "whole"))
    begun = prepared.make(fit, "cpu")
    torch.manual_seed(5)  # nor does it matter what was drawn elsewhere
    half = trained(begun, 2)
    torch.save(begun.state(), tmp_path / "state.pt")
    begun.epoch()
    restored = prepared.make(fit, "cpu")
    restored.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    half += trained(restored)
    restored.export(str(tmp_path / "restored"))
    for one, other in zip(half, rows, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    # Not the weights: those without a gradient, as biases of attention's keys, go wherever rounding takes them.
    samples = [("clip", "waves"), (None, "moss"), ("town", "cars and streets")]
    expected, found = (text_model.load(str(tmp_path / name)).logits(samples) for name in ("whole", "restored"))
    assert_near(found, expected, 1e-3)


def ranks(count: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[int], Any]) -> list[Any]:
    """Run work on so many ranks: threads that add tensors up as workers do."""
    here, barrier, given, results = threading.local(), threading.Barrier(count), [None] * count, [None] * count

    def summed(numbers: torch.Tensor) -> torch.Tensor:
        given[here.rank] = numbers
        barrier.wait(60)
        total = torch.stack([one for one in given if one is not None]).sum(0)
        barrier.wait(60)
        return total

    for module in (text_fitting, text_model):
        monkeypatch.setattr(module, "rank", lambda: here.rank)
        monkeypatch.setattr(module, "world", lambda: count)
        monkeypatch.setattr(module, "summed", summed)

    def run(rank: int) -> None:
        here.rank = rank
        results[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_several_ranks_learn_what_one_learns(
    config: Callable[..., TextConfig], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 46 samples in batches of 9: the last batch is smaller than the number of ranks.
    prepared, alone, fit = made(
        config(networks=[{"as": "joined", "model": str(still(copy))}], schedule=SCHEDULE | {"batch_size": 9})
    )
    rows = trained(alone, 3)
    fittings = [prepared.make(fit, "cpu") for _ in range(3)]
    found = ranks(3, monkeypatch, lambda rank: trained(fittings[rank], 3))
    for rank in found:
        for one, other in zip(rank, rows, strict=True):
            assert one == pytest.approx(other, rel=1e-4)
    states = [fitting.state() for fitting in (alone, *fittings)]
    for state in states[2:]:
        assert_near_trained(state["model"], states[1]["model"])
    torch.testing.assert_close(states[1]["best_logits"], states[0]["best_logits"], atol=1e-3, rtol=1e-3)


def test_every_sample_counts_once_however_many_chunks_it_has(config: Callable[..., TextConfig]) -> None:
    columns = table()
    columns["text"] = [
        None if text is None else text * (1 + 9 * (place % 2)) for place, text in enumerate(columns["text"])
    ]
    networks = [{"as": "joined", "model": str(config().networks[0].model), "tokens": 32, "chunks": 4}]
    prepared, fitting, _ = made(config(columns, networks=networks))
    assert any("samples have more than 4 chunk(s); so many of each are read" in note for note in prepared.notes)
    owner = np.searchsorted(prepared.sources["joined"].chunks.first, fitting._drawn, side="right")
    sums = np.bincount(owner, fitting._weights)
    np.testing.assert_allclose(sums[sums > 0], 1)
    assert len(np.unique(owner)) == len(fitting._train) < len(fitting._drawn)
    batches = list(fitting._batches())
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(fitting._drawn)))
    assert {len(batch) for batch in batches[:-1]} <= {8, len(fitting._drawn) % 8}


def test_only_the_train_part_is_resampled(config: Callable[..., TextConfig]) -> None:
    columns = {name: values[:44] for name, values in table().items()}
    columns["label"] = ["sea" if place % 4 else "wood" for place in range(44)]
    plain, _, _ = made(config(columns))
    prepared, fitting, fit = made(config(columns, labels={"resample": "over"}))
    counts = np.bincount(fitting._right)
    assert counts[0] > counts[1] > np.bincount(plain.split.folds[0].train.examples().classes)[1]
    assert len(prepared.split.folds[0].test.examples()) == len(plain.split.folds[0].test.examples())
    assert fit.key != plain.fits[0].key


def test_the_key_tells_what_decides_the_numbers(config: Callable[..., TextConfig], copy: Path, tmp_path: Path) -> None:
    def key(**keys: Any) -> str:
        return text_fits.prepare(config(**keys)).fits[0].key

    first = key()
    moved = Path(shutil.copytree(copy, tmp_path / "elsewhere"))
    for same in ({"workers": 2, "out": "other/"}, {"networks": [{"as": "joined", "model": str(moved)}]}):
        assert key(**same) == first
    network = {"as": "joined", "model": str(copy)}
    others = [
        key(seed=1), key(schedule=SCHEDULE | {"decay": "cosine"}), key(networks=[network | {"tokens": 32}]),
        key(networks=[network | {"chunks": 2}]), key(networks=[network | {"inputs": ["text", "title"]}]),
        key(validation=0.2), key(labels={"resample": "both"}),
    ]  # fmt: skip
    columns = table()
    columns["text"][0] = "other words"
    others.append(key(columns=columns))
    file = copy / "model.safetensors"
    changed = load_file(file)
    changed["distilbert.embeddings.LayerNorm.bias"] += 1
    save_file(changed, file, {"format": "pt"})
    others.append(key(networks=[network]))
    assert len({first, *others}) == 1 + len(others)


def test_the_learning_rate_rises_then_falls_and_only_matrices_decay(tiny: Path) -> None:
    for decay, middle in (("linear", 0.5), ("cosine", 0.5)):
        schedule = TextSchedule.model_validate({"decay": decay, "warmup": 0.1})
        shares = [share(step, 1000, schedule) for step in range(1000)]
        assert shares.index(max(shares)) == 100
        assert max(shares) == 1.0
        assert shares[550] == pytest.approx(middle, abs=1e-3)
        assert 0 < shares[-1] < 0.01
        assert shares[:101] == sorted(shares[:101])
        assert shares[100:] == sorted(shares[100:], reverse=True)
    assert share(0, 1, TextSchedule()) == 1.0
    model = text_model.begin(str(tiny), ("a", "b"), 0)
    matrices, rest = text_fitting.optimizer(model, TextSchedule(weight_decay=0.1)).param_groups
    names = {id(one): name for name, one in model.named_parameters()}
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert all("bias" in names[id(one)] or "norm" in names[id(one)].lower() for one in rest["params"])
    assert not any("bias" in names[id(one)] or "norm" in names[id(one)].lower() for one in matrices["params"])
    assert len(matrices["params"]) + len(rest["params"]) == len(names)


def test_the_temperature_undoes_what_was_done_to_logits() -> None:
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(4000, 4)))
    classes = torch.tensor([random.choice(4, p=row) for row in logits.softmax(1).numpy()])
    for wanted in (0.3, 1.0, 4.0):
        assert temperature(logits * wanted, classes) == pytest.approx(wanted, rel=0.1)
    assert 0.05 < temperature(10 * torch.eye(3), torch.arange(3)) < 1  # all right: not 0


def test_scripts_emoji_and_control_characters_pass(config: Callable[..., TextConfig], tmp_path: Path) -> None:
    columns = table()
    titles = ["العربية", "עברית", "日本語のテキスト", "🎬👩‍👩‍👧", "e\u0301", "\ufffd\x00", "x" * 5000, None]
    columns["title"] = [titles[place % len(titles)] for place in range(60)]
    _, fitting, _ = made(config(columns, schedule=SCHEDULE | {"epochs": 1}))
    assert np.isfinite(list(fitting.epoch().values())).all()
    fitting.export(str(tmp_path / "folder"))
    classifier = text_model.load(str(tmp_path / "folder"))
    found = classifier.logits([(title, None) for title in titles[:7]])
    assert np.isfinite(found).all()
    one, other = classifier.logits([("e\u0301", "x"), ("\u00e9", "x")])  # what looks the same is the same
    assert_near(one, other)


def test_texts_come_from_a_store_too(config: Callable[..., TextConfig], tmp_path: Path) -> None:
    store = making.store(tmp_path / "store", table(), {"sound": making.clusters(np.zeros(60, int), 2, 1.0)})
    found = text_fits.prepare(config(store=store, manifest=None))
    assert [fit.key for fit in found.fits] == [fit.key for fit in text_fits.prepare(config()).fits]
    with pytest.raises(ConfigError, match=r"inputs\[0\]: .*no extractor 'whisper'"):
        text_fits.prepare(config(store=store, manifest=None, inputs=["whisper.text"]))
    with pytest.raises(ConfigError, match=r"inputs\[0\]: source: the rows of sound-00000000 are not texts"):
        text_fits.prepare(config(store=store, manifest=None, inputs=["sound.text"]))


def test_who_has_no_text_is_left_out_and_counted(config: Callable[..., TextConfig]) -> None:
    columns = table()
    columns["title"][7] = ""
    prepared = text_fits.prepare(config(columns))
    assert any(note.startswith("1 labelled samples lack") for note in prepared.notes)
    fold = prepared.split.folds[0]
    assert sum(len(part.examples()) for part in (fold.train, fold.validation, fold.test)) == 59


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"inputs": ["titel"]}, r"inputs\[0\]: source: 'titel' is no column .*did you mean 'title'"),
        ({"columns": table() | {"text": [" "] * 60}}, r"inputs\[1\]: no sample has a text in 'text'"),
        ({"columns": table() | {"label": ["sea"] * 60}}, "fewer than two classes"),
        ({"manifest": None}, "either `store`"),
        ({"store": "store/"}, "either `store`"),
        ({"networks": [{"inputs": ["words"]}]}, r"networks\[0\]\.inputs: there is no input 'words'"),
        ({"networks": [{"as": "../up"}]}, r"networks\[0\]\.as: names a folder"),
        ({"networks": [{"model": "no/such-model"}]}, r"networks\[0\]\.model: .*no/such-model"),
        ({"learning_rate": 1}, "unknown key 'learning_rate'"),
        ({"pair_on": "label"}, "unknown key 'pair_on'"),
        ({"labels": {"scores": "zero_shot"}}, "labels.scores: names an extractor of a store"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: Callable[..., TextConfig], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        text_fits.prepare(config(**keys))


def test_encoders_that_do_not_fit_are_refused_by_name(config: Callable[..., TextConfig], copy: Path) -> None:
    def refused(words: str, **network: Any) -> None:
        with pytest.raises(ConfigError, match=rf"networks\[0\]\.{words}"):
            text_fits.prepare(config(networks=[{"as": "joined", "model": str(copy), **network}]))

    refused("tokens: 65 are more than the 64 that the model reads", tokens=65)
    refused(r"tokens: 8 leave no room for 2 text\(s\)", tokens=8)
    file, whole = copy / "model.safetensors", load_file(copy / "model.safetensors")
    name = "distilbert.transformer.layer.1.ffn.lin1.weight"
    save_file({key: value for key, value in whole.items() if key != name}, file, {"format": "pt"})
    refused(r"model: .*missing: .*layer\.1\.ffn\.lin1\.weight")
    save_file(whole, file, {"format": "pt"})
    for one in copy.glob("*token*"):
        one.unlink()
    refused("model: .*has no tokenizer")
    (copy / "config.json").write_text(json.dumps({"model_type": "bart"}))
    refused("model: .*is a model of type 'bart'")


def test_a_loss_that_is_no_number_ends_the_training(config: Callable[..., TextConfig]) -> None:
    _, fitting, _ = made(config())
    fitting._model.classifier.bias.data[0] = float("nan")
    with pytest.raises(MmrayError, match=r"fold 0, joined: the loss is no number; lower schedule\.learning_rate"):
        fitting.epoch()


def test_a_classifier_may_stand_in_an_object_store(config: Callable[..., TextConfig], s3_bucket: str) -> None:
    _, fitting, fit = made(config(schedule=SCHEDULE | {"epochs": 1}))
    fitting.epoch()
    fitting.export(fit.folder(s3_bucket))
    assert fit.done(s3_bucket) is not None
    logits = text_model.load(fit.folder(s3_bucket)).logits([("clip", "waves"), (None, "moss")])
    torch.testing.assert_close(fitting._model.eval().state_dict(), fitting.state()["best"])
    assert logits.shape == (2, 3)


def test_a_folder_that_is_half_replaced_is_not_taken_for_the_old_one(
    config: Callable[..., TextConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fitting, fit = made(config(schedule=SCHEDULE | {"epochs": 1}))
    fitting.epoch()
    fitting.export(fit.folder(str(tmp_path)))
    assert fit.done(str(tmp_path)) is not None

    def killed(uri: str, data: bytes) -> None:
        del data
        raise KeyboardInterrupt(uri)

    monkeypatch.setattr(storage, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        fitting.export(fit.folder(str(tmp_path)))
    assert fit.done(str(tmp_path)) is None


def test_a_batch_is_cut_where_it_is_large_and_gives_the_same_gradients(
    config: Callable[..., TextConfig], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, whole, fit = made(config(networks=[{"as": "joined", "model": str(still(copy))}]))
    rows = trained(whole, 2)
    monkeypatch.setattr(text_fitting, "AT_ONCE", 40)
    cut = prepared.make(fit, "cpu")
    pieces = list(cut._pieces(np.arange(8)))
    assert 1 < len(pieces) <= 8
    assert np.concatenate(pieces).tolist() == list(range(8))
    for one, other in zip(trained(cut, 2), rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_damaged_folders_are_refused_by_name(config: Callable[..., TextConfig], tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: is not of a classifier that `mmray train` made"):
        text_model.load(str(tiny))
    _, fitting, fit = made(config(schedule=SCHEDULE | {"epochs": 1}))
    fitting.epoch()
    folder = Path(fit.folder(str(tmp_path / "out")))
    fitting.export(str(folder))
    assert isinstance(text_model.load(str(folder)), TextClassifier)
    about = json.loads((folder / "config.json").read_text())
    for changes, words in (
        ({"format": 2}, "mmray.format"),
        ({"classes": ["a", "b"]}, "3 labels, but 2 classes"),
        ({"extra": 1}, "unknown key 'mmray.extra'"),
    ):
        (folder / "config.json").write_text(json.dumps(about | {"mmray": about["mmray"] | changes}))
        with pytest.raises(ConfigError, match=words):
            text_model.load(str(folder))


def test_a_short_configuration_is_enough(tmp_path: Path) -> None:
    (tmp_path / "text.yaml").write_text(
        "{kind: text, manifest: m.csv, out: o, inputs: [text, {source: whisper.text, as: spoken}]}"
    )
    found = load_text(str(tmp_path / "text.yaml"), ["networks=[{}, {inputs: spoken}]"], store=None, out="p")
    assert [(one.as_, found.inputs_of(one)) for one in found.networks] == [
        ("text-spoken", ("text", "spoken")), ("spoken", ("spoken",)),
    ]  # fmt: skip
    assert (found.out, found.kind, found.missing) == ("p", "text", "mask")
    assert load_text(str(tmp_path / "text.yaml")).networks[0].as_ == "text-spoken"
