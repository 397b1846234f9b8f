"""VideoMAE: one vector for a video, out of folders for pre-training and for classification."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.extractors.videomae import VideoMae
from mmray.media.decode import decode
from mmray.models.torch_setup import ensure_torchaudio, quiet
from mmray.specs import Gathered

from .streams import frames


@pytest.fixture
def path(tiny):
    return str(tiny / "videomae")


def clip(extractor):
    return Gathered((frames(extractor.frames, 8),), 0.0, None, 8.0)


def embedding(extractor, path, one):
    (rows,) = extractor.load("cpu", path)([one])
    return rows.columns["embedding"]


def expected(path, model, one, how="mean"):
    """Return what the library's own processor and encoder make of the frames."""
    import torch
    from transformers import VideoMAEImageProcessorPil

    images = [frame.image for frame in one.streams[0]]
    values = VideoMAEImageProcessorPil.from_pretrained(path)(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = model.eval()(pixel_values=values).last_hidden_state
    return (tokens.mean(1) if how == "mean" else tokens.amax(1)).numpy()


@pytest.mark.parametrize("how", ["mean", "max"])
def test_it_agrees_with_the_librarys_own_processor_and_model(path, how):
    ensure_torchaudio()
    from transformers import VideoMAEModel

    extractor = VideoMae(token_pooling=how).resolved(path)
    assert (extractor.frames.representative, extractor.frames.side_px) == (8, 32)
    one = clip(extractor)
    wanted = expected(path, VideoMAEModel.from_pretrained(path), one, how)
    np.testing.assert_allclose(embedding(extractor, path, one), wanted, atol=1e-5)


@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("kind", ["VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"])
def test_the_encoder_is_found_in_every_kind_of_folder(path, tmp_path, kind, mean_pooling):
    """With ``use_mean_pooling`` the encoder has no layer norm of its own."""
    ensure_torchaudio()
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.VideoMAEConfig.from_pretrained(path, use_mean_pooling=mean_pooling)
    model = getattr(transformers, kind)(config)
    encoder = getattr(model, "videomae", model)
    with quiet():
        model.save_pretrained(tmp_path)
    shutil.copy(f"{path}/preprocessor_config.json", tmp_path)
    extractor = VideoMae().resolved(str(tmp_path))
    one = clip(extractor)
    assert (encoder.layernorm is None) == mean_pooling
    np.testing.assert_allclose(
        embedding(extractor, str(tmp_path), one), expected(str(tmp_path), encoder, one), atol=1e-5
    )


def test_a_folder_that_lacks_the_layer_norm_it_should_have_is_refused(path, tmp_path):
    """``use_mean_pooling: false`` over the weights of a classifier."""
    ensure_torchaudio()
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    with quiet():
        VideoMAEForVideoClassification(VideoMAEConfig.from_pretrained(path, use_mean_pooling=True)).save_pretrained(
            tmp_path
        )
    config = json.loads((tmp_path / "config.json").read_text()) | {"use_mean_pooling": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(f"{path}/preprocessor_config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"VideoMAEModel are missing: layernorm"):
        VideoMae().load("cpu", str(tmp_path))


def test_a_video_of_one_frame_is_one_clip(path, test_data):
    extractor = VideoMae().resolved(path)
    decoding = decode(str(test_data / "video" / "awkward" / "derived" / "one_frame.mp4"), extractor.specs)
    pictures = [frame for _, frame in decoding]
    assert len(pictures) == 8
    assert embedding(extractor, path, Gathered((pictures,), 0.0, None, decoding.duration_s)).shape == (1, 32)


def test_it_has_no_class_token_and_no_windows():
    with pytest.raises(ValidationError, match="token_pooling"):
        VideoMae(token_pooling="cls")
    with pytest.raises(ValidationError, match="one clip of 16 frames"):
        VideoMae(frames={"fps": 2})


def test_another_number_of_frames_is_refused(path):
    with pytest.raises(ConfigError, match=r"uniform is 16, and .*videomae takes 8"):
        VideoMae(frames={"uniform": 16}).resolved(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"hidden_size": 64}, "another shape than VideoMAEModel"), ({"num_hidden_layers": 3}, r"missing: .*layer\.2\.")],
)
def test_weights_of_another_size_are_refused(path, tmp_path, settings, words):
    folder = tmp_path / "changed"
    shutil.copytree(path, folder)
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        VideoMae().load("cpu", str(folder))


def test_another_folder_or_a_damaged_one_is_refused(path, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"'vivit', not videomae"):
        VideoMae().resolved(str(tiny / "vivit"))
    folder = tmp_path / "cut"
    shutil.copytree(path, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=str(folder)):
        VideoMae().load("cpu", str(folder))
    file.unlink()
    with pytest.raises(ConfigError, match=str(folder)):
        VideoMae().load("cpu", str(folder))
