"""Pictures from words and from pictures: one seed, one picture."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmray.errors import ConfigError, MmrayError
from mmray.generation.base import RequestError
from mmray.generation.image import Image, ImageRequest
from mmray.models.tiny.parts import SIZE
from tests.near import assert_near_pictures

KINDS = ["stable_diffusion", "stable_diffusion_xl"]


def silent(done, total):
    """Be told, and do nothing."""


def pictures(generate, *requests):
    return [result.picture.astype(int) for result in generate(requests, silent)]


def difference(one, other):
    return np.abs(one - other).mean()


def asked(prompt="a dog", **fields):
    return ImageRequest(prompt=prompt, **({"steps": 4} | fields))


@pytest.fixture(scope="module")
def loaded(tiny):
    return {kind: Image(model="-").load("cpu", {"model": tiny(kind)}) for kind in KINDS}


@pytest.fixture(params=KINDS)
def generate(request, loaded):
    return loaded[request.param]


@pytest.fixture
def plain(loaded):
    return loaded["stable_diffusion"]


@pytest.fixture
def copy(tiny, tmp_path):
    """Return a copy of a folder, to be damaged."""
    return Path(shutil.copytree(tiny("stable_diffusion"), tmp_path / "copy"))


@pytest.fixture(scope="module")
def photo():
    rows, columns = np.mgrid[0:64, 0:64] * 4
    return np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8)


def test_a_seed_gives_one_picture_whatever_else_is_in_the_batch(generate, photo):
    """Whoever shares the pass, whatever mode, steps, size or prompt they have."""
    requests = [
        asked(seed=7),
        asked("a cat in a hat", seed=8),
        asked(seed=7, steps=3),
        asked("rain on a very, very long street", seed=9, negative_prompt="ugly"),
        asked(seed=7, width_px=72),
        asked("sea", seed=10, image=photo, strength=0.5),
        asked("trees", seed=11, image=photo, strength=0.5),
        asked("sand", seed=12),
    ]
    together = pictures(generate, *requests)
    for request, found in zip(requests, together, strict=True):
        assert np.abs(pictures(generate, request)[0] - found).max() <= 1
    assert together[4].shape == (64, 72, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_picture_of_diffusers_own_pipeline(tiny, loaded, kind):
    from diffusers import DiffusionPipeline

    own = DiffusionPipeline.from_pretrained(tiny(kind), local_files_only=True)
    own.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(5)
    expected = own("a dog", num_inference_steps=4, generator=seed, output_type="np").images[0]
    assert np.abs(pictures(loaded[kind], asked(seed=5))[0] - np.round(expected * 255)).max() <= 1


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"steps": 2}, {"guidance": 2}, {"negative_prompt": "ugly"}, {"prompt": "a cat"}]
)
def test_what_is_asked_for_matters(generate, change):
    first, again, other = pictures(generate, asked(seed=1), asked(seed=1), asked(**({"seed": 1} | change)))
    assert_near_pictures(first, again)
    assert difference(first, other) > 1


def test_the_configuration_fills_in_what_a_request_leaves_out(tiny, plain):
    settings = Image(model="-", steps=3, guidance=4, width_px=80, height_px=72)
    filled = settings.load("cpu", {"model": tiny("stable_diffusion")})
    bare = ImageRequest(prompt="a dog")
    full = ImageRequest(prompt="a dog", steps=3, guidance=4, width_px=80, height_px=72)
    assert_near_pictures(*pictures(filled, bare), *pictures(plain, full))


def test_the_greater_the_strength_the_less_of_the_picture_is_left(generate, photo):
    """How much it matters which picture one starts from."""
    strengths = [0.1, 0.3, 0.6, 1.0]
    found = [
        pictures(generate, *(asked(image=image, strength=strength, steps=10) for image in (photo, photo[::-1])))
        for strength in strengths
    ]
    left = [difference(*pair) for pair in found]
    assert left == sorted(left, reverse=True)
    assert left[0] > 2 * left[-1]


def test_a_picture_decides_the_size_unless_one_is_asked_for(plain, photo):
    large = np.repeat(np.repeat(photo, 2, axis=0)[:102], 2, axis=1)
    own, asked_for = pictures(plain, asked(image=large), asked(image=large, width_px=64, height_px=64))
    assert own.shape == (104, 128, 3)
    assert asked_for.shape == (64, 64, 3)


def test_progress_counts_the_steps_of_all_batches(plain, photo):
    seen = []
    plain([asked(), asked(steps=3), asked(image=photo, strength=0.5, steps=8)], lambda *step: seen.append(step))
    assert {total for _, total in seen} == {4 + 3 + 4}
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert set(range(1, 12)) <= set(counts)


def test_what_progress_raises_ends_the_work_and_the_next_call_is_right(plain):
    class CancelledError(Exception):
        pass

    steps = []

    def cancel(done, total):
        steps.append(done)
        if done == 2:
            raise CancelledError

    expected = pictures(plain, asked(seed=3))
    with pytest.raises(CancelledError):
        plain([asked(seed=3, steps=50)], cancel)
    assert max(steps) == 2
    assert_near_pictures(*expected, *pictures(plain, asked(seed=3)))


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (asked("dog " * 30), "prompt", r"tokens.*77"),
        (asked(negative_prompt="x" * 100), "negative_prompt", r"102 tokens.*77"),
        (asked(negative_prompt="ugly", guidance=1), "negative_prompt", "guidance"),
        (asked(strength=0.5), "strength", "image"),
        (asked(steps=1000), "steps", "fewer than 1000"),
        (asked(image=np.zeros((64, 64, 3), np.uint8), strength=0.2), "strength", "steps"),
        (asked(image=np.zeros((64, 5000, 3), np.uint8)), "image", "5000"),
    ],
)
def test_what_cannot_be_done_says_which_field_and_harms_no_neighbour(plain, request_, field, message):
    first, error, last = plain([asked(seed=1), request_, asked(seed=2)], silent)
    assert isinstance(error, RequestError)
    assert error.field == field
    with pytest.raises(RequestError, match=message):
        raise error
    assert first.picture is not None
    assert last.picture is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"width_px": 100},
        {"steps": 0},
        {"guidance": -1},
        {"strength": 0},
        {"seed": -1},
        {"image": np.zeros((8, 8), np.uint8)},
        {"image": np.zeros((8, 8, 3))},
        {"size": 64},
    ],
)
def test_a_request_of_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        asked(**fields)


def test_another_scheduler_of_diffusers_can_be_asked_for(tiny, plain):
    settings = Image(model="-", scheduler="EulerDiscreteScheduler")
    euler = settings.load("cpu", {"model": tiny("stable_diffusion")})
    assert difference(*pictures(euler, asked()), *pictures(plain, asked())) > 0.1
    assert np.abs(pictures(euler, asked("a cat"), asked(seed=3))[1] - pictures(euler, asked(seed=3))[0]).max() <= 1
    with pytest.raises(ConfigError, match=r"EulerDiscrete'.*EulerDiscreteScheduler"):
        Image(model="-", scheduler="EulerDiscrete").load("cpu", {"model": tiny("stable_diffusion")})


def test_a_turbo_checkpoint_takes_one_step_without_guidance(copy):
    (copy / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "beta_schedule": "linear"})
    )
    index = json.loads((copy / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (copy / "model_index.json").write_text(json.dumps(index))
    turbo = Image(model="-", steps=1, guidance=0).load("cpu", {"model": str(copy)})
    seen = []
    turbo([ImageRequest(prompt="a dog")], lambda *step: seen.append(step))
    assert seen == [(1, 1)]


def change_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def damaged_unet(copy):
    change_tensors(copy / "unet" / "diffusion_pytorch_model.safetensors", lambda tensors: tensors.pop("conv_in.weight"))


def reshaped_vae(copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    change_tensors(file, lambda tensors: tensors.update({"encoder.conv_in.bias": torch.zeros(5)}))


def cut_text_tower(copy):
    file = copy / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def index_of(name):
    def change(copy):
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))

    return change


def foreign_code(copy):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"unet": ["my_unet", "MyUNet"]}))
    (copy / "unet" / "my_unet.py").write_text("raise SystemExit('run')")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_unet, r"unet.*conv_in\.weight"),
        (reshaped_vae, r"vae.*encoder\.conv_in\.bias"),
        (cut_text_tower, r"text_encoder"),
        (lambda copy: shutil.rmtree(copy / "vae"), r"vae.*missing"),
        (lambda copy: (copy / "tokenizer" / "tokenizer.json").unlink(), r"tokenizer.*no tokenizer"),
        (lambda copy: (copy / "scheduler" / "scheduler_config.json").write_text("{"), r"scheduler"),
        (lambda copy: (copy / "model_index.json").unlink(), r"model_index\.json"),
        (
            index_of("AudioLDMPipeline"),
            r"model_index\.json: _class_name is 'AudioLDMPipeline'.*StableDiffusionPipeline",
        ),
        (foreign_code, r"model_index\.json: unet is .*MyUNet"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(ConfigError, match=message):
        Image(model="-").load("cpu", {"model": str(copy)})


def test_pictures_of_no_numbers_are_an_error(copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    change_tensors(file, lambda tensors: tensors["decoder.conv_out.bias"].fill_(float("nan")))
    broken = Image(model="-").load("cpu", {"model": str(copy)})
    with pytest.raises(MmrayError, match="float32"):
        broken([asked()], silent)


def test_a_picture_that_the_checker_flags_is_black_and_says_so(copy):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPVisionConfig

    vision = CLIPVisionConfig(**SIZE, image_size=32, patch_size=8)
    config = CLIPConfig(vision_config=vision.to_dict(), projection_dim=24)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2)  # below any cosine
    checker.save_pretrained(copy / "safety_checker")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(copy / "feature_extractor")
    index = json.loads((copy / "model_index.json").read_text()) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": True,
    }
    (copy / "model_index.json").write_text(json.dumps(index))
    checked, unchecked = (
        Image(model="-", safety_checker=wanted).load("cpu", {"model": str(copy)})([asked()], silent)[0]
        for wanted in (True, False)
    )
    assert checked.scores == {"flagged": 1}
    assert not checked.picture.any()
    assert unchecked.scores == {}
    assert unchecked.picture.any()


def test_old_names_of_tensors_are_read(copy, plain):
    """Stable Diffusion 1.5 has the attention of its VAE under names that diffusers has given up."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".attentions." in name]:
        renamed = name
        for new, given_up in old.items():
            renamed = renamed.replace(f".{new}.", f".{given_up}.")
        tensors[renamed] = tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    assert any(".query." in name for name in tensors)
    aged = Image(model="-").load("cpu", {"model": str(copy)})
    assert_near_pictures(*pictures(aged, asked()), *pictures(plain, asked()))
