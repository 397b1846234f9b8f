"""What became of each spec: the words that end in the ledger."""

from dataclasses import dataclass
from math import inf

from mmray.errors import Reason, SampleError
from mmray.media.audio import SILENCE, AudioTrack
from mmray.media.choose import Points, Taker
from mmray.media.duration import declared_s
from mmray.media.source import Source
from mmray.media.video import VideoTrack
from mmray.media.waves import Cutter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one spec in one segment.

    ``status``: ok, partial, skipped or failed. ``frames``: pictures without context, or windows, that were emitted.
    ``media_s``: seconds of the medium that were covered.
    """

    status: str
    reason: Reason | None = None
    detail: str = ""
    frames: int = 0
    media_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Flags:
    """Silent, black and frozen segments; None where no such stream was decoded (``frozen``: under two frames).

    Silent: no sample reaches -60 dB of full scale. Black and frozen: see ``look.Look``.
    """

    silent: bool | None
    black: bool | None
    frozen: bool | None


@dataclass(frozen=True, slots=True)
class Segment:
    """[start_s, end_s) of a sample that is the part from ``offset_s`` of the medium; it ends at ``limit_s``."""

    start_s: float
    end_s: float
    offset_s: float
    limit_s: float

    @property
    def whole(self) -> bool:
        """Tell whether it is the sample as a whole."""
        return self.start_s <= 0 and self.end_s >= self.limit_s


def refused(error: SampleError) -> Outcome:
    """Return the outcome of a stream that cannot be decoded at all."""
    return Outcome(error.status, error.reason, error.detail)


def video_outcome(source: Source, track: VideoTrack, taker: Taker, segment: Segment) -> Outcome:
    """Say what became of one frame spec."""
    reason = fault(source, track, segment)
    if not reason and track.ended and isinstance(taker.rule, Points) and taker.rule.short:
        reason = Reason.TRUNCATED
    covered_s = 0.0 if source.still else _covered_s(track, segment)
    return _outcome(source, track, reason, taker.frames, covered_s)


def sound_outcome(source: Source, track: AudioTrack, cutter: Cutter, segment: Segment) -> Outcome:
    """Say what became of one sound spec."""
    reason = fault(source, track, segment)
    if track.seen and not cutter.frames and segment.whole and not reason:
        detail = f"{cutter.total / cutter.spec.rate_hz:.3f} s of sound, a window is {cutter.spec.window_s} s"
        return Outcome("skipped", Reason.TOO_SHORT, detail)
    return _outcome(source, track, reason, cutter.frames, _covered_s(track, segment))


def fault(source: Source, track: VideoTrack | AudioTrack, segment: Segment) -> Reason | None:
    """Name what was wrong with a stream: cut short, damaged, or nothing."""
    declared = declared_s(source, track.stream)
    if track.ended and declared is not None:
        expected_s = min(declared - segment.offset_s, segment.limit_s)
        reached_s = track.end_s if track.end_s is not None else 0.0
        if reached_s + max(0.5, 0.02 * expected_s) < expected_s and (track.seen or segment.start_s > 0):
            return Reason.TRUNCATED
    return track.damage or (Reason.CORRUPT if source.demux_errors else None)


def _outcome(
    source: Source, track: VideoTrack | AudioTrack, reason: Reason | None, frames: int, covered_s: float
) -> Outcome:
    detail = (source.message(track.stream.index) or f"the stream ends at {track.end_s} s") if reason else ""
    if not track.seen and track.ended:
        return Outcome("failed", reason or Reason.EMPTY, detail or "the stream holds nothing that decodes")
    return Outcome("partial" if reason else "ok", reason, detail, frames, covered_s)


def _covered_s(track: VideoTrack | AudioTrack, segment: Segment) -> float:
    end_s = segment.end_s
    if track.end_s is not None and (track.ended or end_s == inf):
        end_s = min(end_s, track.end_s)
    return 0.0 if end_s == inf else max(0.0, end_s - max(0.0, segment.start_s))


def flags(takers: list[Taker], tracks: list[AudioTrack]) -> Flags:
    """Combine what the takers saw and the tracks heard."""
    black = [taker.flags.black for taker in takers if taker.flags.black is not None]
    frozen = [taker.flags.frozen for taker in takers if taker.flags.frozen is not None]
    peaks = [track.peak for track in tracks if track.peak is not None]
    return Flags(
        max(peaks) < SILENCE if peaks else None, all(black) if black else None, all(frozen) if frozen else None
    )
