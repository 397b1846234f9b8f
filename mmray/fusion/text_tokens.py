"""Several texts of a sample as token sequences that a model can read whole: joined, and cut where they are long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmray.errors import ConfigError
from mmray.media.text import text as normal
from mmray.models.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Cut = tuple[tuple[int, int], ...]  # start and end of a piece, for each text
LEAST_ROOM = 4  # tokens of a chunk for each text, beside the special ones
TOGETHER = 256  # samples that are tokenized at a time


@dataclass(frozen=True)
class Chunks:
    """The chunks of samples, one after the other.

    ``ids``: the tokens of all in a row, special ones included; chunk c has ``starts[c]`` up to ``starts[c + 1]``, and
    from ``second[c]`` on they are the second text of a pair. Sample s has the chunks ``first[s]`` up to
    ``first[s + 1]``. ``shortened``: which samples have more chunks than were taken.
    """

    ids: Ids
    starts: Places
    second: Places
    first: Places
    shortened: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> Places:
        """Return the tokens of each chunk."""
        return np.diff(self.starts)

    @property
    def counts(self) -> Places:
        """Return the chunks of each sample."""
        return np.diff(self.first)

    def of(self, samples: Places) -> tuple[Places, Places]:
        """Return the chunks of some samples, and for each which of these it belongs to."""
        counts = self.counts[samples]
        owner = np.repeat(np.arange(len(samples)), counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.first[samples][owner] + inside, owner

    def padded(self, chunks: Places, padding: int) -> tuple[Places, Places, Places]:
        """Return token ids, which are there, and which are of the second text: int64 (chunks, longest)."""
        lengths = self.lengths[chunks][:, None]
        column = np.arange(lengths.max())[None]
        there = column < lengths
        ids = self.ids[np.where(there, self.starts[chunks][:, None] + column, 0)]
        second = there & (column >= self.second[chunks][:, None])
        return np.where(there, ids, padding).astype(np.int64), there.astype(np.int64), second.astype(np.int64)


def cuts(lengths: Sequence[int], room: int) -> list[Cut]:
    """Cut the texts of a sample into as few chunks as hold them, each of at most ``room`` tokens.

    A text within its equal share of the room stands whole in every chunk; the others are cut into as many pieces of
    about equal length, so that each chunk has the same part of all of them and no token is lost.
    """
    if sum(lengths) <= room:
        return [tuple((0, length) for length in lengths)]
    share = room // len(lengths)
    long = [length for length in lengths if length > share]
    left = room - (sum(lengths) - sum(long))
    count = -(-sum(long) // left)
    while sum(-(-length // count) for length in long) > left:
        count += 1
    return [
        tuple((0, n) if n <= share else (n * place // count, n * (place + 1) // count) for n in lengths)
        for place in range(count)
    ]


class Joiner:
    """Texts -> chunks: one text as the tokenizer has it, two as its pairs, more with its separator between them."""

    def __init__(self, tokenizer: Tokenizer, texts: int, tokens: int | None, chunks: int) -> None:
        """Join ``texts`` of each sample into chunks of at most ``tokens`` (None: what the model reads).

        A sample gets at most ``chunks``. ConfigError where the model reads fewer tokens, or the special ones leave no
        room.
        """
        self._library: Any = tokenizer.library
        self._typed = "token_type_ids" in self._library.model_input_names
        self._most = chunks
        self._start, self._between, self._end = _special(self._library, texts)
        self.limit = tokens or tokenizer.limit
        special = len(self._start) + (texts - 1) * len(self._between) + len(self._end)
        self._room = self.limit - special
        if self.limit > tokenizer.limit:
            raise ConfigError(f"tokens: {tokens} are more than the {tokenizer.limit} that the model reads")
        if self._room < LEAST_ROOM * texts:
            raise ConfigError(f"tokens: {self.limit} leave no room for {texts} text(s) beside {special} special tokens")

    def __call__(self, samples: Sequence[Sequence[str | None]]) -> Chunks:
        """Tokenize the texts of samples; None where one is absent. A sample without any has no chunk.

        Where a sample has more chunks than it may, as many are taken, evenly.
        """
        found = [self._taken(texts) for texts in _tokenized(self._library, samples)]
        chunks = [chunk for taken, _ in found for chunk in taken]
        return Chunks(
            ids=np.concatenate([ids for ids, _ in chunks] or [np.zeros(0, np.int32)]),
            starts=_ends([len(ids) for ids, _ in chunks]),
            second=np.array([second for _, second in chunks], np.int64),
            first=_ends([len(taken) for taken, _ in found]),
            shortened=np.array([whole > len(taken) for taken, whole in found], bool),
        )

    def inputs(self, chunks: Chunks, places: Places, device: Any) -> dict[str, Tensor]:
        """Return what a model reads of some chunks, padded to the longest: int64 (chunks, tokens) each."""
        ids, there, second = chunks.padded(places, self._library.pad_token_id)
        found = {"input_ids": ids, "attention_mask": there} | ({"token_type_ids": second} if self._typed else {})
        return {name: torch.from_numpy(one).to(device) for name, one in found.items()}

    def _taken(self, texts: Sequence[Ids] | None) -> tuple[list[tuple[Ids, int]], int]:
        """Return the chunks of a sample that are taken, and how many it has."""
        if texts is None:
            return [], 0
        places = cuts([len(ids) for ids in texts], self._room)
        count = min(len(places), self._most)
        chosen = [places[place * len(places) // count] for place in range(count)]
        return [self._joined([ids[a:b] for ids, (a, b) in zip(texts, cut, strict=True)]) for cut in chosen], len(places)

    def _joined(self, parts: Sequence[Ids]) -> tuple[Ids, int]:
        """Join a piece of each text; also return where the second text of a pair begins."""
        ids = [self._start, parts[0]]
        for part in parts[1:]:
            ids += [self._between, part]
        whole = np.concatenate([*ids, self._end])
        return whole, sum(map(len, ids[:3])) if len(parts) == 2 else len(whole)


def _ends(counts: Sequence[int]) -> Places:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _tokenized(library: Any, samples: Sequence[Sequence[str | None]]) -> Iterator[list[Ids] | None]:
    """Yield the tokens of each sample's texts; None where it has none."""
    for start in range(0, len(samples), TOGETHER):
        part = samples[start : start + TOGETHER]
        flat = [normal(text).text if text else "" for texts in part for text in texts]
        rows = iter(library(flat, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])
        for texts in part:
            ids = [np.array(next(rows), np.int32) for _ in texts]
            yield ids if any(text is not None for text in texts) else None


def _special(library: Any, texts: int) -> tuple[Ids, Ids, Ids]:
    """Return the ids before the first text, between two, and after the last, as this tokenizer sets them."""
    plain = library("x", add_special_tokens=False)["input_ids"]
    whole = library("x", "x" if texts == 2 else None)["input_ids"]
    size = len(plain)
    places = [place for place in range(len(whole) - size + 1) if whole[place : place + size] == plain]
    between = whole[places[0] + size : places[-1]] if texts == 2 else [library.sep_token_id]
    start, end = whole[: places[0]], whole[places[-1] + size :]
    return np.array(start, np.int32), np.array(between, np.int32), np.array(end, np.int32)
