"""Kinds of noise on text: letters swapped, dropped, in the other case, without diacritics, mistyped; bytes doubled.

A letter is a character with its combining marks (`split_letters`), so no kind but `diacritics` parts a mark from its
letter. Digits and punctuation are letters, too; white space and control characters are none, and stay, but for those
whose bytes are doubled. What is no UTF-8 stays: it is no text, and may be a sentinel. Each letter has a draw of its
own, the same at all rates, so what is dropped at one rate is dropped at a higher one, too.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mrt5_jax.data.character_data import split_letters
from mrt5_jax.data.sources import Example, generator_of
from mrt5_jax.data.task_specs import INPUTS
from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.errors import UserError

Noise = Callable[[str, float, np.random.Generator], str]
"""(text, rate, generator) -> the text with noise. Bytes that are no UTF-8 are lone surrogates, as PEP 383 has them."""

_NO_TEXT = 0xF5
"""The first of the bytes that UTF-8 never has."""

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Rows of a QWERTY keyboard: each begins half a key to the right of the one above."""


def noisy_example(
    example: Example, preprocess: Callable[[Example], Example], kind: str, rate: float, seed: int
) -> Example:
    """Transforms an example of a source as its task does, and puts noise on its inputs; targets stay as they are.

    Args:
        preprocess: the task's.
        kind: one of NOISES.
        rate: how likely each place is to be changed, 0 to 1.
        seed: of the noise, which follows from it and from the example's seed.

    Raises:
        UserError: the inputs are ids some of which are no bytes.
    """
    transformed = preprocess(example)
    text = _bytes_of(transformed[INPUTS]).decode(errors="surrogateescape")
    noisy = NOISES[kind](text, rate, generator_of(example, seed))
    return {**transformed, INPUTS: noisy.encode(errors="surrogateescape")}


def _bytes_of(inputs: Any) -> bytes:
    """Of a text, of bytes, or of ids without EOS."""
    if isinstance(inputs, bytes):
        return inputs
    if isinstance(inputs, str):
        return inputs.encode()
    others = inputs[(inputs < BYTE_OFFSET) | (inputs >= BYTE_OFFSET + NUM_BYTES)]
    if len(others):
        raise UserError(f"inputs with the id {others[0]}, which is no byte: noise takes tasks whose inputs are text")
    return (inputs - BYTE_OFFSET).astype(np.uint8).tobytes()


def _swap(text: str, rate: float, generator: np.random.Generator) -> str:
    """Letters change places with the next one; none that has moved moves again."""
    letters = split_letters(text)
    chosen = _chosen(letters, rate, generator)
    place = 0
    while place + 1 < len(letters):
        if chosen[place] and _is_changeable(letters[place + 1]):
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
            place += 1
        place += 1
    return "".join(letters)


def _drop(text: str, rate: float, generator: np.random.Generator) -> str:
    letters = split_letters(text)
    chosen = _chosen(letters, rate, generator)
    return "".join(letter for letter, gone in zip(letters, chosen, strict=True) if not gone)


def _change_case(text: str, rate: float, generator: np.random.Generator) -> str:
    return _replace(text, rate, generator, str.swapcase)


def _remove_diacritics(text: str, rate: float, generator: np.random.Generator) -> str:
    return _replace(text, rate, generator, without_diacritics)


def _double_bytes(text: str, rate: float, generator: np.random.Generator) -> str:
    """Bytes of UTF-8 come twice, also within a character, which then is none any more."""
    data = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    twice = (generator.random(len(data)) < rate) & (data < _NO_TEXT)
    return np.repeat(data, 1 + twice).tobytes().decode(errors="surrogateescape")


def _mistype(text: str, rate: float, generator: np.random.Generator) -> str:
    """Letters become their neighbours on a QWERTY keyboard; all that is not a to z or A to Z stays."""
    letters = split_letters(text)
    chosen = _chosen(letters, rate, generator)
    picks = generator.random(len(letters))
    for place in np.flatnonzero(chosen):
        near = NEIGHBOURS.get(letters[place])
        if near:
            letters[place] = near[int(picks[place] * len(near))]
    return "".join(letters)


NOISES: Mapping[str, Noise] = {
    "swap": _swap,
    "drop": _drop,
    "case": _change_case,
    "diacritics": _remove_diacritics,
    "repeat_bytes": _double_bytes,
    "keyboard": _mistype,
}
"""Kinds of noise by name."""


def without_diacritics(letter: str) -> str:
    """Removes the marks above and below a letter, also where Unicode has both in one character.

    Points of Hebrew and Arabic are removed; vowel signs, viramas and tones of the scripts of South and South-East Asia,
    and voicing marks of kana, are letters here and stay.

    Examples:
        >>> without_diacritics("ế"), without_diacritics("й"), without_diacritics("कि")
        ('e', 'и', 'कि')
    """
    decomposed = unicodedata.normalize("NFD", letter)
    kept = "".join(character for character in decomposed if not _is_diacritic(character))
    return letter if kept == decomposed else unicodedata.normalize("NFC", kept)


def _is_diacritic(character: str) -> bool:
    """By the canonical combining class: 10 to 36 are points of Hebrew, Arabic and Syriac, from 200 on a place names it.

    Those between are vowel signs and tones of one script each, those below 10 viramas, nuktas and voicing marks.
    """
    number = unicodedata.combining(character)
    return 10 <= number <= 36 or number >= 200


def _neighbours() -> dict[str, str]:
    near: dict[str, str] = {}
    for row, keys in enumerate(_KEYS):
        for column, key in enumerate(keys):
            places = [(row, -1), (row, 1), (row - 1, 0), (row - 1, 1), (row + 1, -1), (row + 1, 0)]
            found = [
                _KEYS[other][column + offset]
                for other, offset in places
                if 0 <= other < len(_KEYS) and 0 <= column + offset < len(_KEYS[other])
            ]
            near[key] = "".join(found)
            near[key.upper()] = near[key].upper()
    return near


NEIGHBOURS: Mapping[str, str] = _neighbours()
"""Of each letter those whose keys touch its key, in the same case."""


def _replace(text: str, rate: float, generator: np.random.Generator, change: Callable[[str], str]) -> str:
    letters = split_letters(text)
    chosen = _chosen(letters, rate, generator)
    return "".join(change(letter) if own else letter for letter, own in zip(letters, chosen, strict=True))


def _chosen(letters: list[str], rate: float, generator: np.random.Generator) -> Bool[np.ndarray, " letters"]:
    changeable = np.fromiter(map(_is_changeable, letters), bool, len(letters))
    return (generator.random(len(letters)) < rate) & changeable


def _is_changeable(letter: str) -> bool:
    """No white space, control character or lone surrogate, and no mark without a letter, as where a text was cut."""
    return unicodedata.category(letter[0])[0] not in "MZC"
