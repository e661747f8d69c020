"""The task of the toy that comes with the package: leave the vowels out of made-up texts of up to 46 bytes.

Unlike the diagnostic tasks its texts have words, spaces, digits and punctuation, and are of all lengths, so that a
model of it can be tried on what people type.
"""

from collections.abc import Mapping

import numpy as np

from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec

LENGTH = 48
"""Of inputs and targets, in ids."""
VOWELS = "aeiouAEIOU"

_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_OTHERS = "0123456789.,;:!?'\"-#()"
_SHORTEST = 4
_SPLITS: Mapping[str, int] = {"train": 0, "validation": 1, "test": 2}
_SIZES = {"train": 10_000_000, "validation": 10_000, "test": 10_000}


def without_vowels(text: str) -> str:
    """Returns a text without its vowels."""
    return "".join(letter for letter in text if letter not in VOWELS)


def made_up_text(seed: tuple[int, ...]) -> str:
    """Draws a text: about 27 % vowels, 50 % consonants, 15 % spaces, and some digits and punctuation."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(_SHORTEST, LENGTH - 1))
    kinds = rng.choice(4, size, p=(0.27, 0.50, 0.15, 0.08))
    alphabets = VOWELS[:5], _CONSONANTS, " ", _OTHERS
    letters = [
        alphabets[kind][int(place * len(alphabets[kind]))] for kind, place in zip(kinds, rng.random(size), strict=True)
    ]
    capitals = rng.random(size) < 0.15
    return "".join(letter.upper() if capital else letter for letter, capital in zip(letters, capitals, strict=True))


def _example(split: str, index: int) -> Example:
    text = made_up_text((_SPLITS[split], index))
    return {"inputs": text, "targets": without_vowels(text)}


TOY = add_task(TaskSpec("toy", IndexedSource(one_by_one(_example), _SIZES)))
"""The task's name."""
