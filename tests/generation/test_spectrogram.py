"""Pictures that sound: two models on one canvas, each as it would be alone, and both at once."""

import functools
import json
import re
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.generation import files
from mmray.generation.base import RequestError
from mmray.generation.canvas import Canvas
from mmray.generation.imprint import of_file, of_text
from mmray.generation.spectrogram import Spectrogram, SpectrogramRequest
from mmray.models import hifigan, mel_image
from mmray.models.torch_setup import ensure_torchaudio
from tests.near import assert_near_pictures

CONFIGS = Path(__file__).parents[2] / "configs"
ALONE = {"picture": {"picture_from": 1.0, "sound_from": 0.0}, "sound": {"picture_from": 0.0, "sound_from": 1.0}}


def silent(done, total):
    """Be told, and do nothing."""


def asked(prompt="ships", sound_prompt="birds", **fields):
    return SpectrogramRequest(prompt=prompt, sound_prompt=sound_prompt, **({"steps": 4, "width_px": 96} | fields))


def stripes(height=90, width=70, period=10):
    grey = (np.arange(width) // period % 2 * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey, (height, width)))


@pytest.fixture(scope="module")
def paths(tiny):
    return {"model": tiny("stable_diffusion"), "sound_model": tiny("auffusion")}


@pytest.fixture(scope="module")
def generate(paths):
    return Spectrogram(batch_size=3).load("cpu", paths)


def difference(one, other):
    """Return the largest differences of two results: picture and spectrum in grey levels, sound."""
    assert one.sound.shape == other.sound.shape
    pairs = [(one.picture, other.picture), (one.spectrum, other.spectrum), (one.sound, other.sound)]
    return [float(np.abs(a.astype(float) - b.astype(float)).max()) for a, b in pairs]


def assert_near_results(one, other):
    """Assert that two results differ by rounding alone: by a grey level, and by 1e-3 of full scale."""
    picture, spectrum, sound = difference(one, other)
    assert max(picture, spectrum) <= 1
    assert sound < 1e-3


class Watched(Canvas):
    """A canvas that remembers its last latents, and at which times each model was asked."""

    def __init__(self, paths, scheduler):
        super().__init__(paths["model"], paths["sound_model"], "float32", "cpu", scheduler)
        for name, model in (("picture", self._picture), ("sound", self._sound)):
            model.noise = self._watched(model.noise, name)

    def _watched(self, noise, name):
        def watched(latents, time, words):
            self.times[name].append(int(time) / 1000)
            return noise(latents, time, words)

        return watched

    def _finished(self, latents, crop):
        self.latents = latents
        return super()._finished(latents, crop)

    def paint(self, request, progress=lambda step: None):
        """Paint one canvas and return its latents."""
        self.times = {"picture": [], "sound": []}
        self.make(self.plan(request), [request], progress)
        return self.latents


@pytest.fixture(scope="module")
def watched(paths):
    """Return the canvas of a scheduler."""
    return functools.cache(lambda scheduler="DDIMScheduler": Watched(paths, scheduler))


@pytest.fixture(scope="module")
def pipelines(paths):
    """Return diffusers' own pipeline of one of the folders."""

    ensure_torchaudio()

    @functools.cache
    def loaded(modality):
        path = paths["model" if modality == "picture" else "sound_model"]
        return diffusers.StableDiffusionPipeline.from_pretrained(path, local_files_only=True, safety_checker=None)

    def pipeline_of(modality, scheduler, kind="StableDiffusionPipeline"):
        pipeline = getattr(diffusers, kind)(**loaded(modality).components, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        if scheduler is not None:
            config = {**pipeline.scheduler.config, "clip_sample": False}
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(config)
        return pipeline

    return pipeline_of


def test_one_seed_gives_one_result_whatever_is_in_the_batch(generate):
    requests = [
        asked(seed=3),
        asked("a house", "rain", seed=4, guidance=3.0, picture_from=0.6, sound_until=0.5),
        asked("a tree", "wind", seed=5, width_px=128),
        asked(seed=6, imprint=stripes(), strength=0.5),
        asked(seed=7, negative_prompt="grey", sound_weight=0.2, crop="none"),
        asked(seed=2**32 - 1),
    ]
    together = generate(requests, silent)
    for request, result in zip(requests, together, strict=True):
        assert_near_results(generate([request], silent)[0], result)
    assert difference(together[0], together[-1])[0] > 5


@pytest.mark.parametrize(
    ("modality", "scheduler"),
    [
        ("picture", "DDIMScheduler"), ("picture", None), ("picture", "EulerAncestralDiscreteScheduler"),
        ("picture", "HeunDiscreteScheduler"), ("sound", "DDIMScheduler"), ("sound", "DPMSolverMultistepScheduler"),
    ],
)  # fmt: skip
def test_one_modality_alone_is_its_own_pipeline(watched, pipelines, modality, scheduler):
    request = asked(seed=11, guidance=4.0, sound_guidance=4.0, **ALONE[modality])
    expected = pipelines(modality, scheduler)(
        request.prompt if modality == "picture" else request.sound_prompt,
        num_inference_steps=4,
        guidance_scale=4.0,
        height=256,
        width=96,
        generator=torch.Generator().manual_seed(11),
        output_type="latent",
    ).images
    # Guidance multiplies rounding by 4 in each of 4 steps: 2e-7 more in each layer was 1e-4 here (measured).
    torch.testing.assert_close(watched(scheduler).paint(request), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "strength"),
    [("DDIMScheduler", 0.3), (None, 0.8), ("EulerDiscreteScheduler", 0.5), ("HeunDiscreteScheduler", 0.5)],
)
def test_a_guided_start_is_that_of_img2img(watched, pipelines, scheduler, strength):
    request = asked(seed=12, steps=6, guidance=4.0, imprint=stripes(), strength=strength, **ALONE["picture"])
    imprint = watched(scheduler).paint(request.model_copy(update={"strength": 0.0}))
    expected = pipelines("picture", scheduler, "StableDiffusionImg2ImgPipeline")(
        request.prompt,
        image=imprint,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(12),
        output_type="latent",
    ).images
    # Guidance multiplies rounding by 4 in each of 4 steps: 2e-7 more in each layer was 1e-4 here (measured).
    torch.testing.assert_close(watched(scheduler).paint(request), expected, atol=1e-3, rtol=1e-5)


def test_each_vae_and_the_vocoder_give_what_is_theirs(watched, pipelines, paths):
    request = asked(seed=5, crop="none")
    latents = watched().paint(request).clone()
    (result,) = watched().make(watched().plan(request), [request], lambda step: None)
    with torch.inference_mode():
        decoded = {}
        for modality in ("picture", "sound"):
            vae = pipelines(modality, None).vae
            decoded[modality] = (vae.decode(latents / vae.config.scaling_factor)[0] / 2 + 0.5).clamp(0, 1)
        sound = hifigan.load(Path(paths["sound_model"]) / "vocoder")(mel_image.spectra(decoded["sound"]))[0]
    picture, spectrum = (decoded["picture"][0] * 255).permute(1, 2, 0), decoded["sound"][0].mean(0) * 255
    assert np.abs(picture.numpy() - result.picture).max() < 1
    assert np.abs(spectrum.numpy() - result.spectrum).max() < 1
    np.testing.assert_allclose(result.sound, sound.numpy(), atol=1e-4)


def test_an_imprint_is_read_by_the_sounds_vae(watched, pipelines):
    imprint = np.random.default_rng(0).integers(0, 256, (256, 96, 3), np.uint8)
    vae = pipelines("sound", None).vae
    image = torch.from_numpy(imprint / 255).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = vae.encode(image * 2 - 1)[0].mode() * vae.config.scaling_factor
    torch.testing.assert_close(watched().paint(asked(imprint=imprint, strength=0.0)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width_px", [64, 72, 104])
@pytest.mark.parametrize(("crop", "cropped_px"), [("pixels", 32), ("latents", 32), ("none", 0)])
def test_a_column_of_the_picture_is_160_samples(generate, width_px, crop, cropped_px):
    result = generate([asked(steps=1, width_px=width_px, crop=crop, picture_from=1.0)], silent)[0]
    width = width_px - cropped_px
    assert result.picture.shape == (256, width, 3)
    assert result.spectrum.shape == (256, width)
    assert result.sound.shape == (width * 160,)
    assert result.rate_hz == 16_000
    assert (result.picture.dtype, result.spectrum.dtype, result.sound.dtype) == (np.uint8, np.uint8, np.float32)
    assert np.abs(result.sound).max() <= 1


def test_cropped_pixels_are_the_others_unchanged(generate):
    whole, cropped = generate([asked(crop="none"), asked(crop="pixels")], silent)
    assert_near_pictures(cropped.picture, whole.picture[:, :-32])
    np.testing.assert_allclose(cropped.sound, whole.sound[:-5120], atol=1e-4)


def test_each_model_is_asked_only_between_its_times(watched):
    canvas = watched()
    canvas.paint(asked(steps=10, width_px=64, picture_from=0.7, sound_until=0.4))
    assert canvas.times["sound"] == [0.901, 0.801, 0.701, 0.601, 0.501, 0.401]
    assert canvas.times["picture"] == [0.601, 0.501, 0.401, 0.301, 0.201, 0.101, 0.001]


def test_a_modality_that_has_stopped_leaves_the_rest_to_the_other(watched):
    early = {"steps": 6, "picture_from": 1.0, "sound_until": 0.5}
    late = early | {"imprint": stripes(), "strength": 0.5}
    for fields, heard in ((early, True), (late, False)):
        one, other = (watched().paint(asked(sound_prompt=words, **fields)).clone() for words in ("birds", "rain"))
        assert ((one - other).abs().max() > 1e-3) == heard


def test_prompts_guidance_and_weight_matter_each(generate):
    changes = [
        {"prompt": "a house"}, {"sound_prompt": "rain"}, {"negative_prompt": "grey"}, {"negative_sound_prompt": "hum"},
        {"guidance": 2.0}, {"sound_guidance": 2.0}, {"sound_weight": 0.1}, {"picture_from": 0.6}, {"seed": 1},
    ]  # fmt: skip
    first, *others = generate([asked(), *(asked(**change) for change in changes)], silent)
    for change, other in zip(changes, others, strict=True):
        assert difference(first, other)[0] > 1, change


def test_strength_0_leaves_the_imprint_and_1_nothing_of_it(generate, watched):
    steps = []
    kept, other = generate(
        [asked(imprint=stripes(), strength=0.0), asked("a house", seed=9, imprint=stripes(), strength=0.0)],
        lambda done, total: steps.append((done, total)),
    )
    assert steps == []
    assert_near_pictures(kept.picture, other.picture)
    free, replaced = generate([asked(), asked(imprint=stripes(), strength=1.0)], silent)
    assert_near_results(free, replaced)
    mild = {"steps": 6, "guidance": 1.0, "sound_guidance": 1.0, "imprint": stripes()}
    for scheduler in ("DDIMScheduler", None):
        latents = [watched(scheduler).paint(asked(strength=share, **mild)) for share in (0.0, 0.2, 0.5, 0.9)]
        distances = [float((after - latents[0]).abs().mean()) for after in latents[1:]]
        assert 0 < distances[0] < distances[1] < distances[2]


def test_an_imprint_may_be_grey_coloured_or_a_recordings_spectrum(generate):
    grey = stripes()
    results = generate(
        [asked(imprint=grey, strength=0.5), asked(imprint=np.repeat(grey[..., None], 3, axis=2), strength=0.5)], silent
    )
    assert_near_results(*results)
    recording = mel_image.picture(np.sin(np.arange(16_000) ** 1.3))
    (heard,) = generate([asked(imprint=recording, strength=0.5)], silent)
    assert difference(heard, results[0])[1] > 1


@pytest.mark.parametrize("imprint", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_picture_is_no_imprint(imprint):
    with pytest.raises(ValidationError, match="must be uint8"):
        asked(imprint=imprint)


def test_what_is_raised_while_told_ends_the_work(watched):
    class CancelledError(Exception):
        """The client has gone."""

    def cancel(step):
        if step == 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        watched().paint(asked(steps=10), cancel)
    assert len(watched().times["sound"]) == 2


def test_progress_counts_the_steps_of_all_batches(generate):
    told = []
    requests = [*(asked(seed=seed) for seed in range(4)), asked(steps=10, imprint=stripes(), strength=0.5)]
    generate(requests, lambda done, total: told.append((done, total)))
    assert told == [(step, 13) for step in range(1, 14)]


def test_a_text_that_is_too_long_is_refused_and_the_others_are_done(generate):
    long = "birds " * 100
    fields = ["prompt", "sound_prompt", "negative_prompt", "negative_sound_prompt"]
    *refused, done = generate([*(asked(**{field: long}) for field in fields), asked()], silent)
    for field, error in zip(fields, refused, strict=True):
        assert isinstance(error, RequestError)
        assert error.field == field
        assert "77" in error.message
    assert difference(done, generate([asked()], silent)[0])[2] < 1e-3


def test_times_at_which_nothing_would_be_painted_are_refused():
    for fields, time in (
        ({"picture_from": 0.9, "sound_from": 0.9}, "1 "),
        ({"picture_until": 0.2, "sound_until": 0.1}, "0.1 "),
        ({"picture_from": 0.3, "sound_until": 0.5}, "0.5 "),
    ):
        with pytest.raises(ValidationError, match=f"picture_from.*below the time {time}"):
            asked(**fields)
    asked(picture_from=0.9, sound_from=0.9, imprint=stripes(), strength=0.8)  # that begins later


def test_strength_counts_whole_steps():
    for strength, done in ((0.0, 0), (0.29, 29), (0.57, 57), (0.999, 99), (1.0, 100)):
        assert 100 - asked(steps=100, imprint=stripes(), strength=strength).skipped == done


def test_strength_without_an_imprint_is_refused():
    with pytest.raises(ValidationError, match="strength: goes with an imprint"):
        asked(strength=0.5)


@pytest.mark.parametrize(
    "fields",
    [{"steps": 0}, {"steps": 1001}, {"width_px": 100}, {"width_px": 56}, {"sound_weight": 1.1}, {"strength": -0.1},
     {"guidance": -1}, {"prompt": ""}, {"crop": "some"}, {"colour": 1}],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_named(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        asked(**fields)


def test_the_six_pairs_of_the_document_are_painted(generate):
    config = yaml.safe_load((CONFIGS / "painting.yaml").read_text())
    name, *settings = config["generator"]
    assert (name, config["generator"][name]) == ("name", Spectrogram.name)
    Spectrogram(**{key: config["generator"][key] for key in settings})
    requests = []
    for prompt in config["prompts"]:
        imprint = {"imprint": np.asarray(Image.open(CONFIGS.parent / prompt["imprint"]))} if "imprint" in prompt else {}
        requests.append(SpectrogramRequest(**prompt | imprint))
    assert [(one.sound_guidance, one.guidance, one.imprint is not None and one.strength) for one in requests] == [
        (10, 8, 0.8), (7, 9.5, 0.8), (7, 9.5, 0.8), (6, 9.5, 0.9), (10, 7, 0.8), (7.5, 8, False),
    ]  # fmt: skip
    results = generate([one.model_copy(update={"steps": 2, "width_px": 64}) for one in requests], silent)
    assert [result.sound.size for result in results] == [32 * 160] * 6


def test_folders_that_do_not_fit_are_refused(paths, tmp_path):
    with pytest.raises(ConfigError, match=r"stable_diffusion/vocoder/config\.json"):
        Spectrogram().load("cpu", {"model": paths["model"], "sound_model": paths["model"]})
    with pytest.raises(ConfigError, match=r"scheduler: 'DDIM' does not fit .*DDIMScheduler"):
        Spectrogram(scheduler="DDIM").load("cpu", paths)
    for part, name, change, match in (
        (
            "scheduler",
            "scheduler_config.json",
            {"prediction_type": "v_prediction"},
            "prediction_type is 'v_prediction'",
        ),
        ("scheduler", "scheduler_config.json", {"_class_name": "os"}, "_class_name is 'os'"),
        ("vocoder", "config.json", {"upsample_rates": [5, 4, 2, 2, 1]}, "hop|upsample"),
        ("unet", "config.json", {"block_out_channels": [32, 32]}, "tensor"),
    ):
        folder = tmp_path / f"{part}_{next(iter(change))}"
        shutil.copytree(paths["sound_model"], folder)
        file = folder / part / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(ConfigError, match=match):
            Spectrogram().load("cpu", {"model": paths["model"], "sound_model": str(folder)})


def test_words_are_drawn_across_the_canvas(generate):
    drawn = of_text("HELLO", 1024, 256)
    rows, columns = (np.flatnonzero(drawn.max(axis)) for axis in (1, 0))
    assert drawn.shape == (256, 1024)
    assert rows[0] > 0
    assert columns[-1] < 1023
    assert (rows[-1] - rows[0] > 0.85 * 256) or (columns[-1] - columns[0] > 0.85 * 1024)
    written, given = generate(
        [asked(imprint_text="HELLO", strength=0.5), asked(imprint=of_text("HELLO", 96, 256), strength=0.5)], silent
    )
    assert_near_results(written, given)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"imprint_text": "Ωmega"}, "letters that cannot be drawn here (Ω)"),
        ({"imprint_text": " \n "}, "nothing to draw"),
        ({"imprint_text": "a", "imprint": stripes()}, "give one of them"),
    ],
)
def test_words_that_cannot_be_drawn_are_refused(fields, words):
    with pytest.raises(ValidationError, match="imprint_text: .*" + re.escape(words)):
        asked(**fields)


def test_an_imprint_may_be_a_file_of_a_picture_or_a_recording():
    chirp = np.sin(np.cumsum(np.linspace(0.05, 1.0, 22_050))).astype(np.float32) / 2  # 1 s that rises
    painted = of_file(files.wav(chirp, 22_050), "imprint", 160)
    assert painted.shape == (256, 160, 3)
    assert painted[:, 100:].max() == 0, "silence follows"
    assert of_file(files.wav(chirp, 22_050), "imprint", 64).shape == (256, 64, 3)
    peaks = painted[:, 10:90, 0].argmax(axis=0)
    assert np.all(np.diff(peaks) <= 0), "high pitches are at the top"
    np.testing.assert_array_equal(of_file(files.png(stripes()), "imprint")[..., 0], stripes())
    for data, words in ((b"nothing", "no picture that can be read"), (files.wav(chirp[:300], 22_050), "944 samples")):
        with pytest.raises(RequestError, match=words):
            of_file(data, "imprint")
