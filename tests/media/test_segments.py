"""The result does not depend on the cut."""

import numpy as np
import pytest

from mmray.media import decode as decoding
from mmray.media.decode import decode
from mmray.media.probe import probe
from mmray.specs import AudioSpec, FrameSpec
from tests.media.making import make, noisy, tone

FRAMES = [
    FrameSpec(every=3, side_px=32, fit="squash"),
    FrameSpec(fps=4, side_px=24, before=2, after=3),
    FrameSpec(fps=0.7, side_px=24, fit="letterbox"),
]
SOUNDS = [AudioSpec(hop_s=0.48), AudioSpec(rate_hz=44_100, window_s=0.5, hop_s=0.5, tail="drop")]
CUTS = [0.0, 2.4, 4.8, 7.2, 9.6]
OPEN = {"x264-params": "keyint=30:min-keyint=30:open-gop=1:bframes=3:scenecut=0"}
HEVC = {"x265-params": "keyint=30:min-keyint=30:open-gop=1:bframes=4:scenecut=0:log-level=none"}

VP8 = {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "30"}
CLOSED = {"x264-params": "keyint=50:bframes=2"}

# suffix, video codec and options, sound codec, rate, whether pictures and sound are entered in the middle
KINDS = {
    "open_gop_h264_flac": (".mp4", "libx264", OPEN, "flac", 44_100, True, True),
    "open_gop_hevc_opus": (".mp4", "libx265", HEVC, "libopus", 48_000, True, True),
    "h264_aac": (".mp4", "libx264", CLOSED, "aac", 44_100, True, False),
    "h264_mp3": (".mp4", "libx264", CLOSED, "mp3", 44_100, True, True),
    "interlaced": (".mp4", "libx264", {"x264-params": "tff=1:keyint=30"}, "alac", 44_100, True, True),
    "open_gop_mkv": (".mkv", "libx264", OPEN, "libopus", 48_000, True, False),
    "vp9": (".webm", "libvpx-vp9", VP9, "libopus", 48_000, True, False),
    "vp8_hides_frames": (".webm", "libvpx", VP8, "libopus", 48_000, False, False),
    "transport_stream": (".ts", "libx264", {"x264-params": "keyint=30"}, "aac", 44_100, None, None),
    "avi": (".avi", "mpeg4", {"g": "30"}, "mp3", 44_100, None, None),
}


@pytest.fixture(scope="module", params=KINDS)
def medium(request, tmp_path_factory):
    suffix, codec, options, sound_codec, rate_hz, *entered = KINDS[request.param]
    path = tmp_path_factory.mktemp("segments") / f"a{suffix}"
    pictures = [noisy(i) for i in range(300)]
    sound = tone(12, rate_hz)
    uri = make(
        path, pictures, fps=25, codec=codec, options=options, sound=sound, sound_codec=sound_codec, rate_hz=rate_hz
    )
    return uri, entered


def decoded(uri, start_s=0.0, end_s=None, **kwargs):
    streams = {spec: [] for spec in [*FRAMES, *SOUNDS]}
    run = decode(uri, list(streams), start_s, end_s, **kwargs)
    for spec, item in run:
        streams[spec].append(item)
    return streams, run


def windows(waves, spec):
    return {
        wave.window + k: wave.samples[k * spec.hop : k * spec.hop + spec.window]
        for wave in waves
        for k in range(wave.count)
    }


@pytest.mark.parametrize("offset_s, limit_s", [(0.0, None), (1.3, 11.0)])
def test_segments_joined_are_the_whole(medium, offset_s, limit_s):
    uri, _ = medium
    whole, run = decoded(uri, offset_s=offset_s, limit_s=limit_s)
    joined = {spec: [] for spec in whole}
    for start_s, end_s in zip(CUTS, [*CUTS[1:], None], strict=True):
        part, segment = decoded(uri, start_s, end_s, offset_s=offset_s, limit_s=limit_s)
        assert {outcome.status for outcome in segment.outcomes.values()} == {"ok"}
        for spec, items in part.items():
            known = {frame.window: frame for frame in joined[spec]} if isinstance(spec, FrameSpec) else {}
            for item in items:
                if item.window in known:  # context: the same as in the segment before
                    assert (known[item.window].image == item.image).all()
                else:
                    joined[spec].append(item)
    for spec in FRAMES:
        facts = [(f.window, f.start_s, f.end_s, f.frame_s) for f in joined[spec]]
        assert facts == [(f.window, f.start_s, f.end_s, f.frame_s) for f in whole[spec]]
        assert all((a.image == b.image).all() for a, b in zip(joined[spec], whole[spec], strict=True))
    for spec in SOUNDS:
        parts, all_at_once = windows(joined[spec], spec), windows(whole[spec], spec)
        assert parts.keys() == all_at_once.keys() and parts
        for key, samples in parts.items():
            np.testing.assert_allclose(samples, all_at_once[key], atol=1e-5)
    assert segment.duration_s == pytest.approx(run.duration_s)


def test_context_is_the_neighbours_frames_and_nothing_else(medium):
    uri, _ = medium
    spec = FrameSpec(fps=12.5, side_px=48, height_px=27, fit="squash", before=75, after=74)
    limit_s = 11.04
    whole = [frame for _, frame in decode(uri, [spec], limit_s=limit_s)]
    assert [frame.window for frame in whole] == list(range(138))
    for start_s, end_s in zip(CUTS, [*CUTS[1:], None], strict=True):
        segment = decode(uri, [spec], start_s, end_s, limit_s=limit_s)
        frames = [frame for _, frame in segment]
        first, stop = round(start_s * 12.5), 138 if end_s is None else round(end_s * 12.5)
        expected = whole[max(0, first - 75) : stop + (0 if end_s is None else 74)]
        assert [frame.window for frame in frames] == [frame.window for frame in expected]
        assert all((a.image == b.image).all() for a, b in zip(frames, expected, strict=True))
        outcome = segment.outcomes[spec]
        assert (outcome.status, outcome.frames) == ("ok", stop - first)
        assert outcome.media_s == pytest.approx((limit_s if end_s is None else end_s) - start_s)


def test_exact_containers_are_entered_in_the_middle(medium, monkeypatch):
    uri, (video, sound) = medium
    found = {}

    def watch(name):
        original = getattr(decoding, name)

        def watched(*args):
            found[name] = original(*args)
            return found[name]

        monkeypatch.setattr(decoding, name, watched)

    watch("enter_video")
    watch("to_sound")
    decoded(uri, 7.2, 9.6)
    assert (bool(found["enter_video"]) if "enter_video" in found else None) == video
    assert found.get("to_sound") == sound
    assert probe(uri).exact_index == (video is not None)


def test_pcm_is_entered_at_the_very_sample(tmp_path, monkeypatch):
    uri = make(tmp_path / "a.wav", sound=tone(12, 44_100), sound_codec="pcm_s16le", rate_hz=44_100)
    whole = windows([w for _, w in decode(uri, [SOUNDS[0]])], SOUNDS[0])
    part = windows([w for _, w in decode(uri, [SOUNDS[0]], 4.8, 7.2)], SOUNDS[0])
    assert list(part) == [10, 11, 12, 13, 14]
    for key, samples in part.items():
        np.testing.assert_array_equal(samples, whole[key])
