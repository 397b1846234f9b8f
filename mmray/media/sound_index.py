"""The index of a medium's sound as data: where a decoder can start in the middle, and what it must know there.

An index is compressed JSON, ``{track: [entry, ...]}`` with an entry about every 5 s of sound: 19 KB for 45 minutes. It
lives as long as planning; a segment keeps only the entry that it starts from, as JSON of about 110 characters a track.
"""

import json
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Sound ahead of the first wanted sample, for the resampler to settle, and decoders that are entered by timestamps: AAC
# needs 2 frames, MP3 511 bytes of earlier frames, Opus 80 ms.
PREROLL_S = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """The count before a packet: the next sample, its rate, and the time that timestamps had led to."""

    next: int
    rate_hz: int
    shift_s: float
    time_s: float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """What names a packet in its medium: byte position, timestamp, size and CRC-32 of the content."""

    pos: int | None
    pts: int | None
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A point at which decoding can start.

    ``landing``: where to seek to, a byte position or a timestamp of the stream, by format. ``mark``: the packet that a
    decoder is fed first. ``settling``: how many packets it is fed before its output is that of a decoder that started
    at the first packet. ``state``: the count at that point. ``last``: the count at the end of the stream.
    """

    landing: int
    mark: Mark
    settling: int
    state: State
    last: int

    @property
    def values(self) -> list[float | None]:
        """Return the entry as a flat list."""
        mark, state = self.mark, self.state
        return [
            self.landing, mark.pos, mark.pts, mark.size, mark.crc, self.settling,
            state.next, state.rate_hz, state.shift_s, state.time_s, self.last,
        ]  # fmt: skip

    @classmethod
    def of(cls, values: list[Any]) -> "Entry":
        """Return the entry that a flat list stands for."""
        landing, pos, pts, size, crc, settling, following, rate_hz, shift_s, time_s, last = values
        return cls(landing, Mark(pos, pts, size, crc), settling, State(following, rate_hz, shift_s, time_s), last)


def pack(tracks: dict[int, list[Entry]]) -> bytes | None:
    """Return the index of a medium; None where no track can be entered."""
    rows = {track: [entry.values for entry in entries] for track, entries in tracks.items() if entries}
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode()) if rows else None


def entries_before(index: bytes | None, starts_s: Sequence[float]) -> list[str | None]:
    """Return what segments that start at ``starts_s`` of the medium need of its index: the last entry of each track
    that lies early enough. None where decoding starts at the first packet anyway.
    """
    tracks = json.loads(zlib.decompress(index)) if index else {}
    states = {track: [Entry.of(row).state for row in rows] for track, rows in tracks.items()}
    begins_s = {track: [state.next / state.rate_hz for state in of_track] for track, of_track in states.items()}
    found = []
    for start_s in starts_s:
        before = {track: bisect_right(times, start_s - PREROLL_S) for track, times in begins_s.items()}
        chosen = {track: tracks[track][count - 1] for track, count in before.items() if count}
        found.append(json.dumps(chosen, separators=(",", ":")) if chosen else None)
    return found


def entry_of(text: str | None, track: int) -> Entry | None:
    """Return the entry of one track of a segment's value (see ``entries_before``)."""
    row = json.loads(text).get(str(track)) if text else None
    return Entry.of(row) if row else None
