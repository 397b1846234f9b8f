import csv
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmray.errors import Reason, SampleError
from mmray.media.decode import decode
from mmray.media.probe import probe
from mmray.specs import AudioSpec, FrameSpec
from tests.media.making import grey, make, noisy, tone

EVERY = FrameSpec(every=1, side_px=32, fit="squash")
SOUND = AudioSpec(window_s=1, hop_s=1)


def run(uri, specs=(EVERY, SOUND), *args, **kwargs):
    decoding = decode(str(uri), specs, *args, **kwargs)
    items = list(decoding)
    return items, decoding


def refused(uri):
    with pytest.raises(SampleError) as error:
        run(uri)
    with pytest.raises(SampleError) as probed:
        probe(str(uri))
    assert probed.value.reason is error.value.reason
    return error.value


@pytest.fixture
def medium(tmp_path):
    return Path(make(tmp_path / "a.mp4", [noisy(i) for i in range(50)], sound=tone(5, 16_000), sound_codec="aac"))


def test_a_missing_file_is_named(tmp_path):
    error = refused(tmp_path / "none.mp4")
    assert error.reason is Reason.MISSING_FILE and "none.mp4" in error.detail


def test_a_folder_cannot_be_read(tmp_path):
    assert refused(tmp_path).reason is Reason.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_denied(medium):
    medium.chmod(0)
    assert refused(medium).reason is Reason.ACCESS_DENIED


def test_a_door_that_says_permission_denied_is_access_denied(medium, monkeypatch):
    def denied(uri):
        raise PermissionError(13, "denied", uri)

    monkeypatch.setattr("mmray.storage.open_read", denied)
    assert refused(medium).reason is Reason.ACCESS_DENIED


