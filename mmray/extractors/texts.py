"""What the extractors of texts share: chunks in, one row per chunk out."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mmray.errors import Reason, SampleError
from mmray.models.chunks import chunk
from mmray.specs import Rows, Text

Embed = Callable[[list[str]], npt.NDArray[np.float32]]


def embedded(
    texts: Sequence[Text], tokens: Callable[[str], int], limit: int, embed: Embed
) -> Iterator[Rows | SampleError]:
    """Embed all chunks of all texts at once; for each text Rows (``window`` numbers its chunks), or no_text.

    ``tokens`` counts as the model does, ``limit`` is the most it reads, ``embed`` turns chunks into (n, dim) float32.
    """
    stripped = [item.text.strip() for item in texts]
    chunks = [chunk(text, tokens, limit) if text else [] for text in stripped]
    flat = [piece for pieces in chunks for piece in pieces]
    vectors = embed(flat) if flat else np.zeros((0, 0), np.float32)
    done = 0
    for pieces in chunks:
        count = len(pieces)
        part = vectors[done : done + count]
        done += count
        if pieces:
            yield Rows(list(range(count)), [None] * count, [None] * count, {"embedding": part})
        else:
            yield SampleError(Reason.NO_TEXT, "the text is empty")
