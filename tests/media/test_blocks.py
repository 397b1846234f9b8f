"""AAC of any length: the same samples from wherever a segment enters, and no more read than needed."""

import itertools

import av
import numpy as np
import pytest

from mmray import storage
from mmray.media import decode as decoding
from mmray.media.decode import decode
from mmray.media.source import Source
from mmray.specs import AudioSpec
from tests.media.making import grey, make

RATE_HZ = 22_050
LENGTH_S = 250.0
SPECS = [AudioSpec(hop_s=0.48), AudioSpec(rate_hz=RATE_HZ, window_s=0.5, hop_s=0.5)]
NATIVE = AudioSpec(rate_hz=RATE_HZ, window_s=1, hop_s=1)
CUTS = {
    "28.8": [28.8 * k for k in range(9)],
    "96": [0.0, 96.0, 192.0],
    "odd": [0.0, 1.7, 95.9, 96.96, 97.03, 193.1, 249.5],
}
NOISE = {"b": "32000", "aac_pns": "1"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "10000000"}


def noise(seconds):
    """Noise whose loudness goes up and down: at a low bit rate all its bands become PNS."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = np.random.default_rng(0).standard_normal((2, time.size)) * (0.12 + 0.08 * np.sin(2.3 * time))
    return wave.astype(np.float32)


def chirp(seconds):
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.4 * np.sin(2 * np.pi * (200 + 5 * time) * time)).astype(np.float32)[np.newaxis]


def encoded(path, sound, options=None, **kwargs):
    return make(path, sound=sound, sound_codec="aac", rate_hz=RATE_HZ, sound_options=options or NOISE, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks")


@pytest.fixture(scope="module")
def long(folder):
    return encoded(folder / "long.m4a", noise(LENGTH_S))


def windows(uri, *segment, specs=SPECS, **kwargs):
    found = {}
    run = decode(uri, specs, *segment, **kwargs)
    for spec, wave in run:
        for k in range(wave.count):
            found[spec, wave.window + k] = wave.samples[k * spec.hop : k * spec.hop + spec.window]
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    return found


def same(part, whole):
    return all(np.array_equal(samples, whole[key]) for key, samples in part.items())


def sound(uri):
    return np.concatenate(list(windows(uri, specs=[NATIVE]).values()))


def plain(uri, skip=0):
    """One decoder for all packets from number ``skip`` on."""
    with av.open(uri) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        frames = [frame for packet in packets[skip:] for frame in packet.decode()]
    return np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames])


@pytest.fixture
def entries(monkeypatch):
    """Whether each segment was entered in the middle."""
    found = []
    to_sound = decoding.to_sound
    monkeypatch.setattr(decoding, "to_sound", lambda *args: found.append(to_sound(*args)) or found[-1])
    return found


def test_the_decoder_alone_depends_on_where_it_starts(long):
    difference = plain(long)[500 * 1024 :] - plain(long, skip=501)
    assert np.abs(difference[50 * 1024 :]).max() > 0.05


@pytest.mark.parametrize("offset_s, limit_s", [(0.0, None), (7.3, 249.0)])
def test_segments_joined_are_the_whole_bit_for_bit(long, entries, offset_s, limit_s):
    whole = windows(long, offset_s=offset_s, limit_s=limit_s)
    for cuts in CUTS.values():
        parts = [
            windows(long, start_s, end_s, offset_s=offset_s, limit_s=limit_s)
            for start_s, end_s in itertools.pairwise([*cuts[:-1], None] if offset_s else [*cuts, None])
        ]
        joined = {key: samples for part in parts for key, samples in part.items()}
        assert joined.keys() == whole.keys() and same(joined, whole)
    assert True in entries


def test_sound_shorter_than_a_block_is_a_plain_decode(folder):
    uri = encoded(folder / "short.m4a", noise(90))
    np.testing.assert_array_equal(sound(uri), plain(uri))


def test_the_first_block_is_a_plain_decode_and_all_samples_are_there(long):
    blocks, straight = sound(long), plain(long)
    first = np.argmax(blocks[: straight.size] != straight)
    assert blocks.size == straight.size and 96 * RATE_HZ <= first < 96 * RATE_HZ + 2048


def test_sound_without_noise_passes_the_boundaries_unchanged(folder):
    uri = encoded(folder / "chirp.m4a", chirp(200), {"b": "96000", "aac_pns": "0"})
    np.testing.assert_allclose(sound(uri), plain(uri), atol=1e-6)


def test_priming_that_ends_within_a_packet_is_counted_once(folder, long, entries):
    data = bytearray(open(long, "rb").read())
    at = data.index(b"elst") + 16
    data[at : at + 4] = (2112).to_bytes(4, "big")  # the media time of the edit: Apple's encoders prime so
    (folder / "primed.m4a").write_bytes(data)
    uri = str(folder / "primed.m4a")
    assert same(windows(uri, 201.6, 220.8), windows(uri)) and entries == [True]


def test_rate_doubled_by_the_decoder_keeps_its_place(folder, long, entries):
    data = open(long, "rb").read()
    with av.open(long) as container:
        config = container.streams.audio[0].codec_context.extradata
    # An AudioSpecificConfig of HE-AAC: type 5, 22,050 Hz (7), stereo (2), made to 44,100 Hz (4), LC (2) inside.
    bits = "0010101110010010000010" + "0" * 20
    doubled = int(bits[: 8 * len(config)], 2).to_bytes(len(config), "big")
    (folder / "doubled.m4a").write_bytes(data.replace(config, doubled))
    uri = str(folder / "doubled.m4a")
    with av.open(uri) as container:
        assert container.streams.audio[0].codec_context.sample_rate == 2 * RATE_HZ
    assert same(windows(uri, 201.6, 220.8), windows(uri)) and entries == [True]


def test_a_segment_far_in_is_entered_by_seeking(long, monkeypatch):
    read = []

    class Counted:
        def __init__(self, file):
            self.file, self.seek, self.tell, self.close = file, file.seek, file.tell, file.close

        def read(self, size=-1):
            read.append(self.file.read(size))
            return read[-1]

    open_read = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda uri: Counted(open_read(uri)))

    def bytes_read(*segment):
        read.clear()
        windows(long, *segment)
        return sum(map(len, read))

    whole = bytes_read()
    assert bytes_read(192.0, 196.8) < 0.6 * whole
    packets = []
    read_packet = Source.read
    monkeypatch.setattr(Source, "read", lambda self: packets.append(read_packet(self)) or packets[-1])
    windows(long, 194.88, 199.68)
    first_s = min(p.pts * p.time_base for p in packets[8:])
    assert 191 - 0.1 < first_s <= 191 and len(packets) * 1024 < 20 * RATE_HZ


@pytest.mark.parametrize("why", ["fragments", "no_seek"])
def test_what_cannot_be_entered_has_the_same_samples(folder, long, entries, monkeypatch, why):
    uri = long
    if why == "fragments":
        uri = encoded(folder / "fragments.mp4", noise(LENGTH_S), muxing=FRAGMENTS)
    whole = windows(uri)
    if why == "no_seek":
        monkeypatch.setattr(Source, "seek", lambda *args: False)
    assert same(windows(uri, 144.0, 163.2), whole) and entries == [False]


@pytest.mark.parametrize("seconds", [96.02, 100.0])
def test_a_segment_behind_the_end_of_the_sound_is_ok(folder, seconds):
    pictures = [grey(i) for i in range(130)]
    uri = encoded(folder / f"{seconds}.mp4", noise(seconds), frames=pictures, fps=1)
    assert not windows(uri, 115.2, None)
