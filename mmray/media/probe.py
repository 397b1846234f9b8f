"""What a medium is, from its header, its first packets and its first frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmray.media import orientation
from mmray.media.picture import Picture
from mmray.media.seek import PCM_FORMATS, seekable
from mmray.media.source import MAX_PIXELS, MOV, Source, check_size, container_s, prepare

LOOK_PACKETS = 300  # of the video: 10 s at 30 fps show whether the frame rate varies
# A delta this far from the median is no rounding: Matroska rounds to 1 ms, two roundings make 1 ms more.
UNEVEN = 0.1
ROUNDING_S = 0.0021


@dataclass(frozen=True, slots=True)
class Probe:
    """What a medium says of itself.

    ``codecs``: names joined by commas, video first. ``duration_s``: of the medium, None for still images. ``width`` and
    ``height``: upright, with square pixels. ``rotation``: clockwise to upright, 0, 90, 180 or 270 degrees. ``channels``:
    of the first audio track. ``exact_index``: can be decoded from the middle with the same numbers as from the start.
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


def probe(uri: str) -> Probe:
    """Look at a medium without decoding more than its first frame; raises SampleError with the reason."""
    source = Source(uri)
    try:
        return _probed(source)
    finally:
        source.close()


def scanned_s(uri: str) -> float | None:
    """Return the duration of a medium by reading all its packets; None where they carry no times."""
    source = Source(uri)
    try:
        return _scanned_s(source)
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
        duration_s, exact = _scanned_s(source), False
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
