"""Classes of bytes, by which it can be expected how much of a text a gate keeps before the text is read.

A byte's class follows from its value alone: what a byte of UTF-8 says by itself of its script. The first bytes of
characters tell scripts apart, but for those that share one (Devanagari and Thai begin with 0xE0); how the bytes after
them are spread tells these.
"""

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES

_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "letter": ((0x41, 0x5A), (0x61, 0x7A)),
    "space": ((0x09, 0x0D), (0x20, 0x20)),
    "digit": ((0x30, 0x39),),
    "other ASCII": ((0x00, 0x08), (0x0E, 0x1F), (0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7F)),
    "continuation 80": ((0x80, 0x8F),),
    "continuation 90": ((0x90, 0x9F),),
    "continuation A0": ((0xA0, 0xAF),),
    "continuation B0": ((0xB0, 0xBF),),
    "first of Latin": ((0xC2, 0xCD),),
    "first of Greek": ((0xCE, 0xCF),),
    "first of Cyrillic": ((0xD0, 0xD4),),
    "first of Hebrew, Arabic": ((0xD5, 0xDF),),
    "first of Indic, Thai": ((0xE0, 0xE0),),
    "first of Georgian to symbols": ((0xE1, 0xE2),),
    "first of Chinese, Japanese": ((0xE3, 0xE9),),
    "first of Korean": ((0xEA, 0xED),),
    "other": ((0xC0, 0xC1), (0xEE, 0xFF)),
}
BYTE_CLASSES = tuple(_RANGES)
"""Names of the classes, in the order in which they are counted."""


def _class_of_ids() -> np.ndarray:
    """Of ids up to the one after the last byte's: the class's number; ids that are no bytes have the number after the
    last one."""
    table = np.full(BYTE_OFFSET + NUM_BYTES + 1, len(BYTE_CLASSES), np.uint8)
    for number, ranges in enumerate(_RANGES.values()):
        for first, last in ranges:
            table[BYTE_OFFSET + first : BYTE_OFFSET + last + 1] = number
    return table


_CLASS_OF_IDS = _class_of_ids()


def count_classes(ids: Int[np.ndarray, "rows length"]) -> Int[np.ndarray, "rows classes"]:
    """Counts the bytes of each class in rows of ids, int32; ids that are no bytes do not count."""
    rows, num_classes = len(ids), len(BYTE_CLASSES) + 1
    # Ids beyond the bytes (sentinels of other vocabularies) are taken as the one after the bytes, which is none either.
    classes = np.take(_CLASS_OF_IDS, ids, mode="clip")
    places = classes + (num_classes * np.arange(rows))[:, None]
    counts = np.bincount(places.ravel(), minlength=rows * num_classes)
    return counts.reshape(rows, num_classes)[:, :-1].astype(np.int32)
