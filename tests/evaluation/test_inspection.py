"""Inspection: every byte is in exactly one piece, characters stay whole, and what is shown is safe to show."""

import unicodedata

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.data.batches import model_batch
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID, decode, encode
from mrt5_jax.evaluation.evaluate import INDEX
from mrt5_jax.evaluation.inspection import (
    Tally,
    first_bytes,
    inspect_windows,
    make_inspector,
    pieces,
    split_text,
    tally,
    vowel_statistics,
)

CONTENTS = st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode(errors="replace")))


def texts(data: bytes | list[int]) -> list[str]:
    ids = np.asarray(data, np.int32) if isinstance(data, list) else encode(data)
    return [piece.text for piece in pieces(ids, np.ones(len(ids), bool), np.zeros(len(ids), np.float32))]


@given(CONTENTS, st.integers(0, 3))
def test_pieces_have_every_id_once_in_order(data: bytes, pads: int) -> None:
    """Whatever the bytes: nothing is lost, doubled or moved, and values and masks stay with their ids."""
    ids = np.concatenate([encode(data), [EOS_ID], np.full(pads, PAD_ID)]).astype(np.int32)
    keep, values = np.arange(len(ids)) % 3 > 0, -np.arange(len(ids), dtype=np.float32)
    found = pieces(ids, keep, values)
    real = len(data) + 1
    assert [token for piece in found for token in piece.ids] == ids[:real].tolist()
    assert [kept for piece in found for kept in piece.keep] == keep[:real].tolist()
    assert [value for piece in found for value in piece.values] == values[:real].tolist()
    assert sum(count.total for count in tally(found).values()) == real


@given(CONTENTS)
def test_nothing_shown_acts_on_a_terminal(data: bytes) -> None:
    """No control or format character gets through but the line's end and joiners within a character."""
    for text in texts(data):
        odd = [letter for letter in text if unicodedata.category(letter)[0] == "C" or letter in "\u2028\u2029"]
        assert text == "\n" or set(odd) <= set("\u200c\u200d")
        assert text not in ("\u200c", "\u200d")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"h\xc3\xa9\xc3(", ["h", "é", "\\xC3", "("]),  # a lead byte without its continuation
        ("né\u0301".encode(), ["n", "é\u0301"]),  # a combining mark
        ("a\u200d\u202e\0".encode(), ["a\u200d", "\\u202E", "\\u0000"]),  # nothing acts behind a joiner
        ("हिन्दी".encode(), ["हि", "न्", "दी"]),
        ("👩\u200d💻👍🏽".encode(), ["👩\u200d💻", "👍🏽"]),
        ("\u0301a".encode(), ["\u25cc\u0301", "a"]),  # a mark with nothing to stand on
        (b"\x1b[31m\t", ["\\u001B", "[", "3", "1", "m", "\\t"]),
        ("\u202ea".encode(), ["\\u202E", "a"]),  # would turn the line around
        (b"\xf0\x9f\x98", ["\\xF0", "\\x9F", "\\x98"]),  # cut off
        ([100, EOS_ID, 2, 300, 258], ["a", "</s>", "<unk>", "<id_300>", "\\xFF"]),
    ],
)
def test_characters(data: bytes | list[int], expected: list[str]) -> None:
    assert texts(data) == expected


def test_kinds_and_states() -> None:
    """Letters of any script against other bytes, and a character of which some bytes are deleted."""
    ids = np.concatenate([encode("ж1".encode() + b"\xff"), [EOS_ID]]).astype(np.int32)
    found = pieces(ids, np.array([True, False, False, True, False]), np.zeros(5, np.float32))
    assert [piece.state for piece in found] == ["partly deleted", "deleted", "kept", "deleted"]
    assert tally(found) == {"letter": Tally(2, 1), "other": Tally(1, 1), "invalid": Tally(1, 0), "special": Tally(1, 1)}


@given(CONTENTS, st.integers(2, 12))
def test_windows_fit_and_join_to_the_text(data: bytes, input_length: int) -> None:
    windows = split_text(data, input_length)
    assert b"".join(windows) == data
    assert all(len(window) < input_length for window in windows)
    assert all(windows) or data == b""


@given(st.text(max_size=30), st.integers(5, 12))
def test_windows_do_not_cut_characters(text: str, input_length: int) -> None:
    data = text.encode(errors="replace")
    assert "".join(window.decode() for window in split_text(data, input_length)) == data.decode()


@given(CONTENTS, st.integers(1, 12))
def test_first_bytes_are_as_many_whole_characters_as_fit(data: bytes, size: int) -> None:
    found = first_bytes(data, size)
    assert data.startswith(found)
    assert min(len(data), max(1, size - 3)) <= len(found) <= size
    if len(found) < min(len(data), size):
        assert data[len(found)] & 0xC0 != 0x80, "cut before a character"


def test_inspection_shows_what_hard_deletion_keeps(tiny) -> None:
    """As many bytes of each window as hard deletion keeps, those with gate values above the threshold."""
    windows = [b"abcdefg", b"UVWxy", "aüb".encode()]
    found = list(inspect_windows(make_inspector(tiny.model), tiny.params, windows, input_length=8, batch_size=2))
    assert [decode(token for piece in row for token in piece.ids) for row in found] == windows
    for row in found:
        keep = [kept for piece in row for kept in piece.keep]
        if sum(keep) > 1:  # otherwise it may be the one that never goes
            assert keep == [value > -15 for piece in row for value in piece.values]

    tokens, targets = np.zeros((4, 8), np.int32), np.zeros((4, 4), np.int32)
    for row, window in enumerate(windows):
        tokens[row, : len(window) + 1] = [*encode(window), EOS_ID]
    batch = {**model_batch(tokens, targets), INDEX: np.zeros(4, np.int32)}
    (results,) = tiny.evaluator(tiny.params, [jax.device_put(batch)], "hard")
    assert 6 < int(results.num_kept_tokens.sum()) < 15  # of 19: or the comparison says little
    assert results.num_kept_tokens.tolist() == [sum(sum(piece.keep) for piece in row) for row in found] + [0]


def test_vowel_statistics() -> None:
    """Counted by hand: '#', EOS and pads are no letters, upper case counts, kept vowels are not deleted."""
    tokens = np.zeros((2, 8), np.int32)
    tokens[0, :6] = [*encode("#aXEi"), EOS_ID]
    tokens[1, :4] = [*encode("#zu"), EOS_ID]
    keep = np.array([[0, 0, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    found = vowel_statistics(tokens, keep)
    assert found == (Tally(4, 3), Tally(6, 4), Tally(2, 1), Tally(2, 1))
    assert found.vowels.rate == 0.75
    assert found.vowels_among_deleted_letters == 0.75
    assert np.isnan(vowel_statistics(tokens, np.ones_like(keep)).vowels_among_deleted_letters)
