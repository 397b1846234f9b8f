"""Going to the middle of a medium in a way that gives the same frames and samples as decoding from its start."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mmray.media.blocks import counts_samples, in_blocks, preroll_s
from mmray.media.source import MATROSKA, MOV, Source, stream_start

# Matroska writes whole milliseconds: a frame that is due within one counts as shown, and a microsecond more, or the
# rounding of sums would decide about a frame that is due in just one.
TOLERANCE_S = 1.001e-3
LOOK_PACKETS = 64  # at most so many leading pictures follow a key frame
# A deinterlaced frame needs the frame before it: seek so much earlier.
DEINTERLACE_S = 0.25
# Decoders whose memory does not outlast the pre-roll (measured: under 1e-5). AAC is not one: it is entered at blocks.
EXACT_SOUND = frozenset({"flac", "alac", "mp3", "opus"})
PCM_FORMATS = frozenset({"wav", "w64", "aiff", "au", "caf"})
SEEKABLE = frozenset({MOV, MATROSKA})
# One packet, one shown frame: frames can be counted without decoding them. (VP8 and MPEG-2 hide some.)
COUNTABLE = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "prores", "png", "dnxhd", "ffv1"})


@dataclass(frozen=True, slots=True)
class Key:
    """A key frame the source stands at: its time in the medium, its packet, the times of its leading pictures."""

    time_s: float
    packet: Any
    leading_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a video was entered: the key frame, its number in the sample (0 where not asked for)."""

    key: Key
    index: int
    interlaced: bool


def seekable(source: Source) -> bool:
    """Tell whether the pictures decode from the middle to the same frames as from the start."""
    return source.format in SEEKABLE and not source.still


def is_interlaced(source: Source, first: Any) -> bool:
    """Tell by the stream's field order (2 to 5 of AVFieldOrder) or the first frame of the stream."""
    assert source.video is not None
    return not source.still and bool(source.video.codec_context.field_order > 1 or first.interlaced_frame)


def enter_video(source: Source, need_s: float, count_from_s: float | None) -> Entry | None:
    """Place the source, which reads only its video, at a key frame at or before ``need_s`` of the medium.

    ``count_from_s``: number the frames from there. None: decode from the start, in a fresh source.
    """
    stream = source.video
    assert stream is not None
    if count_from_s is not None and stream.codec_context.codec.canonical_name not in COUNTABLE:
        return None
    reorder = reorder_s(source, stream)
    first: list[Any] = []
    while not first and (packet := source.read()) is not None:
        first, _ = source.decode(stream, packet)
    if not first or need_s < reorder + 1.0:
        return None
    interlaced = is_interlaced(source, first[0])
    key = to_key(source, stream, need_s - (DEINTERLACE_S if interlaced else 0.0), reorder)
    if key is None:
        return None
    index = frames_before(source, stream, key, count_from_s) if count_from_s is not None else 0
    return None if index is None else Entry(key, index, interlaced)


def to_key(source: Source, stream: Any, need_s: float, reorder_s: float) -> Key | None:
    """Place the source at a key frame at or before ``need_s`` (from the medium's time 0); None where none was found.

    ``reorder_s``: how far decoding times run ahead of presentation, which most indexes are sorted by. Leading
    pictures (shown before the key frame, they need what came before it) are left out.
    """
    for back_s in (reorder_s, reorder_s + 1.0, reorder_s + 10.0):
        if not source.seek(stream, need_s - back_s):
            return None
        key = _arrived(source, stream)
        if key is None or (key.packet.is_keyframe and key.time_s <= need_s):
            return key
    return None


def _arrived(source: Source, stream: Any) -> Key | None:
    """Take the next packet for a key frame and leave out its leading pictures; None at the end of the stream."""
    head: list[Any] = []
    while len(head) < LOOK_PACKETS and (packet := source.read()) is not None:
        head.append(packet)
        if packet.pts is None or packet.pts > head[0].pts:
            break
    if not head or head[0].pts is None:
        return None
    leading = [p for p in head[1:] if p.pts is not None and p.pts < head[0].pts]
    source.hold([p for p in head if p not in leading])
    times = [float(p.pts * stream.time_base - source.zero) for p in (head[0], *leading)]
    return Key(times[0], head[0], tuple(times[1:]))


def reorder_s(source: Source, stream: Any) -> float:
    """Return by how much the first packet is shown later than it is decoded; reads that packet."""
    packet = source.read()
    if packet is None:
        return 0.0
    source.hold([packet])
    if packet.pts is None or packet.dts is None:
        return 1.0
    return max(0.0, float((packet.pts - packet.dts) * stream.time_base))


