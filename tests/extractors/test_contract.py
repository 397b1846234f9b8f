"""What every extractor promises, checked on all of them. A new extractor adds one case to CASES."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mmray.errors import Reason, SampleError
from mmray.extractors import registry
from mmray.extractors.base import Extractor, Kind
from mmray.models import weights
from mmray.specs import AudioSpec, FrameSpec, Gathered, Rows, Text, TextSpec

from .streams import frames, sound, split, wave

TEXTS = ["A bird.", "word " * 150, "Zwei Hunde bellen.", "x", "The rain in Spain stays mainly in the plain. " * 3]
SMALL = {"fps": 1, "side_px": 160, "fit": "letterbox", "interpolation": "linear"}  # real sizes are slow
SECONDS = (0.3, 0.975, 3.0, 2.1)


@dataclass(frozen=True)
class Case:
    """An extractor, its tiny checkpoint, and the settings that make it one of the cases."""

    name: str
    tiny: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    atol: float = 1e-5  # of a number of about 1: see tests.near

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.settings.values())])

    @property
    def has_precision(self) -> bool:
        return "precision" in registry.get(self.name).model_fields

    @property
    def has_vectors(self) -> bool:
        return registry.get(self.name)(**self.settings).kind not in (Kind.TEXT, Kind.DETECTIONS, Kind.DESCRIPTORS)


CASES = [
    Case("clap", "clap"),
    Case("clap", "clap_fused"),
    Case("clap", "clap", {"modality": "text"}),
    Case("clip", "clip"),
    Case("clip", "clip", {"modality": "text"}),
    Case("descriptors"),
    Case("distilbert", "distilbert"),
    Case("distilbert", "distilbert", {"token_pooling": "mean"}),
    Case("distilbert", "distilbert", {"token_pooling": "max"}),
    Case("logmel"),
    Case("pixels"),
    # A random detector keeps those of many nearly equal queries that rounding makes the largest: 2e-7 in each layer
    # is 1e-5 of D-FINE's scores, and 0.01 of RT-DETR's (measured), of which no number can be compared. The code is one.
    Case("rtdetr", "rtdetr", atol=np.inf),
    Case("rtdetr", "dfine", {"score_threshold": 0.4}, atol=1e-4),
    Case("sbert", "sbert"),
    Case("summary", "summary"),
    Case("transnetv2", "transnetv2"),
    Case("vggish", "vggish"),
    Case("videomae", "videomae"),
    Case("vitmae", "vitmae"),
    Case("vivit", "vivit"),
    Case("vivit", "vivit", {"tokens": True, "tokens_dtype": "float32"}),
    Case("waveform"),
    Case("whisper", "whisper"),
    Case("yamnet", "yamnet"),
    Case("yolo_onnx", "yolox"),
    Case("yolov7", "yolov7", {"frames": SMALL}),
    Case("zero_shot", "zero_shot", {"candidate_labels": ("bird", "dog", "rain")}),
]


@dataclass(frozen=True)
class Loaded:
    extractor: Extractor
    path: str | None
    atol: float

    def extract(self, items: list[Any], device: str = "cpu", **changes: Any) -> list[Rows | SampleError]:
        return list(self.extractor.model_copy(update=changes).load(device, self.path)(items))


def those(stream: type) -> pytest.MarkDecorator:
    """Parametrise a test over the extractors of one kind of stream."""
    cases = [case for case in CASES if isinstance(registry.get(case.name)(**case.settings).specs[0], stream)]
    return pytest.mark.parametrize("loaded", cases, indirect=True, ids=str)


@pytest.fixture(scope="module", params=CASES, ids=str)
def loaded(request, tiny):
    case = request.param
    kind = registry.get(case.name)
    if kind.extra is not None:
        pytest.importorskip(kind.extra[1])
    path = str(weights.resolve(str(tiny / case.tiny), kind.formats).path) if case.tiny else None
    extractor = kind(**case.settings)
    further = {name: getattr(extractor, name) for name in kind.companions}
    extractor = extractor.model_copy(update={name: str(tiny / value) for name, value in further.items() if value})
    return Loaded(extractor.resolved(path) if path else extractor, path, case.atol)


@pytest.fixture(scope="module")
def items(loaded):
    streams = [several(spec) for spec in loaded.extractor.specs]
    if not loaded.extractor.gather:
        return streams[0]
    if len(streams) == 1:
        (pictures,) = streams
        return [Gathered((pictures[:count],), 0.0, float(count), float(count)) for count in (20, 5, 1)]
    pictures, waves = streams
    return [
        Gathered((pictures, [waves[2]]), 0.0, 4.8, 4.8),
        Gathered((pictures[:5], []), 0.0, 1.2, 1.2),
        Gathered(([], [waves[0]]), 0.0, 0.3, 0.3),
    ]


@pytest.fixture(scope="module")
def results(loaded, items):
    return loaded.extract(items)


def several(spec: Any) -> list[Any]:
    if isinstance(spec, FrameSpec):
        return frames(spec, 20)
    if isinstance(spec, AudioSpec):
        sounds = [sound(seed, seconds, spec.rate_hz) for seed, seconds in enumerate(SECONDS)]
        # A sound without a window never comes here: decoding ends it.
        return [wave(spec, samples) for samples in sounds if spec.has_window(0, samples.size)]
    assert isinstance(spec, TextSpec)
    return [Text(text) for text in TEXTS]


def assert_same(found: list[Rows | SampleError], expected: list[Rows | SampleError], atol: float) -> None:
    assert len(found) == len(expected)
    if atol == np.inf:
        assert all(len(rows) for rows in [*found, *expected])
        return
    assert [len(rows) for rows in found] == [len(rows) for rows in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one.window) == list(other.window)
        assert list(one.start_s) == list(other.start_s)
        assert list(one.end_s) == list(other.end_s)
        assert one.columns.keys() == other.columns.keys()
        for name, column in one.columns.items():
            assert_column(column, other.columns[name], atol)


def assert_column(found: Any, expected: Any, atol: float) -> None:
    if len(found) and (isinstance(found[0], str) or None in list(found if isinstance(found, list) else [])):
        assert list(found) == list(expected)
    else:
        np.testing.assert_allclose(found, expected, atol=atol * max(1, np.abs(expected).max(initial=0)))


def test_every_built_in_extractor_has_a_case():
    assert {case.name for case in CASES} == set(registry.BUILT_IN)


def test_every_item_has_its_rows(loaded, items, results):
    assert len(results) == len(items)
    rows = sum(len(result) for result in results)
    assert rows > 0
    for item, result in zip(items, results, strict=True):
        assert isinstance(result, Rows)
        assert len(result.start_s) == len(result.end_s) == len(result.window)
        assert all(len(column) == len(result) for column in result.columns.values())
        if hasattr(item, "count"):
            windows = range(item.window, item.window + item.count)
            # Speech is where it is: a window of sound may have no text, or several.
            one_each = loaded.extractor.kind != Kind.TEXT
            assert list(result.window) == list(windows) if one_each else set(result.window) <= set(windows)
        if hasattr(item, "frame_s"):
            assert set(result.window) <= {item.window}


def test_windows_go_forward_in_time(results):
    for result in results:
        assert list(result.window) == sorted(result.window)
        for start_s, end_s in zip(result.start_s, result.end_s, strict=True):
            assert (start_s is None) == (end_s is None)
            assert start_s is None or 0 <= start_s < end_s


def test_columns_are_those_of_the_kind(loaded, results):
    dims = loaded.extractor.dims(loaded.path)
    expected = {
        Kind.EMBEDDING: {"embedding"},
        Kind.TOKENS: {"embedding", "token"},
        Kind.SCORES: {"scores"},
        Kind.TEXT: {"text", "language", "avg_logprob"},
        Kind.TAGS: {"scores", "embedding"},
        Kind.DETECTIONS: {"frame_s", "class_id", "class_name", "score", "x1", "y1", "x2", "y2"},
        Kind.DESCRIPTORS: set(getattr(loaded.extractor, "summary", ())),
    }[loaded.extractor.kind]
    for result in results:
        assert set(result.columns) == expected
        for name, length in dims.items():
            assert result.columns[name].shape == (len(result), length)
            assert result.columns[name].dtype == (np.float16 if loaded.extractor.half else np.float32)
            assert np.isfinite(result.columns[name]).all()
    if "scores" in dims:
        assert len(loaded.extractor.labels(loaded.path)) == dims["scores"]


def test_neighbours_in_a_batch_change_nothing(loaded, items, results):
    extract = loaded.extractor.load("cpu", loaded.path)
    alone = [result for item in items for result in extract([item])]
    assert_same(results, alone, loaded.atol)


def test_the_batch_size_changes_nothing(loaded, items, results):
    assert_same(loaded.extract(items, batch_size=1), results, loaded.atol)


def test_loading_twice_gives_the_same_numbers(loaded, items, results):
    """As near as neighbours leave them: the weights of a second load lie elsewhere in memory (see tests.near)."""
    assert_same(loaded.extract(items), results, loaded.atol)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "loaded", [case for case in CASES if case.has_precision and case.has_vectors], indirect=True, ids=str
)
def test_lower_precision_is_near(loaded, items, results, precision):
    for coarse, exact in zip(loaded.extract(items, precision=precision), results, strict=True):
        for name in loaded.extractor.dims(loaded.path):
            found, expected = coarse.columns[name], exact.columns[name]
            assert found.dtype == expected.dtype
            assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_nothing_in_nothing_out(loaded):
    assert loaded.extract([]) == []


@those(AudioSpec)
def test_a_cut_through_the_sound_changes_nothing(loaded):
    (spec,) = loaded.extractor.specs
    samples = sound(7, max(6.0, 3.5 * spec.hop_s), spec.rate_hz)
    (whole,) = loaded.extract([wave(spec, samples)])
    parts = loaded.extract(split(spec, samples, at=[2, 3]))
    assert [window for part in parts for window in part.window] == list(whole.window)
    assert [end for part in parts for end in part.end_s][-1] == whole.end_s[-1]
    for name, column in whole.columns.items():
        assert_column(np.concatenate([part.columns[name] for part in parts]), column, atol=1e-5)


@those(TextSpec)
def test_an_empty_text_is_skipped_alone(loaded):
    found = loaded.extract([Text("a dog"), Text(" \n\t"), Text("a cat")])
    assert [getattr(result, "reason", None) for result in found] == [None, Reason.NO_TEXT, None]
    assert found[1].status == "skipped"


def test_a_configuration_is_a_value(loaded):
    extractor = loaded.extractor
    assert hash(extractor) == hash(extractor.model_copy())
    assert type(extractor).model_validate(extractor.model_dump()) == extractor
    assert type(extractor).model_validate_json(extractor.model_dump_json()) == extractor
    with pytest.raises(ValidationError):
        extractor.batch_size = 3
    with pytest.raises(ValidationError, match="colour"):
        type(extractor)(colour=1)
    assert set(extractor.pooling) <= set(extractor.poolings)


def test_every_extractor_says_why_it_skips_and_fails():
    for name in registry.BUILT_IN:
        text = registry.get(name).__doc__ or ""
        assert "Skipped:" in text, name
        assert "Failed:" in text, name


def test_importing_them_all_is_light():
    settings = {case.name: case.settings for case in CASES}
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'onnxruntime', 'h5py', 'torchaudio'}"
    code = f"""
import sys
from mmray.extractors import registry
for name in registry.names():
    extractor = registry.get(name)(**{settings}.get(name, {{}}))
    extractor.specs, extractor.whole_sample, extractor.labels(None)
print({heavy} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
