"""Summaries against direct calls of transformers' search."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.extractors.summary import Summary
from mmray.models.torch_setup import ensure_torchaudio, quiet
from mmray.specs import Text

TEXTS = [
    "The orchestra tuned its instruments.",
    "Two dogs bark at the postman, who does not care.",
    "It rains in Spain; le ciel est gris, und es wird spät.",
]


@pytest.fixture(scope="module")
def path(tiny):
    return str(tiny / "summary")


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "folder")


@pytest.fixture(scope="module")
def library(path):
    ensure_torchaudio()
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    with quiet():
        return AutoModelForSeq2SeqLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def summarised(path, texts, **settings):
    return list(Summary(**settings).load("cpu", path)([*map(Text, texts)]))


def set_generation(folder, **changes):
    about = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**about, **changes}))


def test_it_agrees_with_transformers_own_search(path, library):
    import torch

    model, tokenizer = library
    texts = [*TEXTS, "x", "A bird sings."]
    for text, rows in zip(texts, summarised(path, texts), strict=True):
        with torch.inference_mode():
            found = model.generate(**tokenizer(text, return_tensors="pt"))
        assert rows.columns["text"] == [tokenizer.decode(found[0], skip_special_tokens=True).strip()]
        assert rows.columns["language"] == [None]
        assert (rows.window, rows.start_s, rows.end_s) == ([0], [None], [None])


def test_the_logprob_is_that_of_the_search_without_its_length_penalty(copy):
    import torch

    # Without forced tokens, whose probability the search takes as 1.
    set_generation(copy, forced_bos_token_id=None, forced_eos_token_id=None, length_penalty=1.5)
    (rows,) = summarised(str(copy), TEXTS[:1])
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    with torch.inference_mode(), quiet():
        model = AutoModelForSeq2SeqLM.from_pretrained(copy).eval()
        inputs = AutoTokenizer.from_pretrained(copy)(TEXTS[0], return_tensors="pt")
        found = model.generate(**inputs, return_dict_in_generate=True, output_scores=True)
    length = found.sequences.shape[1] - 1
    expected = float(found.sequences_scores[0]) * length**1.5 / length
    assert rows.columns["avg_logprob"].dtype == np.float32
    assert rows.columns["avg_logprob"][0] == pytest.approx(expected, abs=1e-4)
    assert expected < 0


def test_lengths_take_the_place_of_the_folders(path, library):
    for settings, shortest, longest in (
        ({}, 7, 23),
        ({"max_tokens": 5}, 5, 5),
        ({"min_tokens": 30}, 30, 30),
        ({"min_tokens": 12, "max_tokens": 14}, 12, 14),
    ):
        seen = []
        extractor = Summary(**settings)
        model, _ = library
        kept = model.generation_config.to_dict()
        try:
            assert extractor._lengths(model) == (shortest, longest), settings
        finally:
            model.generation_config.update(**kept)
        for rows in summarised(path, [text * 3 for text in TEXTS], **settings):
            seen += [len(summary) for summary in rows.columns["text"]]
        assert max(seen) <= longest


def test_neighbours_change_neither_text_nor_logprob(path):
    texts = [text[:length] for text in TEXTS for length in (1, 5, 9, 20, 30)] + [" ".join(TEXTS) * 3]
    together, alone = summarised(path, texts, batch_size=5), [summarised(path, [text])[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.columns["text"] == other.columns["text"]
        np.testing.assert_allclose(one.columns["avg_logprob"], other.columns["avg_logprob"], atol=1e-5)


def test_a_long_text_is_summarised_chunk_by_chunk(path):
    (rows,) = summarised(path, [" ".join(TEXTS) * 5])
    assert rows.window == list(range(len(rows)))
    assert len(rows) > 5
    assert len(rows.columns["text"]) == len(rows.columns["avg_logprob"]) == len(rows)


def test_a_folder_that_samples_is_searched_all_the_same(path, copy):
    set_generation(copy, do_sample=True, temperature=2.0, num_beams=1)
    one, other = (summarised(str(copy), TEXTS) for _ in range(2))
    assert [rows.columns["text"] for rows in one] == [rows.columns["text"] for rows in other]
    assert [rows.columns["text"] for rows in one] != [rows.columns["text"] for rows in summarised(path, TEXTS)]


def test_wrong_lengths_are_refused(path):
    with pytest.raises(ValidationError, match="min_tokens is greater than max_tokens"):
        Summary(min_tokens=9, max_tokens=8)
    with pytest.raises(ConfigError, match="max_tokens is 128, and the model writes 127 at most"):
        summarised(path, TEXTS, max_tokens=128)


def test_another_folder_is_refused(tiny):
    for name in ("zero_shot", "distilbert", "clip"):
        for act in (Summary().resolved, lambda path: Summary().load("cpu", path)):
            with pytest.raises(ConfigError, match=r"config\.json: is .*, not \.\.\.ForConditionalGeneration"):
                act(str(tiny / name))


def test_a_model_that_hears_is_refused(tiny):
    with pytest.raises(ConfigError, match="is a model of type 'whisper', not bart or"):
        Summary().resolved(str(tiny / "whisper"))


def test_damaged_weights_are_refused(copy):
    file = copy / "model.safetensors"
    whole = load_file(file)
    name = "model.decoder.layers.0.fc1.weight"
    save_file({**whole, name: whole[name][:2].clone()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"another shape .*{name}"):
        Summary().load("cpu", str(copy))
    save_file({key: value for key, value in whole.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"missing: {name}"):
        Summary().load("cpu", str(copy))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Summary().load("cpu", str(copy))
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Summary().load("cpu", str(copy))
