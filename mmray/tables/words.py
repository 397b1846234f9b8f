"""Alignments: clips of speech become one sample per word, with the part of the clip in which it is said."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from mmray import storage
from mmray.config import nearest
from mmray.errors import ConfigError

UNITS_PER_S = 25_000  # .align files of the GRID corpus: thousandths of a frame, at 25 frames a second
SILENCE = frozenset({"sil", "sp"})
NOT_NAMED = "_"


class Word(NamedTuple):
    """A word of a clip, in seconds from its start."""

    word: str
    start_s: float
    end_s: float


def spoken(table: pa.Table, where: str, slots: Sequence[str] = ()) -> tuple[pa.Table, dict[str, int]]:
    """Return one row per word, and how many clips and words were left out, by why.

    ``where``: a column that holds ``word:start-end;word:start-end`` in seconds, or a folder with a GRID ``.align`` file
    for each sample, under its id with that ending. Each row has ``clip`` (the sample it is of), ``position`` (1 for
    the first word), ``word``, ``start_s``, ``end_s`` and the other columns of its clip; ``label`` is the word unless
    the clip has one. ``slots`` names the words of a clip by their place (column ``slot``): ``_`` leaves such words
    out, and so are clips of another number of words.
    """
    aligned = _column(table, where) if where in table.column_names else _files(table, where)
    left_out = {"clips without words": 0, "clips of another number of words": 0, "words of other slots": 0}
    rows, places, positions = [], [], []
    for place, found in enumerate(aligned):
        if not found:
            left_out["clips without words"] += 1
        elif slots and len(found) != len(slots):
            left_out["clips of another number of words"] += 1
        else:
            wanted = [one for one in range(len(found)) if not slots or slots[one] != NOT_NAMED]
            left_out["words of other slots"] += len(found) - len(wanted)
            rows += [found[one] for one in wanted]
            places += [place] * len(wanted)
            positions += [one + 1 for one in wanted]
    if not rows:
        said = ", ".join(f"{why}: {count}" for why, count in left_out.items() if count)
        raise ConfigError(f"--words {where}: not one word is left ({said})")
    return _table(table, where, rows, places, positions, slots), {why: n for why, n in left_out.items() if n}


def _table(
    table: pa.Table,
    where: str,
    rows: Sequence[Word],
    places: Sequence[int],
    positions: Sequence[int],
    slots: Sequence[str],
) -> pa.Table:
    clips = table.take(pa.array(places, pa.int64()))
    ids = clips["sample_id"].to_pylist()
    starts = clips["start_s"].to_pylist() if "start_s" in clips.column_names else [None] * len(ids)
    offsets_s = [start_s or 0.0 for start_s in starts]  # the clip may itself be a part of a medium
    new = {
        "sample_id": pa.array([f"{clip}#{position}" for clip, position in zip(ids, positions, strict=True)]),
        "clip": clips["sample_id"],
        "position": pa.array(positions, pa.int64()),
        "word": pa.array([row.word for row in rows], pa.string()),
        "start_s": pa.array([offset + row.start_s for offset, row in zip(offsets_s, rows, strict=True)], pa.float64()),
        "end_s": pa.array([offset + row.end_s for offset, row in zip(offsets_s, rows, strict=True)], pa.float64()),
    }
    if slots:
        new["slot"] = pa.array([slots[position - 1] for position in positions], pa.string())
    if "label" not in clips.column_names:
        new["label"] = new["word"]
    kept = {name: clips[name] for name in clips.column_names if name not in new and name != where}
    return pa.table(new | kept)


def _column(table: pa.Table, column: str) -> list[list[Word]]:
    aligned = []
    for clip, text in zip(table["sample_id"].to_pylist(), table[column].cast(pa.string()).to_pylist(), strict=True):
        parts = [part for part in (text or "").split(";") if part.strip()]
        aligned.append(_without_silence([_word(part, clip, column) for part in parts]))
    return aligned


def _word(part: str, clip: str, column: str) -> Word:
    word, _, times = part.strip().rpartition(":")
    start, _, end = times.partition("-")
    try:
        return _checked(Word(word, float(start), float(end)))
    except ValueError:
        raise ConfigError(
            f"--words {column}: {clip}: {part.strip()!r} is not word:start-end in seconds, with start < end"
        ) from None


def _files(table: pa.Table, folder: str) -> list[list[Word]]:
    """Read the ``.align`` file of each sample: lines ``start end word``; where there is none there are no words."""
    if not storage.is_folder(folder):
        near = nearest(folder, table.column_names)
        raise ConfigError(f"--words {folder}: the manifest has no such column, and there is no such folder{near}")
    names = [sample_id.rpartition(".")[0] or sample_id for sample_id in table["sample_id"].to_pylist()]
    uris = [storage.join(folder, f"{name}.align") for name in names]
    there = storage.entries(uris)
    return [_without_silence(_align(uri)) if isinstance(there[uri], storage.Entry) else [] for uri in uris]


def _align(uri: str) -> list[Word]:
    found = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        try:
            if fields:
                start, end, word = fields
                found.append(_checked(Word(word, int(start) / UNITS_PER_S, int(end) / UNITS_PER_S)))
        except ValueError:
            raise ConfigError(f"{uri}: line {number} is not 'start end word', with start < end: {line!r}") from None
    return found


def _checked(word: Word) -> Word:
    if not (word.word and 0 <= word.start_s < word.end_s):
        raise ValueError(word)
    return word


def _without_silence(words: Sequence[Word]) -> list[Word]:
    return [word for word in words if word.word not in SILENCE]
