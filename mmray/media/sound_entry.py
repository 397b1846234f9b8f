"""Enter sound in the middle of media that have no exact index of their own: one pass over the medium makes it.

The pass decodes, without resampling: what a damaged packet, priming or a gap does to the count of samples shows only
then, and a segment must hold the samples of a plain decode. 45 minutes of MP3 or FLAC take 3.5 s of one core, as much
as three of their ten segments. A remote medium is read once as a whole.
"""

import time
import zlib
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmray.media.blocks import PROFILES, SoundDecoder, fresh_decoder, in_blocks
from mmray.media.position import Position
from mmray.media.seek import to_sound
from mmray.media.sound_index import Entry, Mark, State, pack
from mmray.media.source import MATROSKA, MOV, Packet, Source, prepare

STEP_S = 5.0  # of sound between two entries
# What a decoder is fed in advance: MP3 needs up to 511 bytes of earlier frames (0.65 s at 8 kbit/s and 8 kHz), Opus
# 80 ms, Vorbis a packet, blocks of AAC a second.
SETTLING_S = 1.5
LEAD_PACKETS = 16  # between where a seek lands and the first packet fed: parsers and demuxers need some to settle
KEPT_S = 3.0
LOOK_PACKETS = 20_000  # from a landing to the packet looked for: Matroska lands at key frames of the pictures
# Formats that can be entered at a byte; the others are entered at a timestamp.
AT_BYTES = frozenset({"mp3", "flac", "aac", "mpegts"})
FORMATS = AT_BYTES | {MATROSKA, MOV, "ogg"}
# Demuxers that count time from where they are put: timestamps are moved to what they were in the pass.
COUNTED = frozenset({"mp3", "aac"})
CODECS = frozenset({"flac", "alac", "mp3", "mp2", "opus", "vorbis"})  # their memory does not outlast SETTLING_S


def build(uri: str, last_s: float, budget_s: float) -> bytes | None:
    """Return the index of the sound tracks of a medium.

    None where timestamps lead to the very sample, up to ``last_s``, where no track can be entered exactly, or where the
    pass takes longer than ``budget_s``.
    """
    until = time.monotonic() + budget_s
    source = Source(uri)
    try:
        scans = {
            number: _Scan(source, stream)
            for number, stream in enumerate(source.audio)
            if enterable(source, stream) and not _sought(uri, number, last_s)
        }
        if not scans:
            return None
        source.want([scan.stream for scan in scans.values()])
        by_stream = {scan.stream.index: scan for scan in scans.values()}
        while any(scan.usable for scan in scans.values()) and (packet := source.read()) is not None:
            if time.monotonic() > until:
                return None
            by_stream[packet.stream_index].feed(packet)
        return pack({number: scan.finish() for number, scan in scans.items()})
    finally:
        source.close()


def enterable(source: Source, stream: Any) -> bool:
    """Tell whether the decoder of a sound stream can start in the middle."""
    if stream.codec_context is None:
        return False
    name = stream.codec_context.codec.canonical_name
    known = name in CODECS or name.startswith("pcm_") or _shadowed(source, stream)
    return bool(source.format in FORMATS and (known or in_blocks(source, stream)))


def _shadowed(source: Source, stream: Any) -> bool:
    """Tell whether a second decoder must show that entries are exact: AAC makes noise that depends on its past."""
    context = stream.codec_context
    return context.codec.canonical_name == "aac" and context.profile in PROFILES and not in_blocks(source, stream)


