"""What kinds of bytes a gate deletes: of which characters, where in a character, where in a word."""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrt5_jax.evaluation.inspection import Tally

CHARACTERS = (
    "vowel",
    "consonant",
    "letter of another script",
    "combining mark",
    "digit",
    "space",
    "punctuation",
    "symbol",
    "control or format",
    "no UTF-8",
)
PLACES_IN_CHARACTER = ("whole character", "first byte of a character", "continuation byte")
PLACES_IN_WORD = ("first byte of a word", "byte within a word", "last byte of a word", "byte between words")
BYTE_KINDS: tuple[str, ...] = (*CHARACTERS, *PLACES_IN_CHARACTER, *PLACES_IN_WORD)
"""All kinds, in the order in which they are shown. A byte of UTF-8 is of one kind of each of the three groups."""

_VOWELS = frozenset(
    "aeiou\u0131\u0259\u00e6\u0153\u00f8"
    "\u03b1\u03b5\u03b7\u03b9\u03bf\u03c5\u03c9"
    "\u0430\u0435\u0438\u043e\u0443\u044b\u044d\u044e\u044f\u0456\u0454\u04e9"
)
"""Of the Latin, the Greek and the Cyrillic script, without their accents; y is taken as a consonant."""
_NO_VOWELS = frozenset("\u0439\u045e")
"""Cyrillic short i and short u are written as vowels with an accent."""
_SCRIPTS_WITH_VOWELS = ("LATIN ", "GREEK ", "CYRILLIC ")
_BY_CATEGORY = {"M": "combining mark", "N": "digit", "Z": "space", "P": "punctuation", "S": "symbol"}


class ByteKind(NamedTuple):
    """What a byte of a text is."""

    character: str
    place_in_character: str
    """Empty of a byte that is no UTF-8."""
    place_in_word: str


@functools.cache
def character_kind(letter: str) -> str:
    """Returns the kind of a character, one of CHARACTERS.

    Args:
        letter: one character; a byte that is no UTF-8 is a surrogate, as Python's "surrogateescape" has it.
    """
    if 0xDC80 <= ord(letter) <= 0xDCFF:
        return "no UTF-8"
    if letter.isspace():
        return "space"
    category = unicodedata.category(letter)[0]
    if category != "L":
        return _BY_CATEGORY.get(category, "control or format")
    if not unicodedata.name(letter, "").startswith(_SCRIPTS_WITH_VOWELS):
        return "letter of another script"
    small = letter.lower()
    base = unicodedata.normalize("NFD", small)[0]
    return "vowel" if base in _VOWELS and small not in _NO_VOWELS else "consonant"


def byte_kinds(data: bytes) -> list[ByteKind]:
    """Returns what each byte of a text is.

    A word is a run of letters, marks and digits; one of a single byte has a first byte alone.
    """
    letters = data.decode(errors="surrogateescape")
    found: list[ByteKind] = []
    characters = [(character_kind(letter), len(letter.encode(errors="surrogateescape"))) for letter in letters]
    in_word = [kind in CHARACTERS[:5] for kind, _ in characters]
    for number, (kind, size) in enumerate(characters):
        begins = in_word[number] and not (number and in_word[number - 1])
        ends = in_word[number] and not any(in_word[number + 1 : number + 2])
        for place in range(size):
            of_character = PLACES_IN_CHARACTER[0 if size == 1 else 1 if place == 0 else 2]
            if not in_word[number]:
                of_word = PLACES_IN_WORD[3]
            elif begins and place == 0:
                of_word = PLACES_IN_WORD[0]
            else:
                of_word = PLACES_IN_WORD[2 if ends and place == size - 1 else 1]
            found.append(ByteKind(kind, "" if kind == "no UTF-8" else of_character, of_word))
    return found


def count_deleted(data: bytes, keep: Sequence[bool]) -> Mapping[str, Tally]:
    """Counts the bytes of a text by kind: all, and those that are deleted; kinds that do not occur are left out.

    Args:
        keep: whether each byte stays.
    """
    totals, deleted = dict.fromkeys(BYTE_KINDS, 0), dict.fromkeys(BYTE_KINDS, 0)
    for kind, kept in zip(byte_kinds(data), keep, strict=True):
        for name in filter(None, kind):
            totals[name] += 1
            deleted[name] += not kept
    return {name: Tally(totals[name], deleted[name]) for name in BYTE_KINDS if totals[name]}
