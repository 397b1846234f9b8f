"""Whether a text holds anything to read, and long texts in pieces that a model can read whole."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import pairwise

WORD_START = re.compile(r"(?<=\s)\S")
UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # categories of Unicode: white space and control characters
TOGETHER = 4  # pieces: a long text is first cut into parts of so many, because every halving counts all tokens again


def blank(text: str) -> bool:
    """Tell whether nothing of a text can be seen."""
    return all(unicodedata.category(sign) in UNSEEN for sign in text)


def chunk(text: str, tokens: Callable[[str], int], limit: int) -> list[str]:
    """Split a text between words into pieces of about equal length, each of at most ``limit`` tokens.

    ``tokens`` counts as the model does, special tokens included. Only a word that is longer than the limit is split
    inside. Equal pieces, because a mean over pieces weighs a short rest as much as a full one.
    """
    words = [found.start() for found in WORD_START.finditer(text)]

    def pieces(start: int, end: int) -> Iterator[str]:
        part = text[start:end].strip()
        count = tokens(part)
        if count <= limit or len(part) < 2:
            yield part
            return
        wanted = -(-count // limit)
        ways = max(2, wanted // TOGETHER)
        places = (start + len(part) * (wanted * way // ways) // wanted for way in range(1, ways))
        cuts = {_nearest(words, place, start, end) for place in places}
        for one, other in pairwise([start, *sorted(cuts), end]):
            yield from pieces(one, other)

    return [piece for piece in pieces(0, len(text)) if piece] or [text]


def _nearest(words: list[int], place: int, start: int, end: int) -> int:
    """Return the word start nearest to a place inside (start, end), or the place itself where there is none."""
    after = bisect_left(words, place)
    found = [word for word in words[max(0, after - 1) : after + 1] if start < word < end]
    return min(found, key=lambda word: abs(word - place)) if found else max(start + 1, place)
