"""Sounds from words: one seed, one sound, of exactly the length that is asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError, MmrayError
from mmray.generation.audio import Audio, AudioRequest
from mmray.generation.base import RequestError
from tests.near import assert_near

KINDS = ["audioldm", "audioldm2"]
RATE_HZ = 16_000


def silent(done, total):
    """Be told, and do nothing."""


def sounds(generate, *requests):
    return [result.sound for result in generate(requests, silent)]


def asked(prompt="a dog", **fields):
    return AudioRequest(prompt=prompt, **({"steps": 3, "length_s": 0.5} | fields))


@pytest.fixture(scope="module")
def loaded(tiny):
    return {kind: Audio().load("cpu", {"model": tiny(kind)}) for kind in KINDS}


@pytest.fixture(params=KINDS)
def generate(request, loaded):
    return loaded[request.param]


@pytest.fixture
def copy(tiny, tmp_path):
    """Return a copy of a folder, to be damaged."""
    return Path(shutil.copytree(tiny("audioldm"), tmp_path / "copy"))


def test_a_seed_gives_one_sound_whatever_else_is_in_the_batch(generate):
    """Neighbours with longer prompts too: what pads a batch is heard by nobody."""
    requests = [
        asked(seed=7),
        asked("rain on a very, very long street at night", seed=8),
        asked(seed=7, steps=4),
        asked("sea", seed=9, negative_prompt="people who talk"),
        asked(seed=7, length_s=0.8),
    ]
    for request, found in zip(requests, sounds(generate, *requests), strict=True):
        np.testing.assert_allclose(sounds(generate, request)[0], found, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_sound_of_diffusers_own_pipeline(tiny, loaded, kind):
    from diffusers import DiffusionPipeline
    from transformers import GPT2LMHeadModel

    from mmray.models.diffusion import hushed

    own_model = {}
    if kind == "audioldm2":
        own_model["language_model"] = GPT2LMHeadModel.from_pretrained(f"{tiny(kind)}/language_model")
    with hushed():
        own = DiffusionPipeline.from_pretrained(tiny(kind), local_files_only=True, **own_model)
    own.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(5)
    expected = own("a dog", num_inference_steps=3, generator=seed).audios[0]
    found = sounds(loaded[kind], asked(seed=5, length_s=None))[0]
    assert expected.size == 32 * 4 * 160  # 1.28 s
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"steps": 2}, {"guidance": 8}, {"negative_prompt": "people"}, {"prompt": "rain on a street"}],
)
def test_what_is_asked_for_matters(generate, change):
    first, again, other = sounds(generate, asked(seed=1), asked(seed=1), asked(**({"seed": 1} | change)))
    assert_near(again, first, 1e-4)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("length_s", [0.001, 0.01, 0.29, 0.57, 1.0, 1.28, 2.00013])
def test_a_sound_has_exactly_the_length_that_was_asked_for(generate, length_s):
    """0.29 s is 28.999... frames of 10 ms in floating point, and 0.001 s a tenth of one."""
    result = generate([asked(length_s=length_s, steps=1)], silent)[0]
    assert result.rate_hz == RATE_HZ
    assert result.sound.dtype == np.float32
    assert result.sound.shape == (round(length_s * RATE_HZ),)
    assert np.abs(result.sound).max() <= 1


def test_the_configuration_fills_in_what_a_request_leaves_out(tiny, loaded):
    filled = Audio(steps=2, guidance=4, length_s=0.4).load("cpu", {"model": tiny("audioldm")})
    full = asked(steps=2, guidance=4, length_s=0.4)
    assert_near(sounds(filled, AudioRequest(prompt="a dog")), sounds(loaded["audioldm"], full), 1e-4)


def test_progress_counts_the_steps_of_all_batches(generate):
    seen = []
    generate([asked(), asked(steps=5)], lambda *step: seen.append(step))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_what_progress_raises_ends_the_work_and_the_next_call_is_right(generate):
    class CancelledError(Exception):
        pass

    steps = []

    def cancel(done, total):
        steps.append(done)
        if done == 2:
            raise CancelledError

    expected = sounds(generate, asked(seed=3))
    with pytest.raises(CancelledError):
        generate([asked(seed=3, steps=50)], cancel)
    assert steps == [1, 2]
    assert_near(sounds(generate, asked(seed=3)), expected, 1e-4)


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (asked("dog " * 30), "prompt", r"tokens.*64"),
        (asked(negative_prompt="x" * 100), "negative_prompt", r"tokens.*64"),
        (asked(negative_prompt="ugly", guidance=1), "negative_prompt", "guidance"),
        (asked(length_s=1e-5), "length_s", "16000 Hz"),
    ],
)
def test_what_cannot_be_done_says_which_field_and_harms_no_neighbour(generate, request_, field, message):
    first, error, last = generate([asked(seed=1), request_, asked(seed=2)], silent)
    assert isinstance(error, RequestError)
    assert error.field == field
    with pytest.raises(RequestError, match=message):
        raise error
    assert first.sound.size == last.sound.size


@pytest.mark.parametrize("fields", [{"length_s": 0}, {"length_s": 1e6}, {"steps": 0}, {"seed": 1.5}, {"n": 2}])
def test_a_request_of_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        asked(**fields)


def change_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def without_a_tensor(copy):
    change_tensors(copy / "vocoder" / "model.safetensors", lambda tensors: tensors.pop("conv_pre.weight"))


def of_pictures(copy):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_tensor, r"vocoder.*conv_pre\.weight"),
        (of_pictures, r"model_index\.json: _class_name is 'StableDiffusionPipeline', not AudioLDM2Pipeline or"),
        (lambda copy: shutil.rmtree(copy / "tokenizer"), r"tokenizer.*missing"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(ConfigError, match=message):
        Audio().load("cpu", {"model": str(copy)})


def test_sounds_of_no_numbers_are_an_error(copy):
    file = copy / "vocoder" / "model.safetensors"
    change_tensors(file, lambda tensors: tensors["conv_post.bias"].fill_(float("nan")))
    broken = Audio().load("cpu", {"model": str(copy)})
    with pytest.raises(MmrayError, match="float32"):
        broken([asked()], silent)
