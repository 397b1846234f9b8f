"""ViT-MAE: one vector for a picture; nothing masked, nothing random."""

import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import ConfigError
from mmray.extractors.vitmae import VitMae
from mmray.media.decode import decode
from mmray.models.torch_setup import ensure_torchaudio
from mmray.specs import FrameSpec
from tests.near import assert_near

from .streams import frames


@pytest.fixture
def path(tiny):
    return str(tiny / "vitmae")


@pytest.fixture
def vitmae(path):
    return VitMae().resolved(path)


def embeddings(extractor, path, items):
    return np.concatenate([rows.columns["embedding"] for rows in extractor.load("cpu", path)(items)])


def test_the_folder_decides_the_size(vitmae):
    assert vitmae.frames == FrameSpec(fps=1, side_px=32, fit="squash", interpolation="bilinear")


@pytest.mark.parametrize("how", ["cls", "mean", "max"])
def test_it_agrees_with_the_librarys_own_processor_and_model(path, how):
    """The library shuffles; put back by ``ids_restore`` its tokens are those of the patches in their order."""
    import torch

    ensure_torchaudio()
    from transformers import ViTImageProcessorPil, ViTMAEModel

    extractor = VitMae(token_pooling=how).resolved(path)
    items = frames(extractor.frames, 5)
    values = ViTImageProcessorPil.from_pretrained(path)([item.image for item in items], return_tensors="pt")
    model = ViTMAEModel.from_pretrained(path, mask_ratio=0.0).eval()
    torch.manual_seed(5)
    with torch.inference_mode():
        found = model(**values)
    order = found.ids_restore[..., None].expand(-1, -1, 32)
    tokens = torch.cat([found.last_hidden_state[:, :1], found.last_hidden_state[:, 1:].gather(1, order)], 1)
    assert tokens.shape == (5, 17, 32)
    wanted = {"cls": tokens[:, 0], "mean": tokens.mean(1), "max": tokens.amax(1)}[how].numpy()
    np.testing.assert_allclose(embeddings(extractor, path, items), wanted, atol=1e-5)


def test_the_callers_random_numbers_have_no_say(path, vitmae):
    import torch

    items, extract = frames(vitmae.frames, 3), vitmae.load("cpu", path)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(np.concatenate([rows.columns["embedding"] for rows in extract(items)]))
    assert_near(*found)


@pytest.mark.parametrize("file", ["derived/one_frame.mp4", "moviepy/bitmap.mp4"])
def test_the_smallest_videos_have_rows(path, vitmae, test_data, file):
    pictures = [frame for _, frame in decode(str(test_data / "video" / "awkward" / file), vitmae.specs)]
    found = embeddings(vitmae, path, pictures)
    assert len(found) == len(pictures) > 0
    assert np.isfinite(found).all()


def test_what_the_network_does_not_see_is_refused(path):
    with pytest.raises(ValidationError, match="colour"):
        VitMae(frames={"fps": 1, "channels": 1})
    with pytest.raises(ConfigError, match=r"side_px is 64, and .*vitmae takes 32"):
        VitMae(frames={"fps": 1, "side_px": 64}).resolved(path)
    with pytest.raises(ConfigError, match=r"height_px is 16, and .*vitmae takes None"):
        VitMae(frames={"fps": 1, "height_px": 16, "fit": "squash"}).resolved(path)


def test_another_folder_or_a_damaged_one_is_refused(path, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"'clip', not vit_mae"):
        VitMae().resolved(str(tiny / "clip"))
    folder = tmp_path / "changed"
    shutil.copytree(path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ConfigError, match="another shape than ViTMAEModel"):
        VitMae().load("cpu", str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"ViTMAEModel are missing: layers\.2\."):
        VitMae().load("cpu", str(folder))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=str(folder)):
        VitMae().load("cpu", str(folder))
    file.unlink()
    with pytest.raises(ConfigError, match=str(folder)):
        VitMae().load("cpu", str(folder))
