"""ViViT: one vector for a video, from one clip of it."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.extractors.base import Kind
from mmray.extractors.footage import evenly
from mmray.extractors.vivit import Vivit
from mmray.media.decode import decode
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import FrameSpec, Gathered

from .streams import frames


@pytest.fixture
def path(tiny):
    return str(tiny / "vivit")


@pytest.fixture
def vivit(path):
    return Vivit().resolved(path)


def clip(spec, count=8, first=0, **times):
    return Gathered((frames(spec, count, first),), 0.0, times.get("end_s"), times.get("duration_s", float(count)))


def embedding(extractor, path, one):
    (rows,) = extractor.load("cpu", path)([one])
    return rows.columns["embedding"]


def changed(path, tmp_path, file, **settings):
    """Return a copy of the folder with other settings in one of its files."""
    folder = tmp_path / "changed"
    shutil.copytree(path, folder, dirs_exist_ok=True)
    data = json.loads((folder / file).read_text()) | settings
    (folder / file).write_text(json.dumps(data))
    return str(folder)


def expected(path, images, how="cls"):
    """Return what the library's own processor and model make of frames that have the resized size already."""
    import torch

    ensure_torchaudio()
    from transformers import VivitImageProcessor, VivitModel

    values = VivitImageProcessor.from_pretrained(path)(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = VivitModel.from_pretrained(path, add_pooling_layer=False).eval()(pixel_values=values)
    tokens = states.last_hidden_state[0].numpy()
    return {"cls": tokens[0], "mean": tokens.mean(0), "max": tokens.max(0), "tokens": tokens}[how], values


def test_the_folder_decides_size_and_number_of_frames(vivit):
    assert vivit.frames == FrameSpec(representative=8, candidates=400, side_px=40, fit="crop", interpolation="bilinear")
    assert vivit.whole_sample
    assert vivit.kind == Kind.EMBEDDING


@pytest.mark.parametrize("how", ["cls", "mean", "max"])
def test_it_agrees_with_the_librarys_own_processor_and_model(path, vivit, how):
    one = clip(vivit.frames)
    wanted, values = expected(path, [frame.image for frame in one.streams[0]], how)
    assert values.min() < -2.5 and values.max() <= 1  # normalised twice, as the hub's folder has it
    found = embedding(vivit.model_copy(update={"token_pooling": how}), path, one)
    np.testing.assert_allclose(found, [wanted], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"offset": False, "rescale_factor": 1 / 255},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"size": {"shortest_edge": 37}, "resample": 3},
    ],
)
def test_it_follows_the_settings_of_the_folder(path, tmp_path, settings):
    folder = changed(path, tmp_path, "preprocessor_config.json", **settings)
    extractor = Vivit().resolved(folder)
    one = clip(extractor.frames)
    wanted, _ = expected(folder, [frame.image for frame in one.streams[0]])
    np.testing.assert_allclose(embedding(extractor, folder, one), [wanted], atol=1e-5)


def test_every_token_can_have_a_row(path, vivit):
    one = clip(vivit.frames)
    wanted, _ = expected(path, [frame.image for frame in one.streams[0]], "tokens")
    half = Vivit(tokens=True).resolved(path)
    assert (half.kind, half.half, vivit.half) == (Kind.TOKENS, True, False)
    (rows,) = half.load("cpu", path)([one])
    assert rows.columns["embedding"].dtype == np.float16
    assert rows.columns["token"].dtype == np.int32
    assert rows.columns["token"].tolist() == list(range(65))
    assert set(rows.window) == {0}
    np.testing.assert_allclose(rows.columns["embedding"], wanted, atol=3e-3)
    exact = embedding(Vivit(tokens=True, tokens_dtype="float32").resolved(path), path, one)
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, wanted, atol=1e-5)


def test_the_order_of_frames_matters(path, vivit):
    one = clip(vivit.frames)
    back = Gathered((one.streams[0][::-1],), 0.0, None, 8.0)
    assert np.abs(embedding(vivit, path, one) - embedding(vivit, path, back)).max() > 1e-3


def test_missing_frames_are_repeated_evenly():
    assert evenly([0, 1, 2], 8) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert evenly([0], 3) == [0, 0, 0]
    assert evenly([0, 1, 2], 3) == [0, 1, 2]
    assert evenly(list(range(20)), 5) == [2, 6, 10, 14, 18]


