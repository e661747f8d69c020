"""Random contents over few shapes, so that Hypothesis compiles little."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

SHAPES = ((1, 1), (3, 8), (4, 21))
"""(batch, length) pairs."""


class Contents(NamedTuple):
    """A batch: what the gate says about each position."""

    keep: np.ndarray
    scores: np.ndarray
    input_mask: np.ndarray


@st.composite
def contents(draw, shapes=SHAPES):
    """Rows with any number of inputs, none and all included, padded on either side; scores with ties and -inf."""
    batch, length = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_inputs = draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    input_mask = np.arange(length)[None] < np.asarray(num_inputs)[:, None]
    if draw(st.booleans()):
        input_mask = input_mask[:, ::-1]
    keep = input_mask & (rng.random((batch, length)) < rng.choice([0, 0.3, 0.7, 1], size=(batch, 1)))
    # Each row draws from the first few of these: from -inf alone, from two values, ... and from real numbers.
    levels = np.array([-np.inf, -30, -1, 0], np.float32)
    tied = levels[rng.integers(0, rng.integers(1, 5, (batch, 1)), (batch, length))]
    scores = np.where(rng.random((batch, 1)) < 0.7, tied, rng.normal(size=(batch, length)).astype(np.float32))
    return Contents(keep, scores, input_mask)
