"""RT-DETR and D-FINE against the library: the folder's own processor and model on the same picture."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from mmray.errors import ConfigError
from mmray.extractors.rtdetr import RtDetr
from mmray.media.decode import decode
from mmray.models import labels
from mmray.models.torch_setup import ensure_torchaudio

from .streams import frames

CORNERS = ("x1", "y1", "x2", "y2")


@pytest.fixture(params=["rtdetr", "dfine"])
def folder(tiny, request):
    return str(tiny / request.param)


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny / "rtdetr", tmp_path / "rtdetr")


def processor(path):
    """Return the folder's own processor."""
    ensure_torchaudio()
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    return RTDetrImageProcessorPil.from_pretrained(path)


@torch.inference_mode()
def library(path, images, threshold, sizes):
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(path).eval()
    own = processor(path)
    inputs = own(images=images, return_tensors="pt")
    return own.post_process_object_detection(model(**inputs), threshold=threshold, target_sizes=sizes)


def test_rows_are_what_the_library_finds(folder):
    extractor = RtDetr(score_threshold=0.4).resolved(folder)
    pictures = frames(extractor.frames, 7)  # already as large as the network wants them
    found = list(extractor.load("cpu", folder)(pictures))
    sizes = [(item.height, item.width) for item in pictures]
    expected = library(folder, [Image.fromarray(item.image) for item in pictures], 0.4, sizes)
    assert sum(map(len, found)) > 0
    for rows, theirs, item in zip(found, expected, pictures, strict=True):
        if "dfine" not in folder:  # rounding decides which of its queries are kept: see CASES of test_contract
            np.testing.assert_allclose(max(rows.columns["score"]), max(theirs["scores"]), atol=0.05)
            continue
        np.testing.assert_allclose(rows.columns["score"], theirs["scores"], atol=1e-4)
        np.testing.assert_array_equal(rows.columns["class_id"], theirs["labels"])
        edges = [item.width, item.height] * 2
        clipped = np.clip(theirs["boxes"].numpy(), 0, edges)
        np.testing.assert_allclose(np.stack([rows.columns[name] for name in CORNERS], 1), clipped, atol=0.01)
        assert rows.columns["class_name"] == [labels.COCO[number] for number in theirs["labels"]]


def test_the_decoder_scales_nearly_as_the_processor(tiny, test_data):
    path = str(tiny / "rtdetr")
    extractor = RtDetr().resolved(path)
    spec = extractor.frames
    assert (spec.side_px, spec.fit, spec.interpolation) == (96, "squash", "bilinear")
    uri = test_data / "images" / "openimages_coral" / "parrot.jpg"
    (item,) = [item for _, item in decode(str(uri), [spec])]
    theirs = processor(path)(images=Image.open(uri).convert("RGB"), return_tensors="np")["pixel_values"][0]
    ours = item.image.transpose(2, 0, 1) / 255
    assert np.abs(ours - theirs).mean() < 1.5 / 255


def test_normalising_is_done_where_the_folder_asks_for_it(tiny, tmp_path):
    copy = shutil.copytree(tiny / "dfine", tmp_path / "dfine")
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    settings |= {"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    extractor = RtDetr(score_threshold=0.3).resolved(str(copy))
    pictures = frames(extractor.frames, 1)
    (found,) = extractor.load("cpu", str(copy))(pictures)
    sizes = [(pictures[0].height, pictures[0].width)]
    (theirs,) = library(str(copy), [Image.fromarray(pictures[0].image)], 0.3, sizes)
    np.testing.assert_allclose(found.columns["score"], theirs["scores"], atol=1e-4)


def test_lower_precision_works(folder):
    extractor = RtDetr(score_threshold=0.3).resolved(folder)
    pictures = frames(extractor.frames, 4)
    for precision in ("bfloat16", "float16"):
        found = list(extractor.model_copy(update={"precision": precision}).load("cpu", folder)(pictures))
        assert sum(map(len, found)) > 0
        assert all(rows.columns["score"].dtype == np.float32 for rows in found)


def test_a_picture_of_one_pixel_and_a_video_of_one_frame_go_through(tiny, test_data, tmp_path):
    path = str(tiny / "rtdetr")
    extractor = RtDetr(score_threshold=0.1).resolved(path)
    extract = extractor.load("cpu", path)
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "one.png")
    for uri in [tmp_path / "one.png", test_data / "video" / "awkward" / "derived" / "one_frame.mp4"]:
        (item,) = [item for _, item in decode(str(uri), [extractor.frames])]
        (rows,) = extract([item])
        assert all((rows.columns[name] <= (item.width if name[0] == "x" else item.height)).all() for name in CORNERS)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_missing_file_is_said_by_name(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(ConfigError, match="config"):
        RtDetr().resolved(str(copy))


def test_other_models_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"'clip', not rt_detr or rt_detr_v2 or d_fine"):
        RtDetr().resolved(str(tiny / "clip"))


@pytest.mark.parametrize(
    "change, why",
    [
        ({"size": {"shortest_edge": 96}}, "a batch has one size"),
        ({"size": 96}, "a batch has one size"),
        ({"image_processor_type": "DetrImageProcessor"}, "not RTDetrImageProcessor"),
        ({"size": {"height": 96, "width": 64}}, "must be a square"),
        ({"do_resize": False}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"resample": 1}, "resample of its image processor is 1"),
    ],
)
def test_pictures_that_cannot_be_prepared_are_refused(copy, change, why):
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ConfigError, match=why):
        RtDetr().resolved(str(copy))


def test_another_size_than_the_folders_is_refused(tiny):
    with pytest.raises(ConfigError, match="side_px is 320"):
        RtDetr(frames={"fps": 1, "side_px": 320, "fit": "squash"}).resolved(str(tiny / "rtdetr"))


def test_classes_without_names_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["id2label"]["5"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="id2label"):
        RtDetr().resolved(str(copy))


def test_damaged_weights_are_refused_with_their_tensor(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = "model.encoder_input_proj.0.0.weight"
    extractor = RtDetr().resolved(str(copy))
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"encoder_input_proj\.0\.0\.weight"):
        extractor.load("cpu", str(copy))
    save_file({**tensors, name: tensors[name][:3]}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"encoder_input_proj\.0\.0\.weight"):
        extractor.load("cpu", str(copy))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError):
        extractor.load("cpu", str(copy))
