"""Long texts in pieces that a model can read whole."""

from collections.abc import Callable


def chunk(text: str, tokens: Callable[[str], int], limit: int) -> list[str]:
    """Split a text between words into pieces of about equal length, each of at most ``limit`` tokens.

    ``tokens`` counts as the model does, special tokens included. Only a word that is longer than the limit is split
    inside. Equal pieces, because a mean over pieces weighs a short rest as much as a full one.
    """
    count = tokens(text)
    if count <= limit or len(text) < 2:
        return [text]
    pieces = -(-count // limit)
    cut = _between_words(text, len(text) * (pieces // 2) // pieces)
    parts = (text[:cut].strip(), text[cut:].strip())
    return [piece for part in parts if part for piece in chunk(part, tokens, limit)]


def _between_words(text: str, place: int) -> int:
    """Return the start of the word nearest to a place, or the place itself in a text that is one word."""
    for distance in range(max(place, len(text) - place)):
        for start in (place - distance, place + distance):
            if 0 < start < len(text) and text[start - 1].isspace() and not text[start].isspace():
                return start
    return max(1, place)
