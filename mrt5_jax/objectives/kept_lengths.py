"""How many positions rows have kept lately: a histogram that steps of training add to, and forget.

Training decides by it what would save something. Every step counts what each deletion that removes positions would have
kept, whatever it deletes by itself: so a run knows beforehand what a change would bring.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

BINS = 64
"""Of a histogram: bin b has rows that keep more than b and at most b + 1 of 64 equal parts of the input length."""
REMEMBERED = 0.99
"""What a step leaves of the counts before it: they are those of about the last hundred steps."""


class KeptLengths(NamedTuple):
    """What one deletion keeps, by input length, and what was decided by it."""

    counts: Float[Array, "lengths bins"]
    """Rows with input, each step's worth REMEMBERED of the next one's."""
    num_chunks: Int[Array, " lengths"]
    """Chunks that steps under this deletion run in; 0 before anything was decided, and where they save nothing."""


def no_kept_lengths(num_lengths: int, dtype: DTypeLike = jnp.float32) -> KeptLengths:
    """Returns the state before the first step, with counts of a dtype."""
    return KeptLengths(jnp.zeros((num_lengths, BINS), dtype), jnp.zeros(num_lengths, jnp.int32))


def remember(
    before: Mapping[str, KeptLengths],
    kept: Mapping[str, Int[Array, " batch"]],
    has_input: Bool[Array, " batch"],
    lengths: tuple[int, ...],
    length: int,
) -> dict[str, KeptLengths]:
    """Adds a step's rows to the histograms of its input length; those of other lengths stay as they are.

    Args:
        kept: positions that each row keeps, by deletion.
        lengths: the run's input lengths.
        length: the batch's.
    """
    at = lengths.index(length)
    after = {}
    for deletion, state in before.items():
        bins = jnp.maximum(-(-kept[deletion] * BINS // length) - 1, 0)
        found = (bins[:, None] == jnp.arange(BINS)[None]) & has_input[:, None]
        counts = state.counts.at[at].multiply(REMEMBERED).at[at].add(jnp.sum(found, axis=0, dtype=state.counts.dtype))
        after[deletion] = state._replace(counts=counts)
    return after
