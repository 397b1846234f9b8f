"""Sound without an exact index: segments enter in the middle, and hold the samples of a plain decode."""

import itertools
import random
from pathlib import Path

import av
import numpy as np
import pytest

from mmray.errors import SampleError
from mmray.media import decode as decoding
from mmray.media import probe as probing
from mmray.media import sound_entry
from mmray.media.decode import decode
from mmray.media.probe import probe_for_segments
from mmray.media.sound_entry import build
from mmray.media.sound_index import entries_before
from mmray.media.source import Source
from mmray.specs import AudioSpec, FrameSpec
from tests.media.making import grey, make, tone

RATE_HZ = 16_000
LENGTH_S = 60
SPECS = [AudioSpec(hop_s=0.48), AudioSpec(rate_hz=44_100, window_s=0.5, hop_s=0.5, tail="drop")]
CUTS = [0.0, 14.4, 28.8, 43.2]
VBR = {"flags": "+qscale", "global_quality": "472"}
PLAIN_AAC = {"b": "64000", "aac_pns": "0"}
SIDX = {"movflags": "empty_moov+dash+global_sidx", "frag_duration": "5000000"}

# suffix, codec, options of the encoder, rate, options of the muxer
KINDS = {
    "mp3": (".mp3", "libmp3lame", {"b": "64000"}, 44_100, {}),
    "mp3_vbr": (".mp3", "libmp3lame", VBR, RATE_HZ, {}),
    "mp3_without_xing": (".mp3", "libmp3lame", {"b": "32000"}, RATE_HZ, {"write_xing": "0"}),
    "mp3_8_kbit": (".mp3", "libmp3lame", {"b": "8000"}, RATE_HZ, {}),
    "flac": (".flac", "flac", {}, RATE_HZ, {}),
    "adts": (".aac", "aac", PLAIN_AAC, RATE_HZ, {}),
    "ogg_opus": (".ogg", "libopus", {}, RATE_HZ, {}),
    "ogg_vorbis": (".ogg", "vorbis", {"strict": "-2"}, RATE_HZ, {}),
    "mkv_opus": (".mkv", "libopus", {}, RATE_HZ, {}),
    "mkv_mp3": (".mkv", "libmp3lame", VBR, RATE_HZ, {}),
    "mkv_flac": (".mkv", "flac", {}, RATE_HZ, {}),
    "mkv_aac": (".mkv", "aac", PLAIN_AAC, RATE_HZ, {}),
    "mkv_vorbis": (".mkv", "vorbis", {"strict": "-2"}, RATE_HZ, {}),
    "mkv_pcm": (".mkv", "pcm_s16le", {}, RATE_HZ, {}),
    "webm_without_cues": (".webm", "libopus", {}, RATE_HZ, {"live": "1"}),
    "ts_mp2": (".ts", "mp2", {}, RATE_HZ, {}),
    "ts_aac": (".ts", "aac", PLAIN_AAC, RATE_HZ, {}),
    "fragments_opus": (".mp4", "libopus", {}, 48_000, SIDX),
    "fragments_flac": (".mp4", "flac", {"strict": "-2"}, RATE_HZ, SIDX),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("entry")


@pytest.fixture
def entered(monkeypatch):
    """Whether each segment was entered at the entry it was given."""
    found = []
    enter = decoding.enter_sound
    monkeypatch.setattr(decoding, "enter_sound", lambda *args: found.append(enter(*args)) or found[-1])
    return found


def encoded(folder, kind, length_s=LENGTH_S):
    suffix, codec, options, rate_hz, muxing = KINDS[kind]
    path = folder / f"{kind}_{length_s}{suffix}"
    wave = tone(length_s, rate_hz, 2 if codec == "vorbis" else 1)  # FFmpeg's Vorbis encoder takes nothing else
    sound = {"sound": wave, "sound_codec": codec, "rate_hz": rate_hz}
    return str(path) if path.exists() else make(path, **sound, sound_options=options, muxing=muxing)


def windows(uri, *segment, specs=SPECS, **kwargs):
    found = {}
    for spec, wave in decode(uri, specs, *segment, **kwargs):
        for k in range(wave.count):
            found[spec, wave.window + k] = wave.samples[k * spec.hop : k * spec.hop + spec.window]
    return found


def joined(uri, index, cuts=CUTS, offset_s=0.0, **kwargs):
    found = {}
    for start_s, end_s in itertools.pairwise([*cuts, None]):
        (entry,) = entries_before(index, [start_s + offset_s])
        found |= windows(uri, start_s, end_s, offset_s=offset_s, audio_entry=entry, **kwargs)
    return found


def assert_same(parts, whole, atol=0.0):
    assert parts.keys() == whole.keys() and parts
    for key, samples in parts.items():
        assert samples.size == whole[key].size
        np.testing.assert_allclose(samples, whole[key], rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_joined_are_a_plain_decode(folder, entered, kind):
    uri = encoded(folder, kind)
    index = build(uri, LENGTH_S - 1, 600)
    # FFmpeg's MP2 decoder counts in whole numbers and carries their rounding on: two of 2 ** 15 steps.
    assert_same(joined(uri, index), windows(uri), 1e-4 if kind == "ts_mp2" else 0.0)
    assert entered == [True] * 3


def test_the_part_that_a_sample_is_may_start_anywhere(folder, entered):
    uri = encoded(folder, "mp3")
    assert_same(joined(uri, build(uri, 59, 600), [0.0, 14.4], 20.7), windows(uri, offset_s=20.7))
    assert entered == [True, True]


def test_aac_in_fragments_is_entered_at_its_blocks(folder, entered):
    noise = np.random.default_rng(0).standard_normal((1, 110 * RATE_HZ), np.float32) * 0.1
    sound = {"sound": noise, "sound_codec": "aac", "rate_hz": RATE_HZ, "sound_options": {"b": "24000"}}
    uri = make(folder / "blocks.mp4", **sound, muxing=SIDX)
    assert_same(joined(uri, build(uri, 109, 600), [0.0, 48.0, 98.4]), windows(uri))
    assert entered == [True]


def test_real_mp3_of_8_khz(test_data, entered):
    uri = str(test_data / "audio" / "awkward" / "nasa_13013_audio_8k_stereo.mp3")
    assert_same(joined(uri, build(uri, 12, 600), [0.0, 4.8, 9.6]), windows(uri))
    assert entered == [True]


def test_a_long_id3_tag_is_no_sound(folder, entered):
    size = 300_000
    tag = b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)
    uri = str(folder / "tagged.mp3")
    Path(uri).write_bytes(tag + Path(encoded(folder, "mp3")).read_bytes())
    assert_same(joined(uri, build(uri, 59, 600)), windows(uri))
    assert entered == [True] * 3


def scrambled(data, places):
    data = bytearray(data)
    for place in places:
        data[place : place + 40] = random.Random(place).randbytes(40)
    return bytes(data)


def cut_out(data, size=30_000):
    middle = len(data) // 2
    return data[:middle] + data[middle + size :]


DAMAGES = {
    "mp3_scrambled": ("mp3", lambda data: scrambled(data, range(150_000, 152_500, 420))),
    "mp3_with_junk": ("mp3", lambda data: data[:160_000] + b"junk" * 3_000 + data[160_000:]),
    "mp3_cut": ("mp3", cut_out),
    "flac_scrambled": ("flac", lambda data: scrambled(data, range(300_000, 330_000, 7_000))),
    "flac_cut": ("flac", cut_out),
    "mkv_scrambled": ("mkv_opus", lambda data: scrambled(data, [250_000])),
    "mkv_cut": ("mkv_flac", cut_out),
    "ts_cut": ("ts_mp2", lambda data: cut_out(data, 188 * 150)),
    "ts_that_starts_anew": ("ts_mp2", lambda data: data + data),
    "ogg_cut": ("ogg_vorbis", lambda data: cut_out(data, 9_000)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_before_a_segment_moves_its_samples_as_it_does_in_a_plain_decode(folder, entered, damage):
    kind, change = DAMAGES[damage]
    whole = Path(encoded(folder, kind))
    damaged = folder / f"{damage}{whole.suffix}"
    damaged.write_bytes(change(whole.read_bytes()))
    uri = str(damaged)
    assert_same(joined(uri, build(uri, 50, 600)), windows(uri), 1e-4 if kind == "ts_mp2" else 0.0)
    assert entered and all(entered)


@pytest.mark.parametrize("gap_ms", [60, 3_000])
def test_gaps_of_timestamps_count_as_in_a_plain_decode(folder, entered, gap_ms):
    path = str(folder / f"gap{gap_ms}.mkv")
    with av.open(encoded(folder, "mkv_flac")) as whole, av.open(path, "w") as output:
        stream = output.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux(audio=0):
            if packet.dts is not None:
                late = gap_ms if packet.pts * packet.time_base > 20 else 0
                packet.pts = packet.dts = packet.pts + late
                packet.stream = stream
                output.mux(packet)
    assert_same(joined(path, build(path, 55, 600)), windows(path))
    assert entered and all(entered)


def test_every_track_has_its_own_entries(folder, entered):
    path = str(folder / "tracks.mkv")
    with av.open(path, "w") as output:
        streams = [output.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in range(2)]
        wave = (tone(30, RATE_HZ) * 32_000).astype(np.int16)
        for at in range(0, wave.shape[1], 800):
            for stream, gain in zip(streams, (1, 2), strict=True):
                frame = av.AudioFrame.from_ndarray(wave[:, at : at + 800] // gain, format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE_HZ, at
                output.mux(stream.encode(frame))
    specs = [AudioSpec(audio_track=1), AudioSpec()]
    parts, whole = joined(path, build(path, 29, 600), CUTS[:2], specs=specs), windows(path, specs=specs)
    assert_same(parts, whole)
    assert entered == [True, True] and not np.array_equal(whole[specs[0], 20], whole[specs[1], 20])


@pytest.mark.parametrize("suffix, codec", [(".ts", "mp2"), (".mkv", "libopus")])
def test_pictures_beside_sound_that_is_entered_are_those_of_the_whole(folder, entered, suffix, codec):
    sound = {"sound": tone(20, 48_000), "sound_codec": codec, "rate_hz": 48_000}
    uri = make(folder / f"pictures{suffix}", [grey(i) for i in range(200)], **sound)
    specs = [FrameSpec(fps=2, side_px=16), AudioSpec()]
    (entry,) = entries_before(build(uri, 19, 600), [14.4])
    whole = [(item.start_s, item.image) for spec, item in decode(uri, specs) if spec is specs[0]]
    part = [
        (item.start_s, item.image) for spec, item in decode(uri, specs, 14.4, audio_entry=entry) if spec is specs[0]
    ]
    expected = [(at_s, image) for at_s, image in whole if at_s >= 14.4]
    assert [at_s for at_s, _ in part] == [at_s for at_s, _ in expected] and part
    assert all((a == b).all() for (_, a), (_, b) in zip(part, expected, strict=True)) and entered == [True]


@pytest.mark.parametrize("kind", ["mp3_without_xing", "flac", "adts", "mkv_opus", "ts_mp2", "ogg_vorbis"])
def test_the_last_segment_reads_no_more_than_the_first(folder, monkeypatch, kind):
    uri = encoded(folder, kind, 120)
    index = build(uri, 119, 600)
    packets = []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self: packets.append(read(self)) or packets[-1])

    def count(*segment):
        packets.clear()
        windows(uri, *segment, audio_entry=entries_before(index, [segment[0]])[0])
        return len(packets)

    first = count(0.0, 28.8)
    assert count(86.4, 115.2) < 1.5 * first
    assert count(28.8, 57.6) < 1.5 * first


def test_noise_that_depends_on_the_decoders_past_is_not_entered(folder):
    noise = np.random.default_rng(0).standard_normal((1, 30 * RATE_HZ), np.float32) * 0.1
    options = {"b": "24000", "aac_pns": "1"}
    uri = make(folder / "noise.aac", sound=noise, sound_codec="aac", rate_hz=RATE_HZ, sound_options=options)
    assert build(uri, 29, 600) is None


def test_two_rates_in_one_stream_are_not_entered(folder):
    two = b"".join(Path(encoded(folder, kind)).read_bytes() for kind in ("mp3", "mp3_without_xing"))
    (folder / "two.mp3").write_bytes(two)
    assert build(str(folder / "two.mp3"), 100, 600) is None


def test_exact_media_and_other_formats_need_no_index(folder):
    for name, codec in (("a.wav", "pcm_s16le"), ("a.m4a", "alac"), ("a.avi", "mp3")):
        assert build(make(folder / name, sound=tone(20, RATE_HZ), sound_codec=codec), 19, 600) is None


@pytest.mark.parametrize("kind", ["mp3_without_xing", "mkv_flac", "ts_mp2"])
def test_an_entry_that_the_medium_does_not_have_is_not_used(folder, entered, kind):
    other, uri = encoded(folder, kind, 30), str(folder / f"moved{KINDS[kind][0]}")
    index = build(encoded(folder, kind), 29, 600)
    sound = {"sound": tone(30, RATE_HZ)[:, ::-1].copy(), "sound_codec": KINDS[kind][1], "rate_hz": RATE_HZ}
    assert other != make(Path(uri), **sound)
    assert_same(joined(uri, index, CUTS[:2]), windows(uri))
    assert entered == [False]


def test_a_medium_is_indexed_where_it_is_longer_than_a_segment(folder, monkeypatch):
    uri = encoded(folder, "flac")
    assert probe_for_segments(uri, 60.1, 600).audio_index is None
    assert probe_for_segments(uri, 14.4, 600).audio_index is not None

    def broken(*args):
        raise SampleError("unreadable", "a bad block")

    monkeypatch.setattr(probing, "build", broken)
    assert probe_for_segments(uri, 14.4, 600).audio_index is None


def test_an_index_that_takes_too_long_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(sound_entry.time, "monotonic", iter(range(10**9)).__next__)
    assert build(encoded(folder, "flac"), 59, 50) is None
    assert build(encoded(folder, "flac"), 59, 10**6) is not None
