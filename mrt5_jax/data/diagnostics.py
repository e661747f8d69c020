"""The diagnostic tasks of MrT5 section 4.1: random letters, of which a rule deletes or rewrites some.

Strings are '#' and then letters a-zA-Z. Sums of letter numbers tell the splits apart: the last letter of every string
is chosen so that the sum falls into a residue class of its split, so no string can be in two splits.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import tensorflow as tf

from mrt5_jax.data.sources import Example
from mrt5_jax.data.vocabulary import BYTE_OFFSET
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


def make_example(kind: DiagnosticKind, length: int) -> Callable[[str, tf.Tensor], Example]:
    """A function (split, index) -> `inputs` [length - 1] and `targets`, int32 ids without EOS.

    Args:
        length: of the inputs in ids, '#' and EOS counted.

    Raises:
        UserError: the length is too short.
    """
    if length < MIN_LENGTH:
        raise UserError(f"length {length} is too short for a diagnostic task: it takes at least {MIN_LENGTH}")
    rule = _RULES[kind]

    def example(split: str, index: tf.Tensor) -> Example:
        # The strings of a split are always the same ones; only their order follows from the run's seed.
        seed = tf.stack([tf.constant(_RESIDUES[split][0], tf.int64), index])
        text = tf.concat([tf.constant([ord("#")]), _random_letters(kind, split, length - 2, seed)], axis=0)
        return {"inputs": text + BYTE_OFFSET, "targets": rule(text) + BYTE_OFFSET}

    return example


def _random_letters(kind: DiagnosticKind, split: str, count: int, seed: tf.Tensor) -> tf.Tensor:
    letters_seed, planting_seed, residue_seed = tf.unstack(tf.random.split(seed, 3))
    letters = _choose(LETTERS, [count - 1], letters_seed)
    if kind in _PLANTED:
        letters = _plant(letters, _PLANTED[kind], count, planting_seed)
    first, stop = _RESIDUES[split]
    residue = tf.random.stateless_uniform([], residue_seed, first, stop, tf.int32)
    last = tf.math.floormod(residue - tf.reduce_sum(tf.gather(_letter_numbers(), letters)), len(LETTERS))
    return tf.concat([letters, [tf.gather(_codes(LETTERS), last)]], axis=0)


def _plant(letters: tf.Tensor, planting: _Planting, count: int, seed: tf.Tensor) -> tf.Tensor:
    """`letters` with patterns at random places, none overlapping another."""
    size, width = count - 1, len(planting.choices)
    number_seed, places_seed, *pattern_seeds = tf.unstack(tf.random.split(seed, 2 + width))
    scale = (count + 2) / 64
    wanted = planting.mean + planting.deviation * tf.random.stateless_normal([], number_seed)
    number = tf.clip_by_value(tf.cast(tf.round(wanted * scale), tf.int32), 0, size // width)
    # Places for `number` patterns are a choice of that many out of the slots left when each pattern is one letter.
    slots = size - number * (width - 1)
    order = tf.random.stateless_uniform(tf.reshape(slots, [1]), places_seed)
    chosen = tf.sort(tf.math.top_k(order, number, sorted=False).indices)
    places = chosen + tf.range(number) * (width - 1)
    for offset, (choices, pattern_seed) in enumerate(zip(planting.choices, pattern_seeds, strict=True)):
        pattern = _choose(choices, tf.reshape(number, [1]), pattern_seed)
        letters = tf.tensor_scatter_nd_update(letters, (places + offset)[:, None], pattern)
    return letters


def _choose(letters: bytes, shape: tf.Tensor | list[int], seed: tf.Tensor) -> tf.Tensor:
    numbers = tf.random.stateless_uniform(shape, seed, 0, len(letters), tf.int32)
    return tf.gather(_codes(letters), numbers)


def _codes(letters: bytes) -> tf.Tensor:
    return tf.constant(list(letters), tf.int32)


def _letter_numbers() -> tf.Tensor:
    """int32 [256]: the place of a byte among LETTERS."""
    return tf.constant([max(LETTERS.find(bytes([byte])), 0) for byte in range(256)], tf.int32)


def _is_one_of(text: tf.Tensor, letters: bytes) -> tf.Tensor:
    return tf.gather(tf.constant([byte in letters for byte in range(256)]), text)


def _copy(text: tf.Tensor) -> tf.Tensor:
    return text


def _remove_vowels(text: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(text, tf.logical_not(_is_one_of(text, VOWELS)))


def _remove_vowels_after_lowercase_consonants(text: tf.Tensor) -> tf.Tensor:
    follows = tf.concat([[False], _is_one_of(text[:-1], _CONSONANTS.translate(None, LETTERS[26:]))], axis=0)
    return tf.boolean_mask(text, tf.logical_not(_is_one_of(text, VOWELS) & follows))


def _merge_abc(text: tf.Tensor) -> tf.Tensor:
    a, b, c = tf.unstack(_codes(b"ABC"))
    begins = (text[:-2] == a) & (text[1:-1] == b) & (text[2:] == c)
    begins = tf.concat([begins, [False, False]], axis=0)
    swallowed = tf.roll(begins, 1, axis=0) | tf.roll(begins, 2, axis=0)
    return tf.boolean_mask(tf.where(begins, ord("D"), text), tf.logical_not(swallowed))


_RULES: dict[DiagnosticKind, Callable[[tf.Tensor], tf.Tensor]] = {
    "copy": _copy,
    "vowel_removal": _remove_vowels,
    "contextual_vowel_removal": _remove_vowels_after_lowercase_consonants,
    "merge_abc": _merge_abc,
}
