"""The index of a medium's sound as data: where a decoder can start in the middle, and what it must know there.

An index is compressed JSON, ``{track: [entry, ...]}`` with one entry about every 5 s of sound (8 KB for 45 minutes). It
lives as long as planning; a segment keeps only the entry that it starts from, as JSON of about 150 characters a track.
"""

import json
import zlib
from dataclasses import dataclass
from typing import Any

from mmray.media.position import State

# Sound ahead of the first wanted sample, for the resampler to settle (and decoders that are entered by timestamps).
PREROLL_S = 1.0


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


def entry_before(index: bytes, start_s: float) -> str | None:
    """Return what a segment that starts at ``start_s`` of the medium needs of its index: the last entry of each track
    that lies early enough; None where decoding starts at the first packet anyway.
    """
    chosen = {}
    for track, rows in json.loads(zlib.decompress(index)).items():
        entries = [Entry.of(row).state for row in rows]
        early = [row for row, at in zip(rows, entries, strict=True) if at.next <= (start_s - PREROLL_S) * at.rate_hz]
        if early:
            chosen[track] = early[-1]
    return json.dumps(chosen, separators=(",", ":")) if chosen else None


def entry_of(text: str | None, track: int) -> Entry | None:
    """Return the entry of one track of a segment's value (see ``entry_before``)."""
    row = json.loads(text).get(str(track)) if text else None
    return Entry.of(row) if row else None
