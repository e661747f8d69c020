"""The diagnostic tasks of MrT5 section 4.1: random letters, of which a rule deletes or rewrites some.

Strings are '#' and then letters a-zA-Z. Sums of letter numbers tell the splits apart: the last letter of every string
is chosen so that the sum falls into a residue class of its split, so no string can be in two splits.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from mrt5_jax.data.philox import normal_floats, split_seeds, uniform_floats, uniform_integers
from mrt5_jax.data.sources import Example
from mrt5_jax.data.vocabulary import bytes_to_ids
from mrt5_jax.errors import UserError

DiagnosticKind = Literal["copy", "vowel_removal", "contextual_vowel_removal", "merge_abc"]

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOWELS = b"aeiouAEIOU"
MIN_LENGTH = 8
"""In ids with EOS: '#', a planted ABC, and letters to choose from."""

_CONSONANTS = bytes(letter for letter in LETTERS if letter not in VOWELS)
_RESIDUES = {"train": (0, 48), "validation": (48, 50), "test": (50, 52)}


class _Planting(NamedTuple):
    """Patterns written over the random letters; their number is about normal, for 64 ids as in the paper."""

    mean: float
    deviation: float
    choices: tuple[bytes, ...]
    """Of each letter of the pattern."""


_PLANTED: dict[DiagnosticKind, _Planting] = {
    "contextual_vowel_removal": _Planting(25.0, 12.5, (_CONSONANTS, VOWELS)),
    "merge_abc": _Planting(5.0, 2.5, (b"A", b"B", b"C")),
}


def make_examples(kind: DiagnosticKind, length: int) -> Callable[[str, Int[np.ndarray, " block"]], Iterator[Example]]:
    """Returns a function (split, indices) -> examples with `inputs` [length - 1] and `targets`, int32 ids without EOS.

    Args:
        length: of the inputs in ids, '#' and EOS counted.

    Raises:
        UserError: the length is too short.
    """
    if length < MIN_LENGTH:
        raise UserError(f"length {length} is too short for a diagnostic task: it takes at least {MIN_LENGTH}")
    rule = _RULES[kind]

    def examples(split: str, indices: Int[np.ndarray, " block"]) -> Iterator[Example]:
        # The strings of a split are always the same ones; only their order follows from the run's seed.
        seeds = np.stack([np.full(len(indices), _RESIDUES[split][0], np.int64), indices], axis=1)
        letters = _random_letters(kind, split, length - 2, seeds)
        for text in np.pad(letters, ((0, 0), (1, 0)), constant_values=ord("#")):
            yield {"inputs": bytes_to_ids(text), "targets": bytes_to_ids(rule(text))}

    return examples


def _random_letters(
    kind: DiagnosticKind, split: str, count: int, seeds: Int[np.ndarray, "block 2"]
) -> UInt8[np.ndarray, "block count"]:
    letters_seeds, planting_seeds, residue_seeds = split_seeds(seeds, 3)
    letters = _choose(LETTERS, count - 1, letters_seeds)
    if kind in _PLANTED:
        _plant(letters, _PLANTED[kind], planting_seeds)
    residues = uniform_integers(residue_seeds, 1, *_RESIDUES[split])[:, 0]
    last = (residues - _LETTER_NUMBERS[letters].sum(axis=1)) % len(LETTERS)
    return np.append(letters, _codes(LETTERS)[last][:, None], axis=1)


def _plant(letters: UInt8[np.ndarray, "block size"], planting: _Planting, seeds: Int[np.ndarray, "block 2"]) -> None:
    """Writes patterns into `letters` at random places, none overlapping another."""
    size, width = letters.shape[1], len(planting.choices)
    number_seeds, places_seeds, *pattern_seeds = split_seeds(seeds, 2 + width)
    wanted = np.float32(planting.mean) + np.float32(planting.deviation) * normal_floats(number_seeds)
    numbers = np.round(wanted * np.float32((size + 3) / 64)).astype(np.int32).clip(0, size // width)
    orders = uniform_floats(places_seeds, size)
    patterns = [
        _choose(choices, size // width, own) for choices, own in zip(planting.choices, pattern_seeds, strict=True)
    ]
    for row, number in enumerate(numbers):
        # Places for `number` patterns are a choice of that many out of the slots left when each pattern is one letter.
        slots = size - number * (width - 1)
        chosen = np.sort(np.argsort(-orders[row, :slots], kind="stable")[:number])
        places = chosen + np.arange(number) * (width - 1)
        for offset, pattern in enumerate(patterns):
            letters[row, places + offset] = pattern[row, :number]


def _choose(letters: bytes, count: int, seeds: Int[np.ndarray, "block 2"]) -> UInt8[np.ndarray, "block count"]:
    return _codes(letters)[uniform_integers(seeds, count, 0, len(letters))]


def _codes(letters: bytes) -> UInt8[np.ndarray, " letters"]:
    return np.frombuffer(letters, np.uint8)


_LETTER_NUMBERS = np.array([max(LETTERS.find(bytes([byte])), 0) for byte in range(256)])
"""Of each byte: its place among LETTERS."""


def _is_one_of(text: UInt8[np.ndarray, " length"], letters: bytes) -> Bool[np.ndarray, " length"]:
    return np.isin(text, _codes(letters))


def _copy(text: UInt8[np.ndarray, " length"]) -> UInt8[np.ndarray, " length"]:
    return text


def _remove_vowels(text: UInt8[np.ndarray, " length"]) -> UInt8[np.ndarray, " rest"]:
    return text[~_is_one_of(text, VOWELS)]


def _remove_vowels_after_lowercase_consonants(text: UInt8[np.ndarray, " length"]) -> UInt8[np.ndarray, " rest"]:
    follows = np.append(False, _is_one_of(text[:-1], _CONSONANTS.translate(None, LETTERS[26:])))
    return text[~(_is_one_of(text, VOWELS) & follows)]


def _merge_abc(text: UInt8[np.ndarray, " length"]) -> UInt8[np.ndarray, " rest"]:
    return _codes(text.tobytes().replace(b"ABC", b"D"))


_RULES: dict[DiagnosticKind, Callable[[UInt8[np.ndarray, " length"]], UInt8[np.ndarray, " rest"]]] = {
    "copy": _copy,
    "vowel_removal": _remove_vowels,
    "contextual_vowel_removal": _remove_vowels_after_lowercase_consonants,
    "merge_abc": _merge_abc,
}
