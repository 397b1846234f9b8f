"""The extractors by name.

Third parties add theirs by an entry point of the group ``mmray.extractors`` whose name is the extractor's:

    [project.entry-points."mmray.extractors"]
    whale = "whalesong.mmray:Whale"        # a subclass of mmray.extractors.base.Extractor

The built-in ones are listed here, because code that a working directory ships has no package metadata; their names
cannot be taken over.
"""

import importlib
from importlib.metadata import EntryPoint, entry_points

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.extractors.base import Extractor

GROUP = "mmray.extractors"
BUILT_IN = {
    "clap": "mmray.extractors.clap:Clap",
    "clip": "mmray.extractors.clip:Clip",
    "descriptors": "mmray.extractors.descriptors:Descriptors",
    "distilbert": "mmray.extractors.distilbert:DistilBert",
    "logmel": "mmray.extractors.logmel:LogMel",
    "pixels": "mmray.extractors.pixels:Pixels",
    "rtdetr": "mmray.extractors.rtdetr:RtDetr",
    "sbert": "mmray.extractors.sbert:Sbert",
    "summary": "mmray.extractors.summary:Summary",
    "transnetv2": "mmray.extractors.transnetv2:TransNetV2",
    "vggish": "mmray.extractors.vggish:Vggish",
    "videomae": "mmray.extractors.videomae:VideoMae",
    "vitmae": "mmray.extractors.vitmae:VitMae",
    "vivit": "mmray.extractors.vivit:Vivit",
    "waveform": "mmray.extractors.waveform:Waveform",
    "whisper": "mmray.extractors.whisper:Whisper",
    "yamnet": "mmray.extractors.yamnet:Yamnet",
    "yolo_onnx": "mmray.extractors.yolo_onnx:YoloOnnx",
    "yolov7": "mmray.extractors.yolov7:YoloV7",
    "zero_shot": "mmray.extractors.zero_shot:ZeroShot",
}


def names() -> list[str]:
    """Return every name that ``get`` knows."""
    return sorted({*BUILT_IN, *entry_points(group=GROUP).names})


def get(name: str) -> type[Extractor]:
    """Return the class of an extractor; ConfigError for an unknown name or a third party's that does not import."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Extractor] = getattr(importlib.import_module(module), attribute)
        return found
    for entry in entry_points(group=GROUP, name=name):
        return _third_party(entry)
    raise ConfigError(f"there is no extractor {name!r}{nearest(name, names())}")


def _third_party(entry: EntryPoint) -> type[Extractor]:
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the extractor {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Extractor)):
        raise ConfigError(f"the extractor {entry.name!r} ({entry.value}) is not a subclass of {Extractor.__name__}")
    return found
