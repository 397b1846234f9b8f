import math

import av
import numpy as np
import pytest

from mmray.errors import Reason
from mmray.media.decode import decode
from mmray.media.source import Source
from mmray.specs import AudioSpec
from tests.media.making import grey, make, tone

NATIVE = AudioSpec(rate_hz=16_000, window_s=1, hop_s=1)


def waves(uri, spec, *args, **kwargs):
    decoding = decode(str(uri), [spec], *args, **kwargs)
    return [item for _, item in decoding], decoding


def sound(uri, spec=NATIVE, **kwargs):
    return np.concatenate([wave.samples for wave in waves(uri, spec, **kwargs)[0]])


@pytest.mark.parametrize(
    "codec, dtype_error",
    [("pcm_s16le", 2**-15), ("pcm_s24le", 2**-15), ("pcm_f32le", 1e-7), ("pcm_f64le", 1e-7), ("pcm_u8", 2**-7)],
)
def test_samples_of_every_format_pass_through_at_their_own_rate(tmp_path, codec, dtype_error):
    wave = tone(1.5, 16_000)
    source = make(tmp_path / "a.mkv", sound=wave, sound_codec="pcm_f32le")
    path = tmp_path / "a.wav"
    with av.open(source) as given, av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=16_000)
        stream.layout = "mono"
        for frame in given.decode(audio=0):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    np.testing.assert_allclose(sound(path), wave[0], atol=1.01 * dtype_error)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([tone(1, 16_000)[0], np.zeros(16_000, np.float32)])
    uri = make(tmp_path / "a.flac", sound=stereo)
    np.testing.assert_allclose(sound(uri), stereo.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("layout, channels", [("7.1", 8), ("hexadecagonal", 16)])
def test_many_channels_are_averaged(tmp_path, layout, channels):
    path = str(tmp_path / "a.wv")
    with av.open(path, "w") as output:
        stream = output.add_stream("wavpack", rate=16_000)
        stream.layout = layout
        frame = av.AudioFrame(format="fltp", layout=layout, samples=4096)
        frame.sample_rate, frame.pts = 16_000, 0
        for number, plane in zip(range(channels), frame.planes, strict=False):
            plane.update(np.full(4096, number / 32, np.float32))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    np.testing.assert_allclose(sound(path), (channels - 1) / 64, atol=1e-6)


def test_resampling_keeps_time_and_length(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(2, 44_100), rate_hz=44_100)
    resampled = sound(uri)
    assert resampled.size == 32_000
    assert np.corrcoef(resampled[1600:16_000], tone(2, 16_000)[0][1600:16_000])[0, 1] > 0.95


def test_windows_of_pad_and_drop(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(2.5, 16_000))
    padded, _ = waves(uri, AudioSpec(window_s=1, hop_s=1))
    assert sum(w.count for w in padded) == 3 and sum(w.samples.size for w in padded) == 40_000
    assert padded[-1].end_s == pytest.approx(2.5)
    assert sum(w.count for w in waves(uri, AudioSpec(window_s=1, hop_s=1, tail="drop"))[0]) == 2
    overlapping, _ = waves(uri, AudioSpec(window_s=1, hop_s=0.5))
    assert sum(w.count for w in overlapping) == 4  # 0, 0.5, 1, 1.5: the last ends with the sound


def test_a_window_belongs_to_the_segment_it_starts_in_and_reads_past_it(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(5, 16_000))
    (wave,), decoding = waves(uri, AudioSpec(window_s=1, hop_s=0.5), 1.0, 2.2)
    assert (wave.window, wave.count, wave.start_s, wave.end_s) == (2, 3, 1.0, 3.0)
    assert wave.samples.size == 32_000
    assert next(iter(decoding.outcomes.values())).frames == 3


def test_sound_shorter_than_a_window_is_too_short_when_only_full_ones_count(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(0.5, 16_000))
    spec = AudioSpec(tail="drop")
    items, decoding = waves(uri, spec)
    assert not items
    assert (decoding.outcomes[spec].status, decoding.outcomes[spec].reason) == ("skipped", Reason.TOO_SHORT)


def test_a_segment_without_windows_is_ok(tmp_path):
    uri = make(tmp_path / "a.mp4", [grey(i) for i in range(60)], sound=tone(2, 16_000))
    spec = AudioSpec()
    items, decoding = waves(uri, spec, 4.8, None)
    assert not items and decoding.outcomes[spec].status == "ok" and decoding.outcomes[spec].frames == 0


def test_a_late_start_is_silence(tmp_path):
    uri = make(tmp_path / "a.mkv", [grey(i) for i in range(20)], sound=tone(1, 16_000), sound_start=8_000)
    samples = sound(uri)
    assert samples.size == 24_000
    assert not samples[:8_000].any() and samples[8_000:8_200].any()


def test_a_gap_is_filled_and_an_overlap_dropped(tmp_path):
    def write(name, second_start):
        path = str(tmp_path / name)
        with av.open(path, "w") as output:
            stream = output.add_stream("pcm_f32le", rate=16_000)
            stream.layout = "mono"
            for start, wave in ((0, 0.5), (second_start, 0.25)):
                frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), wave, np.float32), format="flt", layout="mono")
                frame.sample_rate, frame.pts = 16_000, start
                for packet in stream.encode(frame):
                    packet.pts = packet.dts = start
                    output.mux(packet)
        return path

    gap = sound(write("gap.mkv", 24_000))
    assert gap.size == 40_000 and not gap[16_000:24_000].any() and (gap[24_000:] == 0.25).all()
    jitter = sound(write("jitter.mkv", 16_800))
    assert jitter.size == 32_000 and (jitter[16_000:] == 0.25).all()


