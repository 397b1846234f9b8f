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
    numbers = [number for number, medium in enumerate(media) if medium is not None]
    pictures = [Picture(None, None)] * len(media)
    if not numbers:
        return pictures
    lost = Picture(None, "it hangs or kills the process that opens it")
    with cluster.connected() as ray, Progress("thumbnails", len(numbers)) as progress:
        for done in guarded.map_isolated(ray, _made, [media[number] for number in numbers], TIMEOUT_S):
            for index, picture in done:
                pictures[numbers[index]] = picture or lost
            progress.advance(len(done))
    return pictures


def _made(medium: Medium | None) -> Picture:
    assert medium is not None
    try:
        data = thumbnail(medium.uri, SIDE_PX, medium.from_s, medium.to_s)
    except SampleError as error:
        return Picture(None, str(error))
    return Picture(data, None if data else "it holds neither pictures nor sound")
