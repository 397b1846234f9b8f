"""Long texts lose nothing when they are chunked."""

import pytest

from mmray.models.chunks import chunk


def words(text: str) -> int:
    return len(text.split())


def characters(text: str) -> int:
    return len(text) + 2  # with two special tokens


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100, 1001])
def test_no_word_is_lost_and_no_chunk_too_long(length):
    text = " ".join(f"w{number}" for number in range(length))
    pieces = chunk(text, words, 8)
    assert " ".join(pieces) == text
    assert max(map(words, pieces)) <= 8


def test_chunks_are_of_about_equal_length():
    lengths = [words(piece) for piece in chunk(" ".join(["word"] * 17), words, 8)]
    assert max(lengths) - min(lengths) <= 2


def test_a_short_text_is_one_chunk():
    assert chunk("a b", words, 8) == ["a b"]


def test_only_a_word_beyond_the_limit_is_split_inside():
    pieces = chunk("ab " + "x" * 50 + " cd", characters, 12)
    assert "".join(pieces).replace(" ", "") == "ab" + "x" * 50 + "cd"
    assert max(map(characters, pieces)) <= 12
    assert all("a" not in piece or "ab" in piece for piece in pieces)


def test_scripts_without_spaces_are_split_too():
    text = "漢字" * 40
    assert "".join(chunk(text, characters, 20)) == text


def test_very_long_texts_are_counted_few_times():
    counted = 0

    def tokens(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text) // 4 + 2

    for text in ("word " * 200_000, "x" * 1_000_000):
        counted = 0
        pieces = chunk(text.strip(), tokens, 512)
        assert counted < 6 * len(text)  # halving all the way, down from 500 pieces, would make it 10
        assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
        assert max(map(tokens, pieces)) <= 512
        assert min(map(len, pieces)) > 512


def test_white_space_at_the_cuts_makes_no_piece():
    assert chunk("a" + " " * 1000 + "b", characters, 8) == ["a", "b"]
    assert chunk("", characters, 8) == [""]