def test_a_second_track_is_asked_for_by_number(tmp_path):
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as output:
        streams = [output.add_stream("pcm_f32le", rate=16_000) for _ in range(2)]
        for stream in streams:
            stream.layout = "mono"
        for stream, value in zip(streams, (0.25, 0.5), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), value, np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            output.mux(stream.encode(frame))
    specs = [AudioSpec(window_s=1, hop_s=1, audio_track=n) for n in range(3)]
    decoding = decode(path, specs)
    levels = {spec: float(item.samples.mean()) for spec, item in decoding}
    assert levels == {specs[0]: 0.25, specs[1]: 0.5}
    assert decoding.outcomes[specs[2]].reason is Reason.NO_AUDIO


def test_rates_and_windows_of_one_pass_are_those_of_one_each(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(4, 44_100), rate_hz=44_100)
    specs = [AudioSpec(), AudioSpec(hop_s=0.48), AudioSpec(rate_hz=48_000, window_s=2, hop_s=1)]
    together = {spec: [] for spec in specs}
    for spec, wave in decode(uri, specs):
        together[spec].append(wave.samples)
    for spec in specs:
        np.testing.assert_array_equal(np.concatenate(together[spec]), sound(uri, spec))


def test_not_a_number_is_zero_and_damage(tmp_path):
    wave = tone(1, 16_000)
    wave[0, 100], wave[0, 200] = math.nan, math.inf
    uri = make(tmp_path / "a.wav", sound=wave, sound_codec="pcm_f32le")
    items, decoding = waves(uri, NATIVE)
    assert np.isfinite(items[0].samples).all() and items[0].samples[100] == 0 == items[0].samples[200]
    outcome = decoding.outcomes[NATIVE]
    assert (outcome.status, outcome.reason) == ("partial", Reason.CORRUPT)


def test_silence_is_a_flag(tmp_path):
    quiet = make(tmp_path / "quiet.wav", sound=np.full((1, 16_000), 5e-4, np.float32), sound_codec="pcm_f32le")
    assert waves(quiet, NATIVE)[1].flags.silent is True
    assert waves(make(tmp_path / "loud.flac", sound=tone(1, 16_000)), NATIVE)[1].flags.silent is False


def test_the_sample_is_a_part_of_the_sound(tmp_path):
    uri = make(tmp_path / "a.flac", sound=tone(4, 16_000))
    whole = sound(uri)
    np.testing.assert_array_equal(sound(uri, offset_s=1.25, limit_s=3.0), whole[20_000:48_000])


def test_a_sample_that_ends_early_is_not_read_on(tmp_path, monkeypatch):
    uri = make(tmp_path / "a.flac", sound=tone(60, 16_000))
    packets = []
    read = Source.read
    monkeypatch.setattr(Source, "read", lambda self: packets.append(read(self)) or packets[-1])
    items, decoding = waves(uri, AudioSpec(), limit_s=3.0)
    assert sum(w.count for w in items) == 4 and sum(w.samples.size for w in items) == 48_000
    assert packets[-1].pts * packets[-1].time_base < 5 and decoding.duration_s == 3.0


def test_windows_travel_in_runs_of_bounded_length(tmp_path):
    uri = make(tmp_path / "a.flac", sound=np.zeros((1, 16_000 * 200), np.float32))
    items, _ = waves(uri, AudioSpec(window_s=1, hop_s=0.5))
    assert max(wave.count for wave in items) <= 64
    windows = [wave.window + k for wave in items for k in range(wave.count)]
    assert windows == list(range(399))
