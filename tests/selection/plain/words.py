import re

import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled

GATE = GateConfig(1, "words")
REFUSED = [((("share", 0.2),), "names 'share': a selector of kind = 'words' has none")]

_WORD = re.compile(rb"[ \t-\r]*(?:[a-zA-Z0-9\x80-\xff]+|[^a-zA-Z0-9\x80-\xff \t-\r]+)|[ \t-\r]+$")


def example(given: Given) -> Plain:
    """Ids that are no bytes, here at the end alone, are words of their own."""
    length = len(given.ids)
    special = (given.ids < 3) | (given.ids > 258)
    size = length if not special.any() else int(np.argmax(special))
    data = bytes((given.ids[:size] - 3).tolist())
    ends = np.zeros(length)
    for found in _WORD.finditer(data):
        ends[found.end() - 1] = 1
    ends[size:] = 1
    return pooled(ends, {})