def test_a_row_spans_the_sample(path, vivit):
    clips = [clip(vivit.frames, duration_s=9.5), clip(vivit.frames, duration_s=None, end_s=8.5)]
    clips += [clip(vivit.frames, duration_s=None)]
    assert [(rows.start_s, rows.end_s) for rows in vivit.load("cpu", path)(clips)] == [
        ([0.0], [9.5]),
        ([0.0], [8.5]),
        ([0.0], [8.0]),
    ]


@pytest.mark.parametrize("settings", [{"fps": 2}, {"every": 5}])
def test_windows_are_refused(settings):
    with pytest.raises(ValidationError, match="give representative or uniform, not fps or every"):
        Vivit(frames=settings)


def test_grey_frames_are_refused():
    with pytest.raises(ValidationError, match="colour"):
        Vivit(frames={"uniform": 32, "channels": 1})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"uniform": 16}, r"uniform is 16, and .*vivit takes 8"),
        ({"representative": 31}, r"representative is 31, and .*vivit takes 8"),
        ({"uniform": 8, "side_px": 100}, r"side_px is 100, and .*vivit takes 40"),
        ({"uniform": 8, "fit": "letterbox"}, r"fit is letterbox, and .*vivit takes crop"),
        ({"uniform": 8, "interpolation": "area"}, r"interpolation is area, and .*vivit takes bilinear"),
    ],
)
def test_frames_that_the_network_was_not_trained_on_are_refused(path, settings, words):
    with pytest.raises(ConfigError, match=words):
        Vivit(frames=settings).resolved(path)


def test_frames_may_be_uniform(path):
    extractor = Vivit(frames={"uniform": 8}).resolved(path)
    assert (extractor.frames.uniform, extractor.frames.representative) == (8, None)


@pytest.mark.parametrize("way", ["representative", "uniform"])
@pytest.mark.parametrize(
    "file",
    ["derived/h264_aac_faststart.mp4", "derived/one_frame.mp4", "moviepy/bitmap.mp4", "torchcodec/nasa_13013.mp4"],
)
def test_any_video_is_one_clip(path, test_data, file, way):
    extractor = Vivit(frames={way: 8}).resolved(path)
    decoding = decode(str(test_data / "video" / "awkward" / file), extractor.specs)
    pictures = [frame for _, frame in decoding]
    assert [frame.window for frame in pictures] == list(range(8))
    assert [frame.frame_s for frame in pictures] == sorted(frame.frame_s for frame in pictures)
    (rows,) = extractor.load("cpu", path)([Gathered((pictures,), 0.0, None, decoding.duration_s)])
    assert len(rows) == 1
    assert np.isfinite(rows.columns["embedding"]).all()
    assert 0 == rows.start_s[0] < rows.end_s[0]


def test_a_still_picture_is_a_clip_of_itself(path, vivit, tmp_path):
    from PIL import Image

    file = tmp_path / "one_pixel.png"
    Image.new("RGB", (1, 1), (200, 30, 90)).save(file)
    pictures = [frame for _, frame in decode(str(file), vivit.specs)]
    assert len(pictures) == 8
    assert all((frame.image == pictures[0].image).all() for frame in pictures)
    (rows,) = vivit.load("cpu", path)([Gathered((pictures,), 0.0, None, None)])
    assert rows.columns["embedding"].shape == (1, 32)


def test_the_default_asks_for_32_of_400_frames(test_data):
    pictures = list(decode(str(test_data / "video" / "awkward" / "derived" / "vp9_opus.webm"), Vivit().specs))
    assert len(pictures) == 32
    assert pictures[0][1].image.shape == (256, 256, 3)


def test_another_folder_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"config\.json.*'videomae', not vivit"):
        Vivit().resolved(str(tiny / "videomae"))


def test_another_network_in_the_folder_is_refused(path, tiny, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(path, folder)
    shutil.copy(tiny / "videomae" / "model.safetensors", folder)
    with pytest.raises(ConfigError, match=r"other: .*VivitModel"):
        Vivit().load("cpu", str(folder))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_size": 64}, "another shape than VivitModel wants"),
        ({"num_hidden_layers": 3}, r"missing: .*layers?\.2\."),
        ({"num_frames": 16}, "position_embeddings"),
    ],
)
def test_weights_of_another_size_are_refused(path, tmp_path, settings, words):
    folder = changed(path, tmp_path, "config.json", **settings)
    with pytest.raises(ConfigError, match=words):
        Vivit().load("cpu", folder)


def test_a_truncated_or_missing_file_is_refused(path, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(path, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=str(folder)):
        Vivit().load("cpu", str(folder))
    file.unlink()
    with pytest.raises(ConfigError, match=str(folder)):
        Vivit().load("cpu", str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"processor_config\.json"):
        Vivit().resolved(str(folder))
