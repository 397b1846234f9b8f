"""One pass over a medium feeds every spec: packets to frames and windows of sound.

Wanted streams are demuxed and decoded once, in the calling thread, at the pace of the consumer. Only where a segment
lies in the middle of a medium that can be entered there does each stream take a pass of its own: pictures and sound
enter it at different points.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mmray.errors import Reason, SampleError
from mmray.media.account import Flags, Outcome, Segment, flags, refused, sound_outcome, video_outcome
from mmray.media.audio import AudioTrack, Line
from mmray.media.choose import Every, Taker, choice
from mmray.media.duration import container_s, declared_s
from mmray.media.probe import scanned_s
from mmray.media.seek import PCM_FORMATS, enter_video, seekable, to_sound
from mmray.media.seek import Entry as VideoEntry
from mmray.media.sound_entry import enter_sound
from mmray.media.sound_index import PREROLL_S, Entry, entry_of
from mmray.media.source import Source, prepare
from mmray.media.video import VideoTrack
from mmray.media.waves import Cutter
from mmray.specs import AnySpec, AudioSpec, Frame, FrameSpec, Item, Wave

__all__ = ["Decoding", "Flags", "Outcome", "decode"]

Produced = Iterator[tuple[FrameSpec, Frame] | tuple[AudioSpec, Wave]]


def decode(
    uri: str,
    specs: Sequence[FrameSpec | AudioSpec],
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    offset_s: float = 0.0,
    limit_s: float | None = None,
    duration_s: float | None = None,
    audio_entry: str | None = None,
) -> "Decoding":
    """Decode the segment [start_s, end_s) of a sample for ``specs``.

    The sample is the part [offset_s, limit_s) of the medium; all times are relative to ``offset_s``. ``end_s`` None is
    the last segment: it runs to the end of the stream, whatever the header claims. ``duration_s`` is the sample's
    probed duration, ``audio_entry`` what the segment needs of the index of its sound (``sound_index.entries_before``).
    Nothing is opened before the first item is asked for; then a medium that cannot be opened raises SampleError.
    """
    limit = inf if limit_s is None else limit_s - offset_s
    segment = Segment(start_s, min(inf if end_s is None else end_s, limit), offset_s, limit)
    return Decoding(uri, specs, segment, duration_s, audio_entry)


@dataclass
class _Pass:
    """One reading of a medium, and the tracks it feeds."""

    source: Source
    video: VideoTrack | None = None
    sounds: list[AudioTrack] = field(default_factory=list)

    @property
    def tracks(self) -> list[VideoTrack | AudioTrack]:
        """Return all tracks."""
        return [*([self.video] if self.video else []), *self.sounds]

    @property
    def served(self) -> bool:
        """Tell whether the segment itself is decoded: what is still read is context."""
        return (self.video is None or self.video.served) and all(sound.done for sound in self.sounds)

    def run(self) -> Produced:
        """Read until no track needs more."""
        tracks = {track.stream.index: track for track in self.tracks}
        if self.video is not None and not self.sounds:
            self.video.allow_leaps()
        ended = False
        while not ended and not all(track.done for track in tracks.values()):
            served, errors = self.served, self.source.demux_errors
            packet = self.source.read()
            if served:
                self.source.demux_errors = errors  # damage behind the segment is the next one's
            ended = packet is None
            track = tracks.get(packet.stream_index) if packet is not None else None
            if packet is not None and track is not None and not track.done:
                yield from track.feed(packet)
        for track in tracks.values():
            yield from track.finish(ended)


class Decoding:
    """An iterator of (spec, item), in time order for each spec.

    ``outcomes``, ``flags``, ``decode_s`` (seconds spent in here, not in the consumer) and ``duration_s`` (where the
    sample really ends, if that was reached) are valid once it is exhausted.
    """

    def __init__(
        self,
        uri: str,
        specs: Sequence[FrameSpec | AudioSpec],
        segment: Segment,
        duration_s: float | None,
        audio_entry: str | None,
    ) -> None:
        self.outcomes: dict[AnySpec, Outcome] = {}
        self.flags = Flags(None, None, None)
        self.decode_s = 0.0
        self.duration_s: float | None = None
        self._uri, self._segment, self._claimed_s, self._audio_entry = uri, segment, duration_s, audio_entry
        self._specs = list(dict.fromkeys(specs))
        self._sources: list[Source] = []
        self._items = self._run()

    def __iter__(self) -> Iterator[tuple[AnySpec, Item]]:
        return self

    def __next__(self) -> tuple[AnySpec, Item]:
        began = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.decode_s += time.perf_counter() - began

    def close(self) -> None:
        """Stop early and close the medium."""
        self._items.close()

    def _run(self) -> Generator[tuple[AnySpec, Item], None, None]:
        takers: list[Taker] = []
        sounds: list[AudioTrack] = []
        ends: list[float] = []
        try:
            for one in self._passes():
                yield from one.run()
                self._settle(one)
                takers += one.video.takers if one.video else []
                sounds += one.sounds
                ends += [track.end_s for track in one.tracks if track.ended and track.end_s is not None]
        finally:
            for source in self._sources:
                source.close()
        self.flags = flags(takers, sounds)
        if ends:
            self.duration_s = max(0.0, min(max(ends), self._segment.limit_s))
        elif self._segment.end_s == self._segment.limit_s < inf and (takers or sounds):
            self.duration_s = self._segment.limit_s

    def _settle(self, one: _Pass) -> None:
        """Write down what became of the specs of a finished pass."""
        if one.video is not None:
            for taker in one.video.takers:
                self.outcomes[taker.spec] = video_outcome(one.source, one.video, taker, self._segment)
        for sound in one.sounds:
            for cutter in (cutter for line in sound.lines for cutter in line.cutters):
                self.outcomes[cutter.spec] = sound_outcome(one.source, sound, cutter, self._segment)

    def _open(self) -> Source:
        self._sources.append(Source(self._uri))
        return self._sources[-1]

    def _passes(self) -> Iterator[_Pass]:
        """Set up one pass from the start, or in the middle a pass for each stream."""
        source = self._open()
        frame_specs, sounds = self._present(source)
        segment = self._segment
        inside = segment.start_s + segment.offset_s > 0
        if inside and (seekable(source) or source.format in PCM_FORMATS or (sounds and self._audio_entry)):
            if frame_specs:
                yield self._video_pass(source, frame_specs)
            for number, specs in sounds.items():
                yield self._sound_pass(self._open() if len(self._sources) > 1 or frame_specs else source, number, specs)
        elif frame_specs or sounds:
            one = _Pass(source)
            if frame_specs:
                one.video = self._video(source, self._takers(source, frame_specs))
            one.sounds = [self._sound(source, number, specs, False) for number, specs in sounds.items()]
            source.want([track.stream for track in one.tracks])
            yield one

    def _present(self, source: Source) -> tuple[list[FrameSpec], dict[int, list[AudioSpec]]]:
        """Return the specs whose streams are there and decode; the others are settled at once."""
        frame_specs: list[FrameSpec] = []
        sounds: dict[int, list[AudioSpec]] = {}
        errors = []
        for spec in self._specs:
            try:
                if isinstance(spec, FrameSpec):
                    prepare(_or_skip(source.video, Reason.NO_VIDEO, "no pictures in it"))
                    frame_specs.append(spec)
                else:
                    streams = dict(enumerate(source.audio))
                    prepare(_or_skip(streams.get(spec.audio_track), Reason.NO_AUDIO, f"no track {spec.audio_track}"))
                    sounds.setdefault(spec.audio_track, []).append(spec)
            except SampleError as error:
                self.outcomes[spec] = refused(error)
                errors += [error] if error.status == "failed" else []
        if errors and not frame_specs and not sounds:
            raise errors[0]
        return frame_specs, sounds

    def _takers(self, source: Source, specs: list[FrameSpec]) -> list[Taker]:
        segment = self._segment
        length_s = self._length_s(source) if any(spec.whole_sample for spec in specs) else 0.0
        return [
            Taker(spec, choice(spec, segment.start_s, segment.end_s, segment.limit_s, length_s, source.still))
            for spec in specs
        ]

    def _length_s(self, source: Source) -> float:
        """Return the sample's duration in its video stream, from the best word there is on it."""
        if source.still:
            return 0.0
        offset_s = self._segment.offset_s
        known_s = declared_s(source, source.video)
        if known_s is None and self._claimed_s is not None:
            known_s = self._claimed_s + offset_s
        known_s = known_s or container_s(source) or scanned_s(self._uri) or 0.0
        return max(0.0, min(known_s - offset_s, self._segment.limit_s))

    def _video(self, source: Source, takers: list[Taker], entry: VideoEntry | None = None) -> VideoTrack:
        segment = self._segment
        return VideoTrack(source, takers, segment.start_s, segment.offset_s, entry)

    def _video_pass(self, source: Source, specs: list[FrameSpec]) -> _Pass:
        takers = self._takers(source, specs)
        need_s = min(taker.rule.need_s for taker in takers) + self._segment.offset_s
        source.want([source.video])
        count = any(isinstance(taker.rule, Every) for taker in takers)
        from_s = self._segment.offset_s if count else None
        entry = enter_video(source, need_s, from_s) if seekable(source) else None
        if entry is None:
            source = self._open()
            prepare(source.video)
            source.want([source.video])
        return _Pass(source, self._video(source, takers, entry))

    def _sound_pass(self, source: Source, number: int, specs: list[AudioSpec]) -> _Pass:
        stream = source.audio[number]
        prepare(stream)
        source.want([stream])
        entry = None
        sought = to_sound(source, stream, self._segment.start_s + self._segment.offset_s - PREROLL_S)
        if not sought and (entry := entry_of(self._audio_entry, number)) is not None:
            source, stream = self._only_sound(number)
            sought = enter_sound(source, stream, entry)
        if not sought:
            entry = None
            source, stream = self._only_sound(number)
        return _Pass(source, sounds=[self._sound(source, number, specs, sought, entry)])

    def _only_sound(self, number: int) -> tuple[Source, Any]:
        """Open the medium anew, to read one sound track only."""
        source = self._open()
        stream = source.audio[number]
        prepare(stream)
        source.want([stream])
        return source, stream

    def _sound(
        self, source: Source, number: int, specs: list[AudioSpec], sought: bool, entry: Entry | None = None
    ) -> AudioTrack:
        segment = self._segment
        lines = []
        for rate_hz in dict.fromkeys(spec.rate_hz for spec in specs):
            cutters = [
                Cutter(spec, segment.start_s, segment.end_s, segment.limit_s)
                for spec in specs
                if spec.rate_hz == rate_hz
            ]  # fmt: skip
            lines.append(Line(rate_hz, cutters, segment.start_s - PREROLL_S))
        return AudioTrack(
            source, source.audio[number], lines, segment.start_s, segment.end_s, segment.offset_s, sought, entry
        )


def _or_skip(stream: Any, reason: Reason, detail: str) -> Any:
    if stream is None:
        raise SampleError(reason, detail)
    return stream
