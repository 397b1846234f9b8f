"""AAC of any length: the same samples from wherever a segment enters, and no more read than needed."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from mmray import storage
from mmray.media import decode as decoding
from mmray.media.decode import decode
from mmray.media.source import Source
from mmray.specs import AudioSpec
from tests.media.making import grey, make

RATE_HZ = 44_100
LENGTH_S = 250.0
SPECS = [AudioSpec(hop_s=0.48), AudioSpec(rate_hz=RATE_HZ, window_s=0.5, hop_s=0.5)]
NATIVE = AudioSpec(rate_hz=RATE_HZ, window_s=1, hop_s=1)
CUTS = {
    "28.8": [28.8 * k for k in range(9)],
    "96": [0.0, 96.0, 192.0],
    "odd": [0.0, 1.7, 95.9, 96.96, 97.03, 193.1, 240.5],
}
NOISE = {"b": "48000", "aac_pns": "1"}
FRAGMENTS = {"movflags": "empty_moov", "frag_duration": "10000000"}


def noise(seconds):
    """Noise whose loudness goes up and down: at a low bit rate most of its bands become PNS."""
    time = np.arange(round(seconds * RATE_HZ), dtype=np.float32) / RATE_HZ
    wave = np.random.default_rng(0).standard_normal((2, time.size), np.float32)
    return wave * (0.12 + 0.08 * np.sin(2.3 * time))


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


@pytest.fixture(scope="module")
def whole(long):
    return windows(long)


@pytest.fixture
def entries(monkeypatch):
    """Whether each segment was entered in the middle."""
    found = []
    to_sound = decoding.to_sound
    monkeypatch.setattr(decoding, "to_sound", lambda *args: found.append(to_sound(*args)) or found[-1])
    return found


def windows(uri, *segment, specs=SPECS, **kwargs):
    found = {}
    run = decode(uri, specs, *segment, **kwargs)
    for spec, wave in run:
        for k in range(wave.count):
            found[spec, wave.window + k] = wave.samples[k * spec.hop : k * spec.hop + spec.window]
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    return found


def same(part, whole):
    return bool(part) and all(np.array_equal(samples, whole[key]) for key, samples in part.items())


def sound(uri):
    return np.concatenate(list(windows(uri, specs=[NATIVE]).values()))


def plain(uri, skip=0):
    """What one decoder makes of all packets from number ``skip`` on."""
    with av.open(uri) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        frames = [frame for packet in packets[skip:] for frame in packet.decode()]
    return np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames])


def test_one_decoder_alone_depends_on_where_it_starts(long):
    late = plain(long, skip=501)
    assert np.abs(plain(long)[-late.size :] - late)[RATE_HZ:].max() > 0.05


@pytest.mark.parametrize(
    "cuts, offset_s, limit_s", [("28.8", 0.0, None), ("96", 0.0, None), ("odd", 0.0, None), ("28.8", 7.3, 249.0)]
)
def test_segments_joined_are_the_whole_bit_for_bit(long, whole, entries, cuts, offset_s, limit_s):
    if offset_s:
        whole = windows(long, offset_s=offset_s, limit_s=limit_s)
    joined = {}
    for start_s, end_s in itertools.pairwise([*CUTS[cuts], None]):
        joined |= windows(long, start_s, end_s, offset_s=offset_s, limit_s=limit_s)
    assert joined.keys() == whole.keys() and same(joined, whole)
    assert entries[-1] is True


def test_sound_shorter_than_a_block_is_a_plain_decode(folder):
    uri = encoded(folder / "short.m4a", noise(40))
    np.testing.assert_array_equal(sound(uri), plain(uri))


def test_the_first_block_is_a_plain_decode_and_all_samples_are_there(long):
    blocks, straight = sound(long), plain(long)
    assert blocks.size == straight.size
    first = int(np.argmax(blocks != straight))
    assert 96 * RATE_HZ <= first < 96 * RATE_HZ + 2048


def test_sound_without_noise_passes_the_boundary_unchanged(folder):
    uri = encoded(folder / "chirp.m4a", chirp(110), {"b": "96000", "aac_pns": "0"})
    np.testing.assert_allclose(sound(uri), plain(uri), atol=1e-6)


def test_priming_that_ends_within_a_packet_is_counted_once(folder, long, entries):
    data = bytearray(Path(long).read_bytes())
    at = data.index(b"elst") + 16
    data[at : at + 4] = (2112).to_bytes(4, "big")  # the media time of the edit: Apple's encoders prime so
    uri = folder / "primed.m4a"
    uri.write_bytes(data)
    assert same(windows(str(uri), 201.6, 220.8), windows(str(uri))) and entries == [True]


def test_a_rate_doubled_by_the_decoder_keeps_its_place(folder, long, entries):
    with av.open(long) as container:
        config = container.streams.audio[0].codec_context.extradata
    # An AudioSpecificConfig of HE-AAC: type 5, 44,100 Hz (4), stereo (2), made to 88,200 Hz (1), LC (2) inside.
    doubled = int("0010101000010000100010".ljust(8 * len(config), "0"), 2).to_bytes(len(config), "big")
    uri = folder / "doubled.m4a"
    uri.write_bytes(Path(long).read_bytes().replace(config, doubled))
    with av.open(str(uri)) as container:
        assert container.streams.audio[0].codec_context.sample_rate == 2 * RATE_HZ
    assert same(windows(str(uri), 201.6, 220.8), windows(str(uri))) and entries == [True]


def test_a_header_that_is_wrong_about_the_start_is_not_relied_on(long, whole, entries, monkeypatch):
    monkeypatch.setattr("mmray.media.seek._starts_as_said", lambda *args: False)
    assert same(windows(long, 201.6, 220.8), whole) and entries == [False]


def test_a_segment_far_in_is_entered_by_seeking(long, monkeypatch):
    sizes = []

    class Counted:
        def __init__(self, file):
            self.file, self.seek, self.tell, self.close = file, file.seek, file.tell, file.close

        def read(self, size=-1):
            data = self.file.read(size)
            sizes.append(len(data))
            return data

    open_read = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda uri: Counted(open_read(uri)))
    windows(long)
    all_bytes = sum(sizes)
    sizes.clear()
    windows(long, 201.6, 206.4)
    assert sum(sizes) < 0.5 * all_bytes


def test_at_most_a_block_and_its_preroll_are_decoded_in_vain(long, monkeypatch):
    packets = []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self: packets.append(read(self)) or packets[-1])
    windows(long, 192.0, 192.96)  # the resampler's second ahead of it lies in the block before
    times_s = [float(packet.pts * packet.time_base) for packet in packets]
    assert 94.9 < min(time_s for time_s in times_s if time_s > 1) <= 95 and max(times_s) < 194.5


def test_fragments_are_entered_where_their_index_is_known(folder, entries):
    uri = encoded(folder / "fragments.mp4", noise(LENGTH_S), muxing=FRAGMENTS)
    assert same(windows(uri, 144.0, 163.2), windows(uri)) and entries == [True]


@pytest.mark.parametrize("late_s", [None, 50.0])
def test_where_seeking_fails_or_lands_late_the_samples_are_the_same(long, whole, entries, monkeypatch, late_s):
    seek = Source.seek
    monkeypatch.setattr(Source, "seek", lambda self, s, t: late_s is not None and seek(self, s, t + late_s))
    assert same(windows(long, 144.0, 163.2), whole) and entries == [False]


@pytest.mark.parametrize("seconds", [96.02, 100.0])
def test_a_segment_behind_the_end_of_the_sound_is_ok(folder, seconds):
    pictures = [grey(i) for i in range(130)]
    uri = encoded(folder / f"{seconds}.mp4", noise(seconds), frames=pictures, fps=1)
    assert not windows(uri, 115.2, None)