def test_a_file_of_no_bytes_is_empty(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    assert refused(tmp_path / "a.mp4").reason is Reason.EMPTY


def test_text_is_unsupported(tmp_path):
    (tmp_path / "a.mp4").write_text("<html>404</html>" * 40)
    assert refused(tmp_path / "a.mp4").reason is Reason.UNSUPPORTED


def test_a_drawing_that_nothing_here_decodes_is_unsupported(tmp_path):
    (tmp_path / "a.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert refused(tmp_path / "a.png").reason is Reason.UNSUPPORTED


def test_a_film_cut_before_its_index_is_truncated(medium):
    medium.write_bytes(medium.read_bytes()[:3000])
    error = refused(medium)
    assert error.reason is Reason.TRUNCATED and "moov" in error.detail


def test_a_film_cut_in_the_middle_is_partial_and_what_there_is_is_right(tmp_path):
    frames = [noisy(i) for i in range(50)]
    whole = make(tmp_path / "whole.mp4", frames, muxing={"movflags": "faststart"})
    items, _ = run(whole, [EVERY])
    data = Path(whole).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    some, decoding = run(tmp_path / "cut.mp4", [EVERY])
    outcome = decoding.outcomes[EVERY]
    assert (outcome.status, outcome.reason) == ("partial", Reason.TRUNCATED)
    assert 10 < len(some) < 50 and outcome.frames == len(some)
    assert all((a.image == b.image).all() for (_, a), (_, b) in zip(some[:-1], items, strict=False))
    beyond, decoding = run(tmp_path / "cut.mp4", [EVERY], 4.8, None)
    assert not beyond and decoding.outcomes[EVERY].status in ("failed", "partial")
    assert decoding.outcomes[EVERY].reason is Reason.TRUNCATED


@pytest.mark.parametrize("suffix, status, count", [("jpg", "partial", 1), ("png", "failed", 0)])
def test_a_cut_picture_is_not_ok(tmp_path, suffix, status, count):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noisy(0, 320, 240)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    items, decoding = run(path, [EVERY])
    assert len(items) == count
    assert (decoding.outcomes[EVERY].status, decoding.outcomes[EVERY].reason) == (status, Reason.CORRUPT)


def test_uniform_frames_behind_a_cut_are_missing_and_said(tmp_path):
    whole = make(tmp_path / "whole.mp4", [noisy(i) for i in range(50)], muxing={"movflags": "faststart"})
    data = Path(whole).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    spec = FrameSpec(uniform=10, side_px=16)
    items, decoding = run(tmp_path / "cut.mp4", [spec])
    assert 2 < len(items) < 10
    assert (decoding.outcomes[spec].status, decoding.outcomes[spec].reason) == ("partial", Reason.TRUNCATED)


def test_flipped_bits_are_partial_and_the_decoder_is_quoted(tmp_path):
    frames = [noisy(i) for i in range(100)]
    options = {"x264-params": "keyint=10"}
    path = Path(make(tmp_path / "a.mp4", frames, options=options, muxing={"movflags": "faststart"}))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data) // 3, len(data), 60):
        data[at] ^= 0xFF
    path.write_bytes(data)
    items, decoding = run(path, [EVERY])
    outcome = decoding.outcomes[EVERY]
    assert (outcome.status, outcome.reason) == ("partial", Reason.CORRUPT)
    assert "h264" in outcome.detail and len(items) > 20


def test_damage_counts_in_its_own_segment_only(tmp_path):
    options = {"x264-params": "keyint=10"}
    path = Path(make(tmp_path / "a.mp4", [noisy(i) for i in range(100)], options=options))
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 2
    for at in range(middle, middle + 400, 7):
        data[at] ^= 0xFF
    path.write_bytes(data)
    for spec in (EVERY, FrameSpec(fps=10, side_px=32, before=60, after=60)):  # its context reaches into the damage
        segments = ((0, 1.92), (1.92, 7.68), (7.68, None))
        statuses = [run(path, [spec], start_s, end_s)[1].outcomes[spec].status for start_s, end_s in segments]
        assert statuses == ["ok", "partial", "ok"]


def test_a_segment_ahead_of_where_a_film_was_cut_is_ok_though_its_context_is_missing(tmp_path):
    whole = make(tmp_path / "whole.mp4", [noisy(i) for i in range(50)], muxing={"movflags": "faststart"})
    data = Path(whole).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    spec = FrameSpec(fps=10, side_px=32, after=60)
    items, decoding = run(tmp_path / "cut.mp4", [spec], 0.0, 1.92)
    assert 20 < len(items) < 50
    assert (decoding.outcomes[spec].status, decoding.outcomes[spec].frames) == ("ok", 20)


@pytest.mark.parametrize(
    "name", ["a%03d.mp4", "a:b.mp4", "-i.mp4", 'it\'s "q".mp4', "ünï 🎬.mp4", "a*.mp4", "a#?b.mp4"]
)
def test_any_name_opens(tmp_path, name):
    uri = make(tmp_path / "plain.mp4", [grey(3)] * 3)
    path = tmp_path / name
    Path(uri).rename(path)
    assert len(run(path, [EVERY])[0]) == 3
    assert probe(str(path)).codecs == "h264"


def test_remote_media_go_through_the_same_door(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    data = Path(make(tmp_path / "a.mp4", [grey(3)] * 3)).read_bytes()
    fsspec.filesystem("memory").pipe("/bucket/a b%d.mp4", data)
    assert len(run("memory://bucket/a b%d.mp4", [EVERY])[0]) == 3


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{uri}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile '{uri}'\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_playlists_reach_no_other_file(tmp_path, name, text):
    uri = make(tmp_path / "secret.ts", [grey(3)] * 30)
    (tmp_path / name).write_text(text.format(uri=uri))
    assert refused(tmp_path / name).reason is Reason.UNSUPPORTED


def test_nothing_is_opened_before_it_is_asked_for(tmp_path):
    decoding = decode(str(tmp_path / "none.mp4"), [EVERY])
    with pytest.raises(SampleError):
        next(decoding)


def test_closing_early_gives_the_file_back(medium):
    decoding = decode(str(medium), [EVERY])
    next(decoding)
    decoding.close()
    open_files = [Path(link).readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert medium not in open_files


def test_decoding_in_threads_gives_the_same_and_blames_the_right_file(tmp_path, capfd):
    clean = make(tmp_path / "clean.mp4", [noisy(i) for i in range(60)])
    broken = Path(make(tmp_path / "broken.mp4", [noisy(i) for i in range(60)]))
    data = bytearray(broken.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    for at in range(middle, middle + 300, 7):
        data[at] ^= 0xFF
    broken.write_bytes(data)
    reference = {uri: run(uri, [EVERY]) for uri in (clean, str(broken))}
    seen = []

    def work(uri):
        seen.extend((uri, run(uri, [EVERY])) for _ in range(5))

    threads = [threading.Thread(target=work, args=(uri,)) for uri in (clean, str(broken)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 20
    for uri, (items, decoding) in seen:
        assert decoding.outcomes == reference[uri][1].outcomes
        assert all((a.image == b.image).all() for (_, a), (_, b) in zip(items, reference[uri][0], strict=True))
    assert capfd.readouterr().err == ""


def expected():
    folder = Path(os.environ.get("MMRAY_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    table = folder / "EXPECTED_awkward.csv"
    if not table.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no {table}"))]
    with table.open(newline="") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file)]


# One second of silence in front, less the 1058 samples that AAC's priming reaches ahead of it.
LATE = {"video/awkward/derived/audio_starts_1s_late.mp4": 43_042}


@pytest.mark.parametrize("row", expected())
def test_awkward_media_end_as_they_should(test_data, row):
    path = test_data / row["file"]
    reasons = {reason for reason in row["expected_reasons"].split("|") if reason}
    try:
        track = probe(str(path))
        rate_hz = native_rate(path) if track.audio_tracks else 16_000
        sound = AudioSpec(rate_hz=rate_hz, window_s=1, hop_s=1)
        items, decoding = run(path, [EVERY, sound])
    except SampleError as error:
        assert "failed" in row["expected_status"] and error.reason in reasons and error.detail
        return
    frames = sum(spec is EVERY for spec, _ in items)
    samples = sum(item.samples.size for spec, item in items if spec is sound)
    due_frames = int(row["video_frames"])
    due_samples = int(row["audio_samples"]) + LATE.get(row["file"], 0)
    present = [o for o in decoding.outcomes.values() if o.reason not in (Reason.NO_VIDEO, Reason.NO_AUDIO)]
    if row["damaged"] == "1":
        assert frames >= due_frames and samples >= due_samples
    else:
        assert (frames, samples) == (due_frames, due_samples)
    statuses = row["expected_status"].split("|")
    assert all(o.status in statuses for o in present)
    assert all((o.reason is None) == (o.status == "ok") and (o.status == "ok" or o.detail) for o in present)
    assert not reasons or all(o.reason in reasons for o in present if o.status == "failed")


def native_rate(path):
    import av

    with av.open(str(path)) as container:
        return container.streams.audio[0].rate
