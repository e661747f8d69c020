"""Noise on text: characters are dropped, doubled, or replaced by others of the same text."""

import numpy as np
from jaxtyping import Bool, Int

from mrt5_jax.data.sources import SEED_FEATURE, Example
from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID

LINE_END = ord("\n") + BYTE_OFFSET


def with_noise(example: Example, noise: float) -> Example:
    """Turns `ids` (int32 [raw]) into `targets`, the text as it was, and `inputs`, the text with noise; without EOS.

    Ends of documents within the text become line ends, so that an EOS stands at the end alone.

    Args:
        noise: the share of characters that are dropped, doubled or replaced, a third each.

    Examples:
        >>> example = {"ids": np.arange(100, 110, dtype=np.int32), "seed": np.array([0, 0])}
        >>> len(with_noise(example, noise=0.0)["inputs"])
        10
    """
    ids = np.where(example["ids"] == EOS_ID, np.int32(LINE_END), example["ids"])
    rest = {key: value for key, value in example.items() if key != "ids"}
    generator = np.random.Generator(np.random.Philox(key=example[SEED_FEATURE].astype(np.uint64)))
    return {**rest, "inputs": add_noise(ids, noise, generator), "targets": ids}


def add_noise(ids: Int[np.ndarray, " raw"], noise: float, generator: np.random.Generator) -> Int[np.ndarray, " length"]:
    """Returns the ids of a text with noise; bytes of one UTF-8 character stay together.

    Args:
        noise: the share of characters that are dropped, doubled or replaced, a third each.
    """
    begins = np.flatnonzero(begins_character(ids))
    lengths = np.diff(np.append(begins, len(ids)))
    number = len(begins)
    # 0 to 2: replaced, dropped, doubled.
    kind = np.searchsorted(noise * np.arange(1, 4) / 3, generator.random(number), side="right")
    # Drawn wherever it is used or not, so that a character's noise does not depend on that of the others.
    others = generator.integers(number, size=number)
    shown = np.where(kind == 0, others, np.arange(number))
    shown = np.repeat(shown, np.where(kind == 1, 0, np.where(kind == 2, 2, 1)))
    shown_lengths = lengths[shown]
    ends = shown_lengths.cumsum()
    places = np.arange(ends[-1] if len(ends) else 0)
    return ids[np.repeat(begins[shown] - (ends - shown_lengths), shown_lengths) + places]


def begins_character(ids: Int[np.ndarray, " raw"]) -> Bool[np.ndarray, " raw"]:
    """Says of each id whether a UTF-8 character begins there; the first one does, also where its text was cut."""
    begins = (ids - BYTE_OFFSET) & 0xC0 != 0x80
    begins[:1] = True
    return begins
