import av
import numpy as np
import pytest

from mmray.errors import Reason
from mmray.media.decode import decode
from mmray.specs import FrameSpec
from tests.media.making import grey, make, noisy, number


def frames(uri, spec, *args, **kwargs):
    decoding = decode(uri, [spec], *args, **kwargs)
    return [item for _, item in decoding], decoding


def shown(uri, spec, *args, **kwargs):
    return [(frame.window, number(frame.image, frame.window)) for frame in frames(uri, spec, *args, **kwargs)[0]]


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """40 frames at 10 fps, 4 s."""
    return make(tmp_path_factory.mktemp("steady") / "a.mp4", [grey(i) for i in range(40)])


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def uneven(request, tmp_path_factory):
    """Frames at 0, 0.1, 1.0, 1.05, 2.5 and 2.6 s."""
    path = tmp_path_factory.mktemp("uneven") / f"a.{request.param}"
    return make(path, [grey(i) for i in range(6)], fps=20, pts=[0, 2, 20, 21, 50, 52])


def test_every_counts_presented_frames(steady):
    items, _ = frames(steady, FrameSpec(every=7, side_px=16))
    assert [(f.window, number(f.image, f.window * 7)) for f in items] == [(k, 7 * k) for k in range(6)]
    assert [f.start_s for f in items] == pytest.approx([0.7 * k for k in range(6)])
    assert items[-1].end_s == pytest.approx(3.6)


def test_a_grid_shows_what_is_on_screen(uneven):
    # at 0, 0.5, 1, 1.5, 2, 2.5 s
    assert shown(uneven, FrameSpec(fps=2, side_px=16)) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4)]


def test_a_long_frame_serves_many_grid_points_with_its_own_time(uneven):
    items, _ = frames(uneven, FrameSpec(fps=10, side_px=16))
    assert [f.window for f in items] == list(range(27))
    assert {round(f.frame_s, 3) for f in items[11:25]} == {1.05}
    assert items[12].start_s == pytest.approx(1.2) and items[12].end_s == pytest.approx(1.3)


def test_a_point_a_millisecond_ahead_of_a_frame_is_that_frames(tmp_path):
    uri = make(tmp_path / "a.mkv", [grey(i) for i in range(4)], fps=1000, pts=[0, 920, 961, 1000])
    found = shown(uri, FrameSpec(fps=25, side_px=16))  # 0.961 - 0.96 is more than 0.001 in floating point
    assert found[22:] == [(22, 0), (23, 1), (24, 2)]


def test_every_point_of_a_grid_on_real_times_in_milliseconds_is_served(test_data):
    uri = str(test_data / "video" / "awkward" / "moviepy" / "big_buck_bunny_0_30.webm")  # 30 s, 24 fps
    with av.open(uri) as container:
        stream = container.streams.video[0]
        times = sorted({float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.size})
    items, _ = frames(uri, FrameSpec(fps=25, side_px=16))
    assert [f.window for f in items] == list(range(751))
    expected = [max([time for time in times if time <= k / 25 + 0.00100001], default=times[0]) for k in range(751)]
    assert [f.frame_s for f in items] == pytest.approx(expected, abs=1e-6)
    assert len({f.frame_s for f in items}) == len(times) == 720  # a finer grid than the film's leaves out no frame


def test_every_ends_where_the_next_frame_begins(uneven):
    items, _ = frames(uneven, FrameSpec(every=1, side_px=16))
    assert [f.end_s for f in items[:-1]] == pytest.approx([f.start_s for f in items[1:]])


def test_grid_points_behind_the_end_give_nothing(steady):
    assert [window for window, _ in shown(steady, FrameSpec(fps=3, side_px=16))] == list(range(12))


def test_the_grid_is_that_of_the_sample_in_every_segment(steady):
    spec = FrameSpec(fps=3, side_px=16)
    assert shown(steady, spec, 1.0, 2.0) == [(3, 10), (4, 13), (5, 16)]


