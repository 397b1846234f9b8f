"""Folders of the hub: what is read out of their files has the type it should, or the file and key are named."""

import json

import pytest

from mmray.errors import ConfigError
from mmray.extractors.clip import Clip
from mmray.extractors.videomae import VideoMae
from mmray.extractors.vitmae import VitMae
from mmray.models import hub
from mmray.models.tiny import make_tiny


@pytest.fixture
def folder(tmp_path):
    def write(**values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return str(tmp_path)

    return write


def test_values_have_the_type_of_their_default(folder):
    found = hub.config(folder(whole=3, part=1, flag=True, inner={"text": "x"}))
    assert found.typed("whole", 5) == 3
    assert found.typed("missing", 5) == 5
    assert isinstance(found.typed("part", 0.5), float)
    assert found.typed("flag", False) is True
    assert found.part("inner").typed("text", "") == "x"
    assert found.part("nothing") == {}


@pytest.mark.parametrize(
    ("value", "default", "kind"),
    [("x", 5, "a whole number"), (1.5, 5, "a whole number"), (True, 5, "a whole number"), (None, 5, "a whole number"),
     ("x", 0.5, "a number"), (True, 0.5, "a number"), (1, False, "true or false"), ([1], {}, "an object")],
)  # fmt: skip
def test_another_type_is_refused_with_file_and_key(folder, value, default, kind):
    with pytest.raises(ConfigError, match=rf"config\.json: width is .*, and must be {kind}"):
        hub.config(folder(width=value)).typed("width", default)


def test_the_key_of_an_inner_object_is_named_too(folder):
    with pytest.raises(ConfigError, match=r"config\.json: vision: width is 'x'"):
        hub.config(folder(vision={"width": "x"})).part("vision").typed("width", 1)


@pytest.mark.parametrize(
    ("extractor", "tiny", "changes", "words"),
    [
        (VideoMae(), "videomae", {"num_frames": "x"}, r"config\.json: num_frames is 'x'"),
        (VideoMae(), "videomae", {"image_size": "wide"}, "its network takes wide"),
        (VitMae(), "vitmae", {"image_size": {}}, "its network takes {}"),
        (Clip(), "clip", {"vision_config": 3}, r"config\.json: vision_config is 3"),
    ],
)
def test_a_folder_with_a_wrong_value_is_refused_on_the_driver(tmp_path, extractor, tiny, changes, words):
    (target,) = make_tiny(tmp_path, names=[tiny])
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ConfigError, match=words):
        extractor.resolved(str(target))
