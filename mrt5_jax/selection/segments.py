"""Where examples and segments begin, and what a position has of its segment: what selectors that pool are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped

from mrt5_jax.selection.protocol import Selection, Signals, straight_through
from mrt5_jax.selection.selector_rule import Segments


def previous(values: Shaped[Array, "batch length *rest"]) -> Shaped[Array, "batch length *rest"]:
    """Returns the value of the position before each; 0 (False) at the first."""
    return jnp.concatenate([jnp.zeros_like(values[:, :1]), values[:, :-1]], axis=1)


def first_of_examples(mask: Bool[Array, "batch length"], segments: Segments) -> Bool[Array, "batch length"]:
    """Marks the first input of each row, of packed rows that of each example."""
    begins = ~previous(mask) if segments is None else segments != previous(segments)
    return mask & (begins | (jnp.arange(mask.shape[1]) == 0)[None])


def last_of_examples(mask: Bool[Array, "batch length"], segments: Segments) -> Bool[Array, "batch length"]:
    """Marks the last input of each row, of packed rows that of each example."""
    first = first_of_examples(mask, segments) | ~mask
    return mask & jnp.concatenate([first[:, 1:], jnp.ones_like(first[:, :1])], axis=1)


def merged_into(begins: Bool[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Returns the last position up to each where a segment begins."""
    position = jnp.broadcast_to(jnp.arange(begins.shape[1]), begins.shape)
    return jax.lax.cummax(jnp.where(begins, position, 0), axis=1)


def shares(
    membership: Float[Array, "batch length"], into: Int[Array, "batch length"], mask: Bool[Array, "batch length"]
) -> Float[Array, "batch length"]:
    """Returns the share that each input has of its segment; 0 of pads.

    Args:
      membership: 1 at inputs, perhaps with a gradient.
      into: where each position's segment begins.
    """
    membership = jnp.where(mask, membership, 0)
    sizes = jax.vmap(lambda row, to: jax.ops.segment_sum(row, to, row.shape[0])[to])(membership, into)
    return membership / jnp.where(mask, sizes, 1)


def segments_by_rule(
    begins: Bool[Array, "batch length"], mask: Bool[Array, "batch length"], dtype: DTypeLike
) -> Selection:
    """Returns the selection of segments that a rule divides the input into; a capacity drops the last ones first.

    Args:
      begins: inputs where a segment begins, the first of each example among them.
    """
    into = merged_into(begins)
    position = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape).astype(dtype)
    signals = Signals(weights=shares(jnp.ones(mask.shape, dtype), into, mask))
    statistics = {"rescued": jnp.zeros(mask.shape[0], jnp.float32)}
    return Selection(begins, into, -position, signals, {}, statistics)


def segments_of_boundaries(
    boundary: Float[Array, "batch length"],
    probability: Float[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    segments: Segments,
) -> Selection:
    """Returns the selection of predicted boundaries, each of which closes its segment.

    The share that a position has of its segment is straight-through: a position moves into the next segment by as much
    as the boundaries before it grow (Nawrot et al. 2023).

    Args:
      boundary: 0 or 1 at inputs, with a gradient; 0 at pads.
      probability: of each boundary; where a capacity is short, the least probable segments are dropped first.
    """
    first = first_of_examples(mask, segments)
    begins = first | (mask & previous(boundary > 0.5))
    into = merged_into(begins)
    membership = 1 + straight_through(jnp.cumsum(boundary, axis=1) - boundary)
    signals = Signals(weights=shares(membership, into, mask))
    priority = jnp.where(first, jnp.ones_like(probability), previous(probability))
    statistics = {"rescued": jnp.zeros(mask.shape[0], jnp.float32)}
    return Selection(begins, into, priority, signals, {}, statistics)
