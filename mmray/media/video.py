"""The pictures of one medium: packets in, chosen frames out."""

from bisect import bisect_right
from collections.abc import Iterator
from math import inf

import av

from mmray.errors import Reason
from mmray.media.choose import Every, Shown, Taker
from mmray.media.duration import declared_s
from mmray.media.orientation import Orientation
from mmray.media.picture import Deinterlacer, Picture, pixel_aspect, still_orientation
from mmray.media.seek import DEINTERLACE_S, TOLERANCE_S, Entry, Key, is_interlaced, key_times, seekable, to_key
from mmray.media.source import DISCONTINUOUS, MATROSKA, Packet, Source
from mmray.media.timeline import Timeline
from mmray.specs import Frame, FrameSpec

# Seeking pays when it saves decoding at least this many frames.
WORTH_FRAMES = 8


class VideoTrack:
    """Decodes the video stream once for all takers.

    Afterwards ``seen`` counts decoded frames, ``ended`` tells whether the stream ended in the segment, ``end_s`` is
    the end of the last frame, ``damage`` says what was wrong in the segment.
    """

    def __init__(
        self, source: Source, takers: list[Taker], start_s: float, offset_s: float, entry: Entry | None
    ) -> None:
        assert source.video is not None
        self.stream = source.video
        self.takers = takers
        self.seen = 0
        self.ended = False
        self.damage: Reason | None = None
        self._source, self._start_s = source, start_s
        self._time = Timeline(source, self.stream, offset_s, source.format in DISCONTINUOUS)
        rate = self.stream.average_rate or self.stream.guessed_rate
        self._frame_s = float(1 / rate) if rate else 0.04
        self._aspect = pixel_aspect(source)
        self._orient: Orientation | None = None
        self._interlaced: bool | None = None
        self._deinterlacer = Deinterlacer()
        self._last: tuple[av.VideoFrame, float, bool] | None = None
        self._index = 0
        self._offset_s = offset_s
        self._from_s = -inf  # after a seek: the key frame's time
        self._at_start = True
        self._keys: list[float] | None = None
        self._reorder_s = 0.0
        self._leapt_to_s = -inf
        self._leaps = False
        if entry is not None:
            self._index, self._interlaced, self._at_start = entry.index, entry.interlaced, False
            self._from(entry.key)

    @property
    def done(self) -> bool:
        """Tell whether no taker needs more."""
        return (self._source.still and self.seen > 0) or all(taker.rule.done for taker in self.takers)

    @property
    def served(self) -> bool:
        """Tell whether no taker needs more of the segment itself: what is still read is context."""
        return all(taker.rule.served for taker in self.takers)

    @property
    def need_s(self) -> float:
        """Return the earliest time that any taker still needs."""
        return min((taker.rule.need_s for taker in self.takers if not taker.rule.done), default=inf)

    def allow_leaps(self) -> None:
        """Seek ahead where frames lie far apart; only for the one track that its source feeds."""
        self._leaps = seekable(self._source) and not any(isinstance(taker.rule, Every) for taker in self.takers)
        if self._leaps and self._at_start and self._source.format == MATROSKA:
            self._source.seek(self.stream, 0.0)  # makes the demuxer read its index

    def _from(self, key: Key) -> None:
        # The deinterlacer looks one frame back: the first it gives after a seek is not what it would be.
        self._from_s = key.time_s - self._offset_s + (self._frame_s / 2 if self._interlaced else 0)

    def _leap(self) -> None:
        """Seek where the next frame that is needed lies behind a later key frame."""
        need_s = self.need_s
        if (
            self._last is None
            or need_s in (inf, self._leapt_to_s)
            or need_s - self._last[1] < WORTH_FRAMES * self._frame_s
        ):
            return
        if self._keys is None:
            self._keys = key_times(self._source, self.stream, self._reorder_s)
        margin_s = DEINTERLACE_S if self._interlaced else 0.0
        at = bisect_right(self._keys, need_s + self._offset_s - margin_s - TOLERANCE_S) - 1
        if at < 0 or self._keys[at] - self._offset_s < self._last[1] + WORTH_FRAMES * self._frame_s:
            return
        self._leapt_to_s, self._last, self._deinterlacer = need_s, None, Deinterlacer()
        self._time.jumped()
        key = to_key(self._source, self.stream, need_s + self._offset_s - margin_s, self._reorder_s)
        if key is None:  # an index that leads nowhere: read on from the start
            self._source.seek(self.stream, -1.0)
            self._from_s, self._leaps = -inf, False
        else:
            self._from(key)

    def feed(self, packet: Packet) -> Iterator[tuple[FrameSpec, Frame]]:
        """Decode a packet and return what the takers take."""
        if self._keys is None and packet.pts is not None and packet.dts is not None:
            self._reorder_s = max(self._reorder_s, float((packet.pts - packet.dts) * packet.time_base))
        if self._source.still and not self.seen:
            self._orient = still_orientation(self._source, packet)
        frames, fault = self._source.decode(self.stream, packet)
        if self._source.still and self._source.complaint(self.stream.index):
            fault = Reason.CORRUPT  # FFmpeg gives what it has of a picture and only says that there should be more
        if fault and not self.served and not (packet.pts is not None and self._time.at(packet.pts) < self._start_s):
            self.damage = fault
        for frame in frames:
            yield from self._arrived(frame)
        if self._leaps:
            self._leap()

    def finish(self, ended: bool) -> Iterator[tuple[FrameSpec, Frame]]:
        """Return what decoder and deinterlacer still hold, and what the last frame stands in for."""
        self.ended = ended and not self.served
        if ended and not self.done:
            frames, fault = self._source.decode(self.stream, None)
            self.damage = (fault if self.ended else None) or self.damage
            for frame in frames:
                yield from self._arrived(frame)
            for frame in self._deinterlacer.flush():
                yield from self._timed(frame)
        last = None
        if self._last is not None:
            frame, start_s, first = self._last
            last = self._shown(frame, start_s, inf if self._source.still else self.end_s or start_s, first)
            yield from self._take(last)
        for taker in self.takers:
            for item in taker.finish(last):
                yield taker.spec, item

    def _arrived(self, frame: av.VideoFrame) -> Iterator[tuple[FrameSpec, Frame]]:
        if self._source.still and self.seen:
            return  # a second picture behind the first (gain maps, previews) is not the picture
        self.seen += 1
        if frame.is_corrupt and not self.served and (frame.pts is None or self._time.at(frame.pts) >= self._start_s):
            self.damage = Reason.CORRUPT
        if self._interlaced is None:
            self._interlaced = is_interlaced(self._source, frame)
        for ready in self._deinterlacer.push(frame) if self._interlaced else (frame,):
            yield from self._timed(ready)

    def _timed(self, frame: av.VideoFrame) -> Iterator[tuple[FrameSpec, Frame]]:
        start_s = self._time.of_frame(frame, self._frame_s)
        if start_s < self._from_s - TOLERANCE_S:
            self._index += start_s + TOLERANCE_S >= 0
            return
        if self._last is not None:
            yield from self._take(self._shown(self._last[0], self._last[1], max(start_s, self._last[1]), self._last[2]))
        self._last = frame, start_s, self._at_start
        self._at_start = False

    @property
    def end_s(self) -> float | None:
        """Return the end of the last frame; decoders may give it the mean duration where frames last unevenly."""
        if self._last is None:
            return None
        frame, start_s, _ = self._last
        base = frame.time_base or self.stream.time_base
        duration_s = float(frame.duration * base) if frame.duration and base else self._frame_s
        declared = declared_s(self._source, self.stream)
        if declared is not None and start_s < declared - self._offset_s:
            return min(start_s + duration_s, declared - self._offset_s)
        return start_s + duration_s

    def _shown(self, frame: av.VideoFrame, start_s: float, end_s: float, first: bool) -> Shown:
        shown = Shown(Picture(frame, self._aspect, self._orient), self._index, start_s, end_s, first)
        if not self._offset_s or start_s + TOLERANCE_S >= 0:
            self._index += 1
        return shown

    def _take(self, shown: Shown) -> Iterator[tuple[FrameSpec, Frame]]:
        for taker in self.takers:
            if not taker.rule.done:
                for item in taker.take(shown):
                    yield taker.spec, item
