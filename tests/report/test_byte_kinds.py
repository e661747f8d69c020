"""Every byte of any text is of one kind of each group."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.evaluation.inspection import Tally
from mrt5_jax.report.byte_kinds import (
    BYTE_KINDS,
    CHARACTERS,
    PLACES_IN_CHARACTER,
    PLACES_IN_WORD,
    byte_kinds,
    character_kind,
    count_deleted,
)

TEXTS = st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode(errors="replace")))


@pytest.mark.parametrize(
    ("letters", "kind"),
    [
        ("aEiOuéÜåø\u0131\u03b1\u03ac\u0430\u0451\u0457", "vowel"),
        ("bYzñßç\u03b2\u0431\u0439\u045e", "consonant"),
        ("日\u0e01\u05d0\u0639\u0915\uac00", "letter of another script"),
        ("\u0301\u093e", "combining mark"),
        ("0٣²", "digit"),
        (" \t\n\u3000", "space"),
        (".,!«。", "punctuation"),
        ("+€😀", "symbol"),
        ("\0\x1b\u202e\u200d", "control or format"),
        ("\udcff", "no UTF-8"),
    ],
)
def test_characters_have_the_kinds_that_readers_expect(letters: str, kind: str) -> None:
    assert {letter: character_kind(letter) for letter in letters} == dict.fromkeys(letters, kind)


@given(TEXTS)
def test_every_byte_is_of_one_kind_of_each_group(data: bytes) -> None:
    found = byte_kinds(data)
    assert len(found) == len(data)
    for kind in found:
        assert kind.character in CHARACTERS
        assert kind.place_in_word in PLACES_IN_WORD
        assert kind.place_in_character in PLACES_IN_CHARACTER or kind.character == "no UTF-8"


def test_places_in_characters_and_words() -> None:
    first, within, last, between = PLACES_IN_WORD
    whole, lead, more = PLACES_IN_CHARACTER
    found = byte_kinds("ab é, x\xe9".encode()[:-1] + b"\xff")
    assert [kind.place_in_word for kind in found] == [first, last, between, first, last, between, between, first] + [
        between
    ] * 2
    assert [kind.place_in_character for kind in found] == [whole, whole, whole, lead, more, whole, whole, whole, "", ""]
    assert [kind.place_in_word for kind in byte_kinds("日本".encode())] == [first, *[within] * 4, last]


@given(TEXTS, st.data())
def test_counts_are_of_all_bytes(data: bytes, draw: st.DataObject) -> None:
    """Each group adds up to the text; a kind's deleted bytes are those of its bytes that are not kept."""
    keep = draw.draw(st.lists(st.booleans(), min_size=len(data), max_size=len(data)))
    found = count_deleted(data, keep)
    assert list(found) == [kind for kind in BYTE_KINDS if kind in found]
    for group in (CHARACTERS, PLACES_IN_WORD):
        assert sum(found[kind].total for kind in group if kind in found) == len(data)
        assert sum(found[kind].deleted for kind in group if kind in found) == keep.count(False)


def test_counts_of_a_text() -> None:
    found = count_deleted(b"an ox", [True, False, False, True, False])
    assert found["vowel"] == Tally(2, 0)
    assert found["consonant"] == Tally(2, 2)
    assert found["space"] == Tally(1, 1)
    assert found["whole character"] == Tally(5, 3)
    assert found["first byte of a word"] == Tally(2, 0)
    assert found["last byte of a word"] == Tally(2, 2)
