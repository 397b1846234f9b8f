"""Captions: each picture its own, whatever else is in the batch, without start, prompt and end."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError
from mmray.generation.base import RequestError
from mmray.generation.caption import Caption, CaptionRequest

LENGTH = 20


def silent(done, total):
    """Be told, and do nothing."""


def texts(generate, *requests):
    return [result.text for result in generate(requests, silent)]


def asked(number, **fields):
    sides = [(40, 50), (32, 32), (100, 20), (7, 9)]
    picture = np.random.RandomState(number).randint(0, 256, (*sides[number % 4], 3)).astype(np.uint8)
    return CaptionRequest(image=picture, **fields)


@pytest.fixture(scope="module")
def folder(tiny):
    return tiny("blip")


@pytest.fixture(scope="module")
def generate(folder):
    return Caption(max_tokens=LENGTH).load("cpu", {"model": folder})


def test_every_picture_has_its_caption_whatever_else_is_in_the_batch(generate):
    requests = [asked(number, prompt="a photo" if number % 3 == 0 else "") for number in range(7)]
    together = texts(generate, *requests)
    assert together == [text for request in requests for text in texts(generate, request)]
    assert len(set(together)) == len(requests)


@pytest.mark.parametrize("prompt", ["", "a photo"])
@pytest.mark.parametrize("beams", [1, 3])
def test_it_is_the_caption_of_transformers_own_model_without_start_and_prompt(folder, prompt, beams):
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

    request = asked(0, prompt=prompt)
    pixels = BlipImageProcessorPil.from_pretrained(folder)(Pillow.fromarray(request.image), return_tensors="pt")
    words = BertTokenizer.from_pretrained(folder)
    own = BlipForConditionalGeneration.from_pretrained(folder).eval()
    with torch.inference_mode():
        ids = own.generate(
            **pixels, input_ids=words(prompt, return_tensors="pt").input_ids, max_new_tokens=LENGTH, num_beams=beams
        )
    begun = len(words(prompt).input_ids) - 1
    expected = words.decode(ids[0, begun:], skip_special_tokens=True)
    found = texts(Caption(max_tokens=LENGTH, beams=beams).load("cpu", {"model": folder}), request)
    assert found == [expected.strip()]
    assert "[" not in expected


def test_progress_counts_tokens_and_can_end_the_work(generate):
    class CancelledError(Exception):
        pass

    seen = []
    generate([asked(1), asked(2, prompt="so")], lambda *step: seen.append(step))
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert seen[-1] == (2 * LENGTH, 2 * LENGTH)

    def cancel(done, total):
        if done == 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        generate([asked(1)], cancel)
    assert texts(generate, asked(1)) == texts(generate, asked(1))


def test_a_prompt_that_leaves_no_room_is_refused_and_harms_no_neighbour(generate):
    first, error = generate([asked(1), asked(1, prompt="word " * 20)], silent)
    assert first.text
    assert isinstance(error, RequestError)
    assert error.field == "prompt"
    assert "44 leave room" in str(error)


def test_a_damaged_or_foreign_folder_is_refused(folder, tiny, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    del tensors["vision_model.post_layernorm.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"vision_model\.post_layernorm\.weight"):
        Caption().load("cpu", {"model": str(copy)})
    with pytest.raises(ConfigError, match=r"config\.json: is a model of type 'clip', not blip"):
        Caption().load("cpu", {"model": tiny("clip")})
