"""Which script a text is written in, told byte by byte: what is known of a position follows from the bytes up to it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.selection.segments import first_of_examples, merged_into, previous
from mrt5_jax.selection.selector_rule import Segments

_LEADS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC3, 0xC9)),
    "greek": ((0xCE, 0xCF),),
    "cyrillic": ((0xD0, 0xD3),),
    "hebrew": ((0xD7, 0xD7),),
    "arabic": ((0xD8, 0xDB),),
    "han": ((0xE4, 0xE9),),
    "hangul": ((0xEB, 0xEC),),
}
"""First bytes that tell a script by themselves."""

_PAIRS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "devanagari": ((0xE0, 0xA4, 0xA5),),
    "bengali": ((0xE0, 0xA6, 0xA7),),
    "tamil": ((0xE0, 0xAE, 0xAF),),
    "telugu": ((0xE0, 0xB0, 0xB1),),
    "thai": ((0xE0, 0xB8, 0xB9),),
    "kana": ((0xE3, 0x81, 0x83),),
    "hangul": ((0xEA, 0xB0, 0xBF), (0xED, 0x80, 0x9E)),
    "han": ((0xE3, 0x90, 0xBF),),
}
"""Scripts that the second byte tells, from .. to, after a first one."""

SCRIPTS = tuple(dict.fromkeys((*_LEADS, *_PAIRS)))
"""Scripts that the bytes of UTF-8 tell."""

_SIZE = NUM_BYTES + BYTE_OFFSET


def _told() -> np.ndarray:
    """Of (the id before, an id): the script's number; -1 where they tell none, and of ids that are no bytes."""
    table = np.full((_SIZE, _SIZE), -1, np.int8)
    for script, ranges in _LEADS.items():
        for first, last in ranges:
            table[:, BYTE_OFFSET + first : BYTE_OFFSET + last + 1] = SCRIPTS.index(script)
    for script, pairs in _PAIRS.items():
        for lead, first, last in pairs:
            table[BYTE_OFFSET + lead, BYTE_OFFSET + first : BYTE_OFFSET + last + 1] = SCRIPTS.index(script)
    return table


_TOLD = _told()


def script_of(
    tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
) -> Int[Array, "batch length"]:
    """Returns the number in SCRIPTS of each position's script: that of the last letter up to it.

    Digits, spaces and marks belong to the letters before them. Before an example's first letter it is -1; a letter
    whose second byte tells its script is told there.
    """
    ids = jnp.where(tokens < _SIZE, tokens, 0)
    first = first_of_examples(mask, segments)
    before = jnp.where(first, 0, previous(ids))
    told = jnp.asarray(_TOLD)[before, ids].astype(jnp.int32)
    latest = merged_into(first | (mask & (told >= 0)))
    return jnp.where(mask, jnp.take_along_axis(told, latest, axis=1), -1)
