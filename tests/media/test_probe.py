from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mmray.media.probe import probe
from tests.media.making import grey, make, noisy, tone


def test_a_film_is_described(tmp_path):
    stereo = np.repeat(tone(4, 44_100), 2, axis=0)
    uri = make(
        tmp_path / "a.mp4", [noisy(i) for i in range(40)], sound=stereo, sound_codec="aac", rate_hz=44_100,
        rotation=(-90, False, False), aspect=Fraction(2, 1),
    )  # fmt: skip
    found = probe(uri)
    assert (found.codecs, found.fps, found.variable_fps) == ("h264,aac", 10.0, False)
    assert (found.width, found.height, found.rotation) == (48, 128, 90)
    assert (found.audio_tracks, found.channels, found.exact_index) == (1, 2, True)
    assert found.duration_s == pytest.approx(4.0, abs=0.03)


def test_sound_alone_has_no_picture(tmp_path):
    found = probe(make(tmp_path / "a.wav", sound=tone(2, 16_000), sound_codec="pcm_s16le"))
    assert (found.codecs, found.width, found.fps, found.variable_fps, found.rotation) == ("pcm_s16le", *[None] * 4)
    assert (found.duration_s, found.channels, found.exact_index) == (2.0, 1, True)


def test_a_still_image_has_no_duration(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    found = probe(str(tmp_path / "a.jpg"))
    assert (found.duration_s, found.fps, found.variable_fps) == (None, None, None)
    assert (found.codecs, found.width, found.height) == ("mjpeg", 30, 20)


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_a_duration_that_the_header_lacks_is_found(tmp_path, suffix):
    codec = {"mkv": "libx264", "webm": "libvpx"}[suffix]
    live = {"live": "1"}
    options = {} if codec == "libx264" else {"deadline": "realtime"}
    uri = make(tmp_path / f"a.{suffix}", [noisy(i) for i in range(50)], codec=codec, options=options, muxing=live)
    with av.open(uri) as container:
        assert container.duration is None
    assert probe(uri).duration_s == pytest.approx(5.0, abs=0.11)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_varying_frame_rate_is_seen(tmp_path, suffix, uneven):
    pts = np.cumsum([1 + 3 * (uneven and i % 5 == 0) for i in range(60)]) - 1
    uri = make(tmp_path / f"a.{suffix}", [grey(i) for i in range(60)], fps=24, pts=[int(p) for p in pts])
    assert probe(uri).variable_fps is uneven


def test_vfr_films_are_seen_and_others_are_not(test_data):
    folder = test_data / "video/awkward"
    assert probe(str(folder / "derived/vfr.mp4")).variable_fps is True
    assert probe(str(folder / "derived/vfr.mkv")).variable_fps is True
    for name in ("derived/two_frames_0fps_like.mp4", "derived/vp9_opus.webm", "moviepy/smpte-2997.mp4"):
        assert probe(str(folder / name)).variable_fps is False


def test_cover_art_is_no_video(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cover.jpg")
    path = str(tmp_path / "a.mp3")
    wave = make(tmp_path / "a.wav", sound=tone(1, 44_100), rate_hz=44_100, sound_codec="pcm_s16le")
    with av.open(path, "w") as output, av.open(wave) as given, av.open(str(tmp_path / "cover.jpg")) as cover:
        sound = output.add_stream("mp3", rate=44_100)
        picture = output.add_stream_from_template(cover.streams.video[0])
        picture.disposition = 1 << 10
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = picture
                output.mux(packet)
        for frame in given.decode(audio=0):
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    found = probe(path)
    with av.open(path) as container:
        assert len(container.streams.video) == 1
    assert (found.codecs, found.width) == ("mp3", None)