def _sought(uri: str, number: int, last_s: float) -> bool:
    """Tell whether timestamps alone lead to the very sample."""
    source = Source(uri)
    try:
        stream = source.audio[number]
        prepare(stream)
        source.want([stream])
        return to_sound(source, stream, last_s)
    finally:
        source.close()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A packet of the last seconds, and how many samples lay before it."""

    packet: Packet
    before: int


class _Scan:
    """The pass over one stream; ``usable``: its entries are exact so far."""

    def __init__(self, source: Source, stream: Any) -> None:
        prepare(stream)
        self.stream = stream
        self.usable = True
        self._source = source
        self._decoder = SoundDecoder(source, stream, False)
        self._blocks = in_blocks(source, stream)
        self._position = Position(source, stream, False)
        self._kept: deque[_Kept] = deque()
        self._entries: list[Entry] = []
        self._shadow = _Shadow(source, stream) if _shadowed(source, stream) else None

    def feed(self, packet: Packet) -> None:
        """Decode a packet and count its samples."""
        if not self.usable:
            return
        state, entered = self._position.state, self._decoder.entered
        if not self._blocks and state is not None and self._due(state):
            self._enter(state)
        frames, fault = self._decoder.decode(packet)
        if self._blocks and state is not None and self._decoder.entered > entered:
            self._enter(state)
        self._count(frames)
        if fault or self._source.demux_errors:
            self._kept.clear()  # no entry close behind damage, and none at all behind what is no packet
        elif self._position.next is not None:
            self._keep(packet, state.next if state is not None else 0)
        if self._shadow is not None:
            self.usable = self.usable and self._shadow.agrees(packet, frames)

    def finish(self) -> list[Entry]:
        """Return the entries, now that the end is known."""
        frames, _ = self._decoder.decode(None)
        self._count(frames)
        last = self._position.next or 0
        return [replace(entry, last=last) for entry in self._entries] if self.usable else []

    def _due(self, state: State) -> bool:
        last = self._entries[-1].state.next if self._entries else 0
        return state.next - last >= STEP_S * state.rate_hz

    def _enter(self, state: State) -> None:
        """Note an entry whose first wanted packet is the next; none where too little lies before it."""
        kept = self._kept
        first = next((i for i, one in enumerate(kept) if one.before > state.next - SETTLING_S * state.rate_hz), 0) - 1
        if first < LEAD_PACKETS:
            return
        landing, start = kept[first - LEAD_PACKETS].packet, kept[first].packet
        at = landing.pos if self._source.format in AT_BYTES else landing.pts
        if at is None:
            return
        self._entries.append(Entry(at, mark(start), len(kept) - first, state, 0))
        if self._shadow is not None:
            self._shadow.restart([one.packet for one in list(kept)[first:]])

    def _keep(self, packet: Packet, before: int) -> None:
        self._kept.append(_Kept(packet, before))
        most = KEPT_S * self._position.rate_hz
        while len(self._kept) > 4 * LEAD_PACKETS and before - self._kept[0].before > most:
            self._kept.popleft()

    def _count(self, frames: list[Any]) -> None:
        for frame in frames:
            if self._position.rate_hz not in (0, frame.sample_rate):
                self.usable = False  # a count in two rates is not exact
            silence, overlap = self._position.fit(frame)
            assert self._position.next is not None
            self._position.next += silence + max(0, frame.samples - overlap)


class _Shadow:
    """A second decoder that starts anew at each entry, to show that it makes the samples that the first makes."""

    def __init__(self, source: Source, stream: Any) -> None:
        self._source, self._stream = source, stream
        self._decoder: Any = None

    def restart(self, packets: list[Packet]) -> None:
        """Start at an entry: decode what settles it."""
        self._decoder = fresh_decoder(self._stream)
        for packet in packets:
            self._source.decode(self._stream, packet, self._decoder)

    def agrees(self, packet: Packet, frames: list[Any]) -> bool:
        """Tell whether it decodes a packet to the same samples."""
        if self._decoder is None:
            return True
        own, _ = self._source.decode(self._stream, packet, self._decoder)
        return len(own) == len(frames) and all(map(_same, own, frames))


def _same(one: Any, other: Any) -> bool:
    return len(one.planes) == len(other.planes) and all(
        np.array_equal(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8))
        for a, b in zip(one.planes, other.planes, strict=True)
    )


def mark(packet: Packet) -> Mark:
    """Return what names a packet."""
    return Mark(packet.pos, packet.pts, packet.size, zlib.crc32(packet))


def enter_sound(source: Source, stream: Any, entry: Entry) -> bool:
    """Place the source, which reads only this stream, at an entry; False where the medium does not lead there."""
    at_bytes = source.format in AT_BYTES
    if not (source.seek_byte(entry.landing) if at_bytes else source.seek_pts(stream, entry.landing)):
        return False
    for _ in range(LOOK_PACKETS):
        if (packet := source.read()) is None or source.demux_errors:
            return False
        if packet.size == entry.mark.size and packet.pos == entry.mark.pos and zlib.crc32(packet) == entry.mark.crc:
            return _timed(source, packet, entry.mark.pts)
    return False


def _timed(source: Source, packet: Packet, pts: int | None) -> bool:
    """Give a packet, and those that follow, the timestamps that they have in a pass from the start."""
    if packet.pts != pts:
        if source.format not in COUNTED or packet.pts is None or pts is None:
            return False
        source.move(pts - packet.pts)
        packet.pts = pts
    source.hold([packet])
    return True