def frames_before(source: Source, stream: Any, key: Key, start_s: float) -> int | None:
    """Count the frames shown from ``start_s`` up to a key frame, without decoding; the source then stands at the key.

    None where the key frame was not met again.
    """
    entries = stream.index_entries
    if source.format == MOV and start_s <= 0 and len(entries) == stream.frames and key.packet.dts is not None:
        at = entries.search_timestamp(key.packet.dts, any_frame=True)
        if at >= 0 and entries[at].pos == key.packet.pos:
            return sum(not entries[i].is_discard for i in range(at)) + len(key.leading_s)

    def counts(shown_s: float) -> bool:
        return start_s <= 0 or shown_s + TOLERANCE_S >= start_s

    if not source.seek(stream, float((stream_start(stream) or source.zero) - source.zero) - 1):
        return None
    count = 0
    while (packet := source.read()) is not None:
        if packet.pos == key.packet.pos and packet.pts == key.packet.pts:
            source.hold([packet])
            _arrived(source, stream)
            return count + sum(map(counts, key.leading_s))
        shown_s = float(packet.pts * stream.time_base - source.zero) if packet.pts is not None else start_s
        count += not packet.is_discard and counts(shown_s)
    return None


def to_sound(source: Source, stream: Any, need_s: float) -> bool:
    """Place the source before ``need_s``; False where timestamps do not tell the very sample that counting would."""
    if not counts_samples(stream):
        return False
    name = stream.codec_context.codec.canonical_name
    blocks = in_blocks(source, stream)
    if not (name.startswith("pcm_") or name in EXACT_SOUND or blocks):
        return False
    if source.format in PCM_FORMATS:
        return name.startswith("pcm_") and _arrive(source, stream, need_s)
    entries = stream.index_entries
    if source.format != MOV or stream_start(stream) is None or len(entries) < 3:
        return False
    target = int((Fraction(need_s) + source.zero) / stream.time_base)
    at = entries.search_timestamp(target, any_frame=True)
    if at < 2:
        return False
    # Packets of one length up to here: no gap or jitter that counting would have passed over.
    length = entries[2].timestamp - entries[1].timestamp
    if not name.startswith("pcm_") and entries[at].timestamp - entries[0].timestamp != at * length:
        return False
    if at == len(entries) - 1 and _ends_behind(stream, entries[at].timestamp + 2 * length):
        return False  # the index of fragments ends before ``need_s``: what lies between is not known
    if not name.startswith("pcm_") and not _starts_as_said(source, stream):
        return False
    return _to_block(source, stream, need_s) if blocks else _arrive(source, stream, need_s)


def _ends_behind(stream: Any, timestamp: int) -> bool:
    """Tell whether a stream goes on behind a timestamp, as its header says."""
    return bool(stream.duration) and (stream.start_time or 0) + stream.duration > timestamp


def _to_block(source: Source, stream: Any, need_s: float) -> bool:
    """Place the source before the pre-roll of the block ``need_s`` lies in; behind the end, of the last block."""
    end_s = stream.index_entries[-1].timestamp * stream.time_base - source.zero
    # Of the last block at least a second must be there: a stream that gave no sound at all would count as broken.
    from_s = preroll_s(min(Fraction(need_s), end_s - 1))
    return from_s is not None and _arrive(source, stream, from_s)


def _starts_as_said(source: Source, stream: Any) -> bool:
    """Tell whether the first frame, from which samples are counted, lies where the header says.

    It does not where the header knows nothing of SBR: priming is then cut off by half. Nor in fragmented MP4 of Opus:
    without an edit list its first samples are cut off and the rest stays where it was.
    """
    rate_hz = stream.codec_context.sample_rate
    for _ in range(LOOK_PACKETS):
        if (packet := source.read()) is None:
            break
        frames, _ = source.decode(stream, packet)
        if frames:
            first = frames[0]
            start_s = first.pts * first.time_base if first.pts is not None else None
            return bool(first.sample_rate == rate_hz and start_s == stream_start(stream))
    return False


def _arrive(source: Source, stream: Any, need_s: float) -> bool:
    """Seek, and tell whether the next packet really lies at or before ``need_s``."""
    if not source.seek(stream, need_s) or (packet := source.read()) is None:
        return False
    source.hold([packet])
    return packet.pts is not None and float(packet.pts * stream.time_base - source.zero) <= need_s


def key_times(source: Source, stream: Any, reorder_s: float) -> list[float]:
    """Return the times of the key frames that the index knows, ascending; never earlier than they are shown."""
    return [
        float(e.timestamp * stream.time_base - source.zero) + reorder_s for e in stream.index_entries if e.is_keyframe
    ]
