"""Thumbnails for a report, made where a medium that hangs or crashes costs its own picture alone."""

from collections.abc import Sequence
from typing import NamedTuple

from mmray.errors import SampleError
from mmray.pipelines import cluster, guarded
from mmray.pipelines.console import Progress
from mmray.report.thumbnails import thumbnail

SIDE_PX = 160
TIMEOUT_S = 20.0


class Medium(NamedTuple):
    """The part [from_s, to_s) of a medium."""

    uri: str
    from_s: float = 0.0
    to_s: float | None = None


class Picture(NamedTuple):
    """A thumbnail as a data URI, or why there is none."""

    data: str | None
    trouble: str | None


def made(media: Sequence[Medium | None]) -> list[Picture]:
    """Return a thumbnail of each medium, in order; of no medium none, and no trouble."""
    wanted = [medium for medium in media if medium is not None]
    if not wanted:
        return [Picture(None, None)] * len(media)
    with cluster.connected() as ray, Progress("thumbnails", len(wanted)) as progress:
        found = iter(guarded.each(ray, _made, wanted, TIMEOUT_S, progress.advance))
    lost = Picture(None, "it hangs or kills the process that opens it")
    return [Picture(None, None) if medium is None else next(found) or lost for medium in media]


def _made(medium: Medium) -> Picture:
    try:
        data = thumbnail(medium.uri, SIDE_PX, medium.from_s, medium.to_s)
    except SampleError as error:
        return Picture(None, str(error))
    return Picture(data, None if data else "it holds neither pictures nor sound")