def test_context_repeats_the_segment_before_and_is_not_counted(steady):
    items, decoding = frames(steady, FrameSpec(fps=5, side_px=16, before=2), 2.0, 3.0)
    assert [f.window for f in items] == list(range(8, 15))
    assert [number(f.image, 20) for f in items] == [16, 18, 20, 22, 24, 26, 28]
    assert next(iter(decoding.outcomes.values())).frames == 5


def test_context_behind_is_the_start_of_the_next_segment_and_is_not_counted(steady):
    items, decoding = frames(steady, FrameSpec(fps=5, side_px=16, before=1, after=2), 2.0, 3.0)
    assert [(f.window, number(f.image, 25)) for f in items] == [(k, 2 * k) for k in range(9, 17)]
    assert next(iter(decoding.outcomes.values())).frames == 5


def test_there_is_no_context_beyond_the_ends(steady):
    spec = FrameSpec(fps=5, side_px=16, before=4, after=4)
    assert shown(steady, spec, 0.4, 0.8)[0] == (0, 0)
    assert shown(steady, spec, 3.0, 3.6)[-1] == (19, 38)
    assert shown(steady, spec, 2.0, 2.4, limit_s=2.8)[-1] == (13, 26)
    assert shown(steady, spec, 2.4, None, limit_s=2.8)[-1] == (13, 26)


def test_what_is_not_asked_for_is_not_written_down():
    plain = FrameSpec(fps=5).model_dump()
    assert plain == FrameSpec(fps=5, after=0, height_px=None).model_dump()
    assert {"after", "height_px"}.isdisjoint(plain)  # or the ids of all extractors would change
    wide = FrameSpec(fps=5, after=3, height_px=9, fit="squash")
    assert FrameSpec.model_validate_json(wide.model_dump_json()) == wide


def test_the_first_frame_stands_in_for_a_late_start(tmp_path):
    late = {"sound": np.zeros((1, 32_000), np.float32), "muxing": {"avoid_negative_ts": "disabled"}}
    near = make(tmp_path / "near.mkv", [grey(i) for i in range(20)], pts=range(4, 24), **late)
    assert shown(near, FrameSpec(fps=10, side_px=16))[:6] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 1)]
    far = make(tmp_path / "far.mkv", [grey(i) for i in range(20)], pts=range(8, 28), **late)
    assert shown(far, FrameSpec(fps=2, side_px=16))[0] == (1, 0)


def test_uniform_shows_the_middles(steady):
    items, _ = frames(steady, FrameSpec(uniform=8, side_px=16))
    assert [number(f.image, 5 * f.window) for f in items] == [2, 7, 12, 17, 22, 27, 32, 37]
    assert [f.start_s for f in items] == pytest.approx([0.5 * k for k in range(8)])


def test_uniform_repeats_where_frames_are_few(steady):
    assert len(frames(steady, FrameSpec(uniform=100, side_px=16))[0]) == 100


def test_uniform_takes_the_stretch_of_the_sample(steady):
    items, _ = frames(steady, FrameSpec(uniform=2, side_px=16), offset_s=1.0, limit_s=2.0)
    assert [(number(f.image, 12), f.start_s) for f in items] == [(12, 0.0), (17, 0.5)]


def test_a_sample_is_a_part_of_its_medium(steady):
    items, decoding = frames(steady, FrameSpec(every=2, side_px=16), offset_s=1.05, limit_s=2.0)
    assert [(f.window, number(f.image, 12)) for f in items] == [(0, 11), (1, 13), (2, 15), (3, 17), (4, 19)]
    assert items[0].start_s == pytest.approx(0.05)
    assert decoding.duration_s == pytest.approx(0.95)


