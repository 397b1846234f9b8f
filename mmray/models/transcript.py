"""Transcripts: tokens and timestamps of Whisper to segments with text and times.

Source: the rules of openai/whisper (MIT), rebuilt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Said:
    """A segment of a transcript: times from the start of the sound; ``avg_logprob`` that of its pass."""

    start_s: float
    end_s: float
    text: str
    language: str
    avg_logprob: float


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as the model gives it: tokens, and timestamps in steps of 0.02 s (``end`` None: it has none)."""

    start: int
    end: int | None
    tokens: list[int]


def parts(tokens: Sequence[int], first_stamp: int) -> tuple[list[Part], int | None]:
    """Cut the tokens of a pass into segments where two timestamps meet; with the timestamp to go on from, if any.

    As openai/whisper: what follows the last pair of timestamps is unfinished, and heard again in another pass, unless
    the tokens end in a single timestamp (nothing more is said). Without a pair all is one segment from 0 to the last
    timestamp; where that is the one it opened with, the segment has no end (there openai/whisper ends it as it begins).
    """
    stamps = [token - first_stamp if token >= first_stamp else None for token in tokens]
    cuts = [place for place, (one, other) in enumerate(pairwise(stamps), 1) if one is not None and other is not None]
    if not cuts:
        closing = [stamp for stamp in stamps[1:] if stamp is not None]
        return [Part(0, closing[-1] if closing else None, list(tokens))], None
    finished = len(stamps) > 1 and stamps[-2] is None and stamps[-1] is not None
    edges = [0, *cuts, *([len(tokens)] if finished else [])]
    found = [Part(stamps[a] or 0, stamps[b - 1], list(tokens[a:b])) for a, b in pairwise(edges)]
    return found, None if finished else stamps[cuts[-1] - 1]
