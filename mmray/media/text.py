"""Texts as models get them."""

import unicodedata

from mmray.specs import Text


def text(value: str) -> Text:
    """Return a text as Unicode NFC: what looks the same is the same, whichever normal form it was typed in."""
    return Text(unicodedata.normalize("NFC", value))
