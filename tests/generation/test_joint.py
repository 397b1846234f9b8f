"""Two noise estimates on one latent: the weights over time, and every step against the authors' code."""

import ast

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from mmray.generation import joint, weighting

CASES = ["default_w05_img10pct", "audio_late", "w025_both", "cutoff_latent"]
WHOLE = (1.0, 0.0)


@pytest.fixture(scope="module")
def reference(test_data):
    with np.load(test_data.parent / "reference" / "joint_diffusion_weighting.npz") as arrays:
        return dict(arrays)


@pytest.fixture(params=CASES)
def case(reference, request):
    return {name.partition("__")[2]: array for name, array in reference.items() if name.startswith(request.param)}


def scheduler(steps):
    """Return the one of the authors' configuration."""
    found = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    found.set_timesteps(steps)
    return found


def recorded(case, unet):
    """Return a noise function that gives what a U-Net gave, and fails at a step at which it was not asked."""
    estimates = dict(zip(case[f"{unet}_unet_steps"].tolist(), case[f"{unet}_unet_out_uncond_cond"], strict=True))

    def noise(latents, time, rows):
        without, with_words = torch.from_numpy(estimates.pop(int(time)))
        return without[None], with_words[None]

    return noise, estimates


def test_every_step_is_the_authors(case):
    settings = ast.literal_eval(str(case["params"]))
    steps = settings["num_inference_steps"]
    ddim = scheduler(steps)
    picture, sound = ((1 - settings[f"{unet}_start_step"] / steps, 0.0) for unet in ("image", "audio"))
    weights = weighting.weights(ddim.timesteps / 1000, picture, sound, settings["audio_weight"])
    modalities, unasked = [], {}
    for place, unet in enumerate(("image", "audio")):
        noise, left = recorded(case, unet)
        guidance = torch.tensor([settings[f"{unet}_guidance_scale"]])
        modalities.append(joint.Modality(noise, guidance, torch.from_numpy(weights[:, place : place + 1])))
        unasked[unet] = left
    found = list(joint.denoised(ddim, ddim.timesteps, torch.from_numpy(case["init_latents"]), modalities))
    np.testing.assert_allclose(torch.stack(found).numpy(), case["latents_after_step"], atol=1e-4)
    last = found[-1][..., : -4 if settings["cutoff_latent"] else None]
    np.testing.assert_allclose(last.numpy(), case["final_latents"], atol=1e-4)
    assert unasked == {"image": {}, "audio": {}}


def test_a_modality_starts_and_stops_at_its_times():
    at = [1.0, 0.9, 0.71, 0.7, 0.5, 0.3, 0.1, 0.0]
    found = weighting.weights(at, picture=(0.7, 0.0), sound=(1.0, 0.3), sound_weight=0.25)
    assert found[:, 0].tolist() == [0, 0, 0, 0.75, 0.75, 1, 1, 1]
    assert found[:, 1].tolist() == [1, 1, 1, 0.25, 0.25, 0, 0, 0]


@pytest.mark.parametrize("steps", [10, 50, 100])
def test_the_authors_step_k_of_n_is_the_time_1_minus_k_over_n(steps):
    np.testing.assert_allclose(weighting.times(steps), scheduler(steps).timesteps / 1000)
    for step in range(steps):
        sound = weighting.weights(weighting.times(steps), WHOLE, (1 - step / steps, 0.0))[:, 1]
        assert sound.tolist() == [0.0] * step + [0.5] * (steps - step)


def test_one_that_works_alone_has_all_the_weight():
    for sound_weight in (0.0, 0.5, 1.0):
        assert weighting.weights([0.5], WHOLE, (0.2, 0.0), sound_weight).tolist() == [[1, 0]]
        assert weighting.weights([0.5], (0.0, 0.0), WHOLE, sound_weight).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("picture", "sound", "first"),
    [
        (WHOLE, WHOLE, None),
        ((0.4, 0.0), (1.0, 0.4), None),
        ((0.4, 0.0), (1.0, 0.6), 0.6),
        ((0.9, 0.0), (0.8, 0.0), 1.0),
        ((1.0, 0.2), (0.9, 0.1), 0.1),
        ((0.0, 0.0), (0.3, 0.3), 1.0),
        ((1.0, 0.5), (0.5, 0.5), 0.5),
    ],
)
def test_a_time_at_which_neither_works_is_found(picture, sound, first):
    assert weighting.gap(picture, sound) == first
    assert weighting.gap(sound, picture) == first
    times = np.linspace(1, 0, 1001)
    if first is None:
        weighting.weights(times, picture, sound)
    else:
        with pytest.raises(ValueError, match=f"at the time {first:.3f}"):
            weighting.weights(times, picture, sound)


def test_every_row_has_its_own_guidance_and_weights():
    rows = []

    def noise(latents, time, asked):
        rows.append(asked.tolist())
        return torch.zeros_like(latents), torch.ones_like(latents)

    modality = joint.Modality(noise, torch.tensor([2.0, 3.0, 4.0]), torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    latents = torch.zeros(3, 4, 2, 2)
    assert modality.estimate(0, latents, torch.tensor(5))[:, 0, 0, 0].tolist() == [1.0, 0.0, 4.0]
    assert not modality.estimate(1, latents, torch.tensor(4)).any()
    assert rows == [[0, 2]]