def test_the_last_segment_runs_to_the_end_of_the_stream(steady):
    _, decoding = frames(steady, FrameSpec(fps=1, side_px=16), 2.0, None, duration_s=2.5)
    assert decoding.duration_s == pytest.approx(4.0)
    assert next(iter(decoding.outcomes.values())).media_s == pytest.approx(2.0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_still_image_is_one_grid_point(tmp_path, suffix):
    from PIL import Image

    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey(9)).save(path)
    assert shown(str(path), FrameSpec(fps=100, side_px=16)) == [(0, 9)]
    assert shown(str(path), FrameSpec(every=1, side_px=16)) == [(0, 9)]
    assert shown(str(path), FrameSpec(fps=1, side_px=16), 1.0, None) == []
    assert shown(str(path), FrameSpec(uniform=3, side_px=16)) == [(0, 9), (1, 9), (2, 9)]


def test_representatives_are_one_of_each_kind_in_time_order(tmp_path):
    uri = make(tmp_path / "a.mp4", [grey(n) for n in (5, 40, 20) for _ in range(10)])
    items, _ = frames(uri, FrameSpec(representative=3, candidates=30, side_px=16))
    assert [number(f.image, 25) for f in items] == [5, 40, 20]
    assert [f.window for f in items] == [0, 1, 2]
    assert [f.frame_s for f in items] == sorted(f.frame_s for f in items)


def test_representatives_of_a_frozen_picture_are_repeated(tmp_path):
    uri = make(tmp_path / "a.mp4", [grey(5)] * 10)
    items, _ = frames(uri, FrameSpec(representative=4, candidates=8, side_px=16))
    assert [number(f.image) for f in items] == [5] * 4


def test_one_pass_feeds_every_spec_the_same_as_alone(steady):
    specs = [FrameSpec(every=3, side_px=16), FrameSpec(fps=2, side_px=24), FrameSpec(uniform=5, side_px=20)]
    together = {spec: [] for spec in specs}
    for spec, item in decode(steady, specs):
        together[spec].append(item)
    for spec in specs:
        alone, _ = frames(steady, spec)
        assert [f.window for f in together[spec]] == [f.window for f in alone]
        assert all((a.image == b.image).all() for a, b in zip(together[spec], alone, strict=True))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_seeking_ahead_changes_nothing_but_the_work(tmp_path, suffix, monkeypatch):
    options = {"x264-params": "keyint=25:bframes=3"}
    uri = make(tmp_path / f"a.{suffix}", [noisy(i) for i in range(400)], fps=25, options=options)
    spec = FrameSpec(uniform=5, side_px=32)
    decoded = []
    from mmray.media import video

    arrived = video.VideoTrack._arrived
    monkeypatch.setattr(video.VideoTrack, "_arrived", lambda self, frame: (decoded.append(1), arrived(self, frame))[1])
    sparse, _ = frames(uri, spec)
    few = len(decoded)
    monkeypatch.setattr(video.VideoTrack, "allow_leaps", lambda self: None)
    full, _ = frames(uri, spec)
    assert few < 0.5 * (len(decoded) - few)
    assert all((a.image == b.image).all() and a.frame_s == b.frame_s for a, b in zip(sparse, full, strict=True))


def test_black_and_frozen_are_flags(tmp_path):
    black = make(tmp_path / "black.mp4", [np.full((32, 32, 3), 5, np.uint8)] * 5)
    _, decoding = frames(black, FrameSpec(every=1, side_px=16, fit="letterbox"))
    assert (decoding.flags.black, decoding.flags.frozen, decoding.flags.silent) == (True, True, None)
    moving = make(tmp_path / "moving.mp4", [grey(i) for i in range(5)])
    _, decoding = frames(moving, FrameSpec(every=1, side_px=16))
    assert (decoding.flags.black, decoding.flags.frozen) == (False, False)
    _, decoding = frames(moving, FrameSpec(every=5, side_px=16))
    assert decoding.flags.frozen is None


def test_a_sound_file_has_no_video(tmp_path):
    uri = make(tmp_path / "a.flac", sound=np.zeros((1, 1600), np.float32))
    spec = FrameSpec(fps=1)
    _, decoding = frames(uri, spec)
    assert (decoding.outcomes[spec].status, decoding.outcomes[spec].reason) == ("skipped", Reason.NO_VIDEO)
