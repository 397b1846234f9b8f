"""The sound of one medium: packets in, windows of mono sound at each wanted rate out."""

from collections.abc import Iterator
from math import gcd, inf
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler

from mmray.errors import Reason, SampleError
from mmray.media.blocks import SoundDecoder
from mmray.media.position import Position
from mmray.media.sound_index import Entry
from mmray.media.source import Packet, Source
from mmray.media.waves import Cutter
from mmray.specs import AudioSpec, Wave

Mono = npt.NDArray[np.float32]

SILENCE = 10 ** (-60 / 20)  # -60 dB of full scale: below the dither and noise of any recorded room
LOUDEST = 1e6  # beyond is damage, as NaN is
DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "flt": 1.0, "dbl": 1.0}
BATCH_S = 0.5  # samples that go through the resampler at once


class Line:
    """One output rate: mono blocks in, resampled from a sample on from which segments and the whole agree."""

    def __init__(self, rate_hz: int, cutters: list[Cutter], from_s: float) -> None:
        self.rate_hz, self.cutters = rate_hz, cutters
        self._from_s = from_s
        self._in_rate_hz = 0
        self._begin: int | None = None
        self._resampler: AudioResampler | None = None

    def push(self, mono: Mono, position: int, in_rate_hz: int) -> Iterator[tuple[AudioSpec, Wave]]:
        """Feed samples that start at ``position`` (samples of ``in_rate_hz`` from the start of the sample)."""
        if in_rate_hz != self._in_rate_hz:
            yield from self._flush()
            self._in_rate_hz = in_rate_hz
            self._resampler = AudioResampler(format="flt", layout="mono", rate=self.rate_hz)
        if self._begin is None:
            step = _period(in_rate_hz, self.rate_hz)
            blocks = -(-max(0, position, int(self._from_s * in_rate_hz)) // step)
            self._begin = blocks * step
            for cutter in self.cutters:
                cutter.begin(blocks * (self.rate_hz * step // in_rate_hz))
        mono = mono[max(0, self._begin - position) :]
        if mono.size and self._resampler is not None:
            frame = av.AudioFrame.from_ndarray(mono[np.newaxis], format="flt", layout="mono")
            frame.sample_rate = in_rate_hz
            yield from self._cut(self._resampler.resample(frame))

    def finish(self) -> Iterator[tuple[AudioSpec, Wave]]:
        """Return what is left at the end of the stream."""
        yield from self._flush()
        for cutter in self.cutters:
            for wave in cutter.finish():
                yield cutter.spec, wave

    def _flush(self) -> Iterator[tuple[AudioSpec, Wave]]:
        if self._resampler is not None:
            yield from self._cut([f for f in self._resampler.resample(None) if f is not None])

    def _cut(self, frames: list[av.AudioFrame]) -> Iterator[tuple[AudioSpec, Wave]]:
        for frame in frames:
            samples = frame.to_ndarray()[0].clip(-1, 1)
            for cutter in self.cutters:
                for wave in cutter.push(samples):
                    yield cutter.spec, wave


class AudioTrack:
    """Decodes one sound stream once for all lines.

    [``start_s``, ``stop_s``) is the segment (``stop_s`` may be infinite); ``sought``: decoding starts in the middle, at
    ``entry`` or, without one, where timestamps tell the very sample.
    Afterwards ``seen`` counts decoded samples (not those of gaps), ``ended`` tells whether the stream was read to its
    end, ``end_s`` is the end of the sound, ``damage`` says what was wrong, ``peak`` how loud the segment was.
    """

    def __init__(
        self,
        source: Source,
        stream: Any,
        lines: list[Line],
        start_s: float,
        stop_s: float,
        offset_s: float,
        sought: bool,
        entry: Entry | None = None,
    ) -> None:
        self.stream, self.lines = stream, lines
        self.seen = 0
        self.ended = False
        self.end_s: float | None = None
        self.damage: Reason | None = None
        self.peak: float | None = None
        self._source = source
        self._decoder = SoundDecoder(source, stream, sought)
        self._start_s, self._stop_s, self._offset_s = start_s, stop_s, offset_s
        self._position = Position(source, stream, sought)
        self._settling = 0  # packets until the decoder is as it would be had it started at the first one
        self._last: int | None = None  # where a decoder that started at the first packet ended
        self._batch: list[Mono] = []
        self._batched = 0
        if entry is not None:
            self._resume(entry)

    def _resume(self, entry: Entry) -> None:
        """Go on from what the index knows of the sound up to an entry."""
        self._position.restore(entry.state)
        self._settling, self._last = entry.settling, entry.last
        self.seen = entry.state.next
        self.end_s = self._next_s

    @property
    def done(self) -> bool:
        """Tell whether no window needs more."""
        return all(cutter.done for line in self.lines for cutter in line.cutters)

    def feed(self, packet: Packet) -> Iterator[tuple[AudioSpec, Wave]]:
        """Decode a packet and return the windows that are complete."""
        frames, fault = self._decoder.decode(packet)
        if self._settling:
            self._settling -= 1
            return
        if fault and not (packet.pts is not None and self._position.at(packet.pts) - self._offset_s < self._start_s):
            self.damage = fault
        for frame in frames:
            yield from self._arrived(frame)

    def finish(self, ended: bool) -> Iterator[tuple[AudioSpec, Wave]]:
        """Return what decoder and resamplers still hold, and the windows that the sound fills in part."""
        self.ended = ended and not self.done
        if self.ended:
            frames, fault = self._decoder.decode(None)
            self.damage = fault or self.damage
            for frame in frames:
                yield from self._arrived(frame)
        yield from self._send()
        for line in self.lines:
            yield from line.finish()

    def _arrived(self, frame: av.AudioFrame) -> Iterator[tuple[AudioSpec, Wave]]:
        """Append the samples of a frame where they belong: gaps are filled, overlaps dropped."""
        if frame.sample_rate != self._position.rate_hz:
            yield from self._send()
        mono = self._mono(frame)
        self.seen += mono.size
        silence, overlap = self._position.fit(frame)
        for filled in range(0, silence, frame.sample_rate):
            yield from self._append(np.zeros(min(frame.sample_rate, silence - filled), np.float32))
        mono = mono[overlap:]
        if self._last is not None and self._position.next is not None:
            mono = mono[: max(0, self._last - self._position.next)]
        self._hear(mono)
        yield from self._append(mono)

    def _hear(self, mono: Mono) -> None:
        """Note how loud the samples are that lie in the segment."""
        at_s = self._next_s
        first = max(0, round((self._start_s - at_s) * self._position.rate_hz))
        last = mono.size if self._stop_s == inf else max(0, round((self._stop_s - at_s) * self._position.rate_hz))
        if mono[first:last].size:
            self.peak = max(self.peak or 0.0, float(np.abs(mono[first:last]).max()))

    @property
    def _next_s(self) -> float:
        assert self._position.next is not None
        return (self._position.next - round(self._offset_s * self._position.rate_hz)) / self._position.rate_hz

    def _append(self, mono: Mono) -> Iterator[tuple[AudioSpec, Wave]]:
        assert self._position.next is not None
        self._batch.append(mono)
        self._batched += mono.size
        self._position.next += mono.size
        self.end_s = self._next_s
        if self._batched >= BATCH_S * self._position.rate_hz:
            yield from self._send()

    def _send(self) -> Iterator[tuple[AudioSpec, Wave]]:
        """Pass what was gathered on to the lines."""
        if not self._batched or self._position.next is None:
            return
        mono = np.concatenate(self._batch)
        position = self._position.next - self._batched - round(self._offset_s * self._position.rate_hz)
        self._batch, self._batched = [], 0
        for line in self.lines:
            yield from line.push(mono, position, self._position.rate_hz)

    def _mono(self, frame: av.AudioFrame) -> Mono:
        """Return the mean of the channels, float32 in [-1, 1] where the source keeps to it."""
        kind = frame.format.name.removesuffix("p")
        if kind not in SCALES:
            raise SampleError(Reason.UNSUPPORTED, f"samples of format {frame.format.name}")
        samples = _channels(frame, DTYPES[kind])
        samples = (samples - 128 if kind == "u8" else samples) * np.float32(SCALES[kind])
        if kind in ("flt", "dbl") and not (sane := np.abs(samples) < LOUDEST).all():
            samples = np.where(sane, samples, 0)
            self.damage = Reason.CORRUPT
            self._source.note(self.stream.index, "the sound holds samples that are not numbers; they count as 0")
        mono: Mono = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
        return mono


def _channels(frame: Any, dtype: npt.DTypeLike) -> Mono:
    """Return the samples as they are, float32 (channels, samples).

    ``frame.to_ndarray`` and ``frame.planes`` of PyAV 18.1 run past the last of 8 or more planes, into memory that is
    not the frame's: 7.1 sound would end the process.
    """
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        packed = np.frombuffer(frame.planes[0], dtype, count=frame.samples * channels)
        return packed.reshape(-1, channels).T.astype(np.float32)
    planes = [np.frombuffer(plane, dtype, count=frame.samples) for plane in frame.planes[:channels]]
    return np.stack(planes).astype(np.float32)


def _period(in_rate_hz: int, out_rate_hz: int) -> int:
    """Return after how many input samples the resampler stands as it did at the start."""
    return in_rate_hz // gcd(in_rate_hz, out_rate_hz)
