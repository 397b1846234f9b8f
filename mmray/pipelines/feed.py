"""A segment, and the thread that decodes it into a bounded queue."""

import logging
import queue
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmray.errors import Reason, SampleError
from mmray.media.decode import Decoding, Outcome, decode
from mmray.media.text import text
from mmray.pipelines import derived
from mmray.pipelines.attempts import Key
from mmray.specs import AnySpec, AudioSpec, FrameSpec, Item, TextSpec

log = logging.getLogger(__name__)

SEVERITY = ("ok", "skipped", "partial", "failed", "pending")  # of one medium, what its worst stream decides
QUEUE_BYTES = 64 * 2**20  # of decoded items of one segment: 54 pictures of 640 px


@dataclass(frozen=True, slots=True)
class Segment:
    """A unit of work: part of one sample, and the extractors (places in the task list) that want it."""

    sample_id: str
    source: str
    segment: int
    input: str
    uri: str | None
    text: str | None
    start_s: float
    end_s: float | None
    offset_s: float
    limit_s: float | None
    duration_s: float | None
    attempt: int
    tasks: tuple[int, ...]
    present: bool = True  # the run saw the source before it began
    given: str | None = None  # what became of the extractor it reads, and why
    given_reason: str | None = None
    audio_entry: str | None = None  # where decoding its sound can start (``sound_index.entries_before``)

    @property
    def key(self) -> Key:
        """Return the key that names it in attempts."""
        return (self.sample_id, self.source, self.segment, self.input)


class Feed:
    """A segment being decoded in a thread of its own, into a bounded queue."""

    def __init__(self, segment: Segment, specs: Sequence[AnySpec]) -> None:
        self.segment = segment
        self._queue: queue.Queue[tuple[AnySpec, Item] | BaseException | None] = queue.Queue(places(specs))
        self._decoding = self._open(specs)
        self._over = self._unwanted = False
        threading.Thread(target=self._fill, name=f"decode {segment.sample_id}", daemon=True).start()

    def _open(self, specs: Sequence[AnySpec]) -> Decoding | None:
        media = [spec for spec in specs if isinstance(spec, FrameSpec | AudioSpec)]
        one = self.segment
        if not media or one.uri is None:
            return None
        return decode(
            one.uri,
            media,
            one.start_s,
            one.end_s,
            offset_s=one.offset_s,
            limit_s=one.limit_s,
            duration_s=one.duration_s,
            audio_entry=one.audio_entry,
        )

    def _fill(self) -> None:
        try:
            for pair in self._decoding or self._texts():
                if self._unwanted:
                    break
                self._queue.put(pair)
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 — it is raised again, in the thread that waits for this one
            self._queue.put(error)

    def _texts(self) -> Iterator[tuple[AnySpec, Item]]:
        if self.segment.text is not None:
            yield TextSpec(), text(self.segment.text)

    def __iter__(self) -> Iterator[tuple[AnySpec, Item]]:
        while (got := self._next()) is not None:
            if isinstance(got, Exception) and not isinstance(got, SampleError):
                log.error("%s: decoding failed unexpectedly", self.segment.sample_id, exc_info=got)
                raise SampleError(Reason.CRASHED, last_words(got)) from got
            if isinstance(got, SampleError) and got.reason is Reason.MISSING_FILE and self.segment.present:
                raise SampleError(Reason.UNAVAILABLE, f"{got.detail} was there when the run began") from got
            if isinstance(got, BaseException):
                raise got
            yield got

    def _next(self) -> tuple[AnySpec, Item] | BaseException | None:
        got = self._queue.get()
        self._over = got is None or isinstance(got, BaseException)
        return got

    def close(self) -> None:
        """Stop decoding: what is left is dropped, and the thread, which may wait for room in the queue, ends."""
        self._unwanted = True
        while not self._over:
            self._next()

    def outcome(self, specs: Sequence[AnySpec]) -> Outcome:
        """Return what decoding says of an extractor with these specs: the worst of what exists."""
        if self._decoding is None and self.segment.given is not None:
            return Outcome(*derived.outcome(self.segment.given, self.segment.given_reason), 1, 0.0)
        if self._decoding is None:
            return (
                absent(specs[0]) if self.segment.uri is self.segment.text is None else Outcome("ok", None, "", 1, 0.0)
            )
        outcomes = [self._decoding.outcomes[spec] for spec in specs if not isinstance(spec, TextSpec)]
        there = [outcome for outcome in outcomes if outcome.status != "skipped"] or outcomes[:1]
        worst = max(there, key=lambda outcome: SEVERITY.index(outcome.status))
        status = (
            "partial"
            if worst.status == "failed" and any(o.status in {"ok", "partial"} for o in there)
            else worst.status
        )
        frames, media_s = max(o.frames for o in there), max(o.media_s for o in there)
        return Outcome(status, worst.reason, worst.detail, frames, media_s)

    @property
    def decode_s(self) -> float:
        """Return the seconds spent decoding."""
        return self._decoding.decode_s if self._decoding else 0.0

    @property
    def duration_s(self) -> float | None:
        """Return the true length of the sample where its end was seen."""
        return self._decoding.duration_s if self._decoding else None

    @property
    def flags(self) -> dict[str, bool | None]:
        """Return the flags silent, black and frozen."""
        found = self._decoding.flags if self._decoding else None
        return {name: getattr(found, name, None) for name in ("silent", "black", "frozen")}


def places(specs: Sequence[AnySpec]) -> int:
    """Return how many items may wait, by the size of the largest: memory is bounded whatever the medium's length."""
    frames = [spec for spec in specs if isinstance(spec, FrameSpec)]
    pictures = [spec.side_px * (spec.height_px or spec.side_px) * spec.channels for spec in frames]
    return min(64, max(2, QUEUE_BYTES // max(pictures, default=2**20)))


def absent(spec: AnySpec) -> Outcome:
    """Return the outcome of a sample that has no such source at all."""
    reasons = {FrameSpec: Reason.NO_VIDEO, AudioSpec: Reason.NO_AUDIO, TextSpec: Reason.NO_TEXT}
    reason = next(reason for kind, reason in reasons.items() if isinstance(spec, kind))
    return Outcome("skipped", reason, "the manifest has nothing in this column", 0, 0.0)


def last_words(error: BaseException) -> str:
    """Say where and how something unforeseen went wrong, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({frame[0].filename.rpartition('/')[2]}, line {frame[0].lineno})" if frame else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{where}"
