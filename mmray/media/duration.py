"""How long a medium says it is."""

from typing import Any

import av

from mmray.media.source import MATROSKA, MOV, Source, stream_start

# The header's word on the duration is a promise there; elsewhere FFmpeg estimates it.
DECLARED = frozenset({MOV, MATROSKA, "avi", "asf", "flv"})


def declared_s(source: Source, stream: Any) -> float | None:
    """Return the end of a stream as its header promises it, in seconds from time 0; None where it does not."""
    start = float((stream_start(stream) or source.zero) - source.zero)
    if source.still or source.format not in DECLARED:
        return None
    if stream.duration:
        return start + float(stream.duration * stream.time_base)
    return _tagged_s(stream.metadata)


def _tagged_s(metadata: dict[str, str]) -> float | None:
    """Read Matroska's statistics tag DURATION, such as 00:00:03.000000000."""
    for key, value in metadata.items():
        parts = value.strip().split(":")
        if key.partition("-")[0] == "DURATION" and len(parts) == 3:
            try:
                return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
            except ValueError:
                return None
    return None


def container_s(source: Source) -> float | None:
    """Return the duration of the whole medium as FFmpeg reads or estimates it."""
    if source.still or not source.container.duration:
        return None
    return source.container.duration / av.time_base
