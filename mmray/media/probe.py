"""What a medium is, from its header, its first packets and its first frame."""

from dataclasses import dataclass, replace

import numpy as np

from mmray.errors import SampleError
from mmray.media.duration import container_s
from mmray.media.picture import Picture, pixel_aspect, still_orientation
from mmray.media.seek import PCM_FORMATS, seekable
from mmray.media.sound_entry import build
from mmray.media.sound_index import PREROLL_S
from mmray.media.source import Source, prepare

LOOK_PACKETS = 300  # of the video: 10 s at 30 fps show whether the frame rate varies
# A delta this far from the median is no rounding: Matroska rounds to 1 ms, two roundings make 1 ms more.
UNEVEN = 0.1
ROUNDING_S = 0.0021
UNEVEN_SHARE = 0.02  # a dropped frame now and then does not make the rate variable


@dataclass(frozen=True, slots=True)
class Probe:
    """What a medium says of itself.

    ``codecs``: names joined by commas, video first. ``duration_s``: of the medium, None for still images. ``width``
    and ``height``: upright, with square pixels. ``rotation``: clockwise to upright, 0, 90, 180 or 270 degrees.
    ``channels``: of the first audio track. ``exact_index``: can be decoded from the middle with the same numbers as
    from the start. ``audio_index``: see ``sound_index``; None where it was not asked for or not needed.
    """

    container: str
    codecs: str
    duration_s: float | None
    width: int | None
    height: int | None
    rotation: int | None
    fps: float | None
    variable_fps: bool | None
    audio_tracks: int
    channels: int | None
    exact_index: bool
    audio_index: bytes | None = None


def probe(uri: str) -> Probe:
    """Look at a medium without decoding more than its first frame; raises SampleError with the reason."""
    source = Source(uri)
    try:
        return _probed(source)
    finally:
        source.close()


def probe_for_segments(uri: str, segment_s: float, budget_s: float) -> Probe:
    """Probe a medium, and index the sound of one that is longer than a segment, within ``budget_s``."""
    probed = probe(uri)
    if probed.duration_s is None or probed.duration_s <= segment_s or not probed.audio_tracks:
        return probed
    try:
        return replace(probed, audio_index=build(uri, probed.duration_s - PREROLL_S, budget_s))
    except SampleError:  # whatever ails the medium further on is for the segment that meets it to say
        return probed


def scanned_s(uri: str) -> float | None:
    """Return the duration of a medium by reading all its packets; None where they carry no times."""
    source = Source(uri)
    try:
        source.want([s for s in (source.video, *source.audio) if s is not None])
        end_s = None
        while (packet := source.read()) is not None:
            at = packet.pts if packet.pts is not None else packet.dts
            if at is not None:
                shown_s = float((at + (packet.duration or 0)) * packet.time_base - source.zero)
                end_s = max(end_s or 0.0, shown_s)
        return end_s
    finally:
        source.close()


def _probed(source: Source) -> Probe:
    video, audio = source.video, source.audio
    streams = [s for s in (video, *audio) if s is not None]
    codecs = dict.fromkeys(s.codec_context.codec.canonical_name if s.codec_context else "unknown" for s in streams)
    picture, variable = (None, None) if video is None else _seen(source)
    moving = video is not None and not source.still
    rate = (video.average_rate or video.guessed_rate) if moving and video is not None else None
    duration_s = None if source.still else container_s(source)
    exact = seekable(source) or source.format in PCM_FORMATS
    if duration_s is None and not source.still:
        duration_s, exact = scanned_s(source.uri), False
    return Probe(
        container=source.format,
        codecs=",".join(codecs),
        duration_s=duration_s,
        width=picture.size[0] if picture else None,
        height=picture.size[1] if picture else None,
        rotation=picture.orient.rotation if picture else None,
        fps=float(rate) if rate else None,
        variable_fps=variable if moving else None,
        audio_tracks=len(audio),
        channels=audio[0].codec_context.channels if audio and audio[0].codec_context else None,
        exact_index=exact,
    )


def _seen(source: Source) -> tuple[Picture | None, bool | None]:
    """Return the first picture and whether the frame rate varies, from the first packets."""
    stream = source.video
    prepare(stream)
    source.want([stream])
    picture = None
    times: list[float] = []
    while len(times) < LOOK_PACKETS and (packet := source.read()) is not None:
        if packet.pts is not None:
            times.append(float(packet.pts * packet.time_base))
        if picture is None:
            orient = still_orientation(source, packet)
            frames, _ = source.decode(stream, packet)
            picture = Picture(frames[0], pixel_aspect(source), orient) if frames else None
        if source.still and picture is not None:
            break
    if picture is None:
        frames, _ = source.decode(stream, None)
        picture = Picture(frames[0], pixel_aspect(source), None) if frames else None
    return picture, _uneven(times)


def _uneven(times: list[float]) -> bool | None:
    """Tell whether the steps between timestamps differ by more than a container's rounding; None without steps."""
    steps = np.diff(np.unique(times))
    if not steps.size:
        return None
    usual = float(np.median(steps))
    off = np.abs(steps - usual) > max(ROUNDING_S, UNEVEN * usual)
    return bool(np.count_nonzero(off) > UNEVEN_SHARE * steps.size)
