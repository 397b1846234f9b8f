"""What the extractors of texts share: chunks in, one row per chunk out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.errors import Reason, SampleError
from mmray.models.chunks import blank, chunk
from mmray.specs import Rows, Text

Embed = Callable[[list[str]], npt.NDArray[np.float32]]
Columns = Callable[[list[str]], dict[str, Any]]


def with_text_source(values: Any) -> Any:
    """Return the fields of an extractor of two modalities; that of texts reads the column ``text`` unless told."""
    texts = isinstance(values, dict) and values.get("modality") == "text"
    return {"source": "text", **values} if texts else values


def embedded(
    texts: Sequence[Text], tokens: Callable[[str], int], limit: int, embed: Embed
) -> Iterator[Rows | SampleError]:
    """Embed all chunks of all texts at once; ``embed`` turns them into (n, dim) float32. See ``by_chunk``."""
    return by_chunk(texts, tokens, limit, lambda pieces: {"embedding": embed(pieces)})


def by_chunk(
    texts: Sequence[Text], tokens: Callable[[str], int], limit: int, columns: Columns
) -> Iterator[Rows | SampleError]:
    """Give all chunks of all texts to a model at once; for each text Rows (``window`` numbers its chunks).

    ``tokens`` counts as the model does, ``limit`` is the most it reads, ``columns`` turns chunks into columns with one
    entry each. A text that cannot be read has its SampleError alone.
    """
    errors = [_unreadable(item.text) for item in texts]
    chunks = [[] if error else chunk(item.text, tokens, limit) for item, error in zip(texts, errors, strict=True)]
    flat = [piece for pieces in chunks for piece in pieces]
    found = columns(flat) if flat else {}
    done = 0
    for pieces, error in zip(chunks, errors, strict=True):
        if error:
            yield error
            continue
        count = len(pieces)
        part = {name: column[done : done + count] for name, column in found.items()}
        done += count
        yield Rows(list(range(count)), [None] * count, [None] * count, part)


def _unreadable(text: str) -> SampleError | None:
    """Return no_text where nothing can be seen, bad_text where a text is not Unicode."""
    try:
        text.encode()  # tokenizers raise at half a surrogate pair, which no UTF-8 holds
    except UnicodeEncodeError as error:
        return SampleError(Reason.BAD_TEXT, f"character {error.start} is half a surrogate pair")
    if blank(text):
        return SampleError(Reason.NO_TEXT, "the text is empty: nothing but white space or control characters")
    return None
