"""Chooses positions of a row, or of each example of a packed row, at random; padding and other rows change nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.randomness import SelectorUse
from mrt5_jax.selection.protocol import Selection


def random_like(
    selection: Selection,
    mask: Bool[Array, "batch length"],
    keys: RowKeys,
    segments: Int[Array, "batch length"] | None = None,
) -> Selection:
    """Selects as many positions of each row as `selection` keeps, at random: the baseline of equal deletion.

    Of packed rows (`segments`) as many of each example, so none becomes empty. The priorities are random too: what a
    capacity drops is as random as what is deleted.
    """
    chance = chance_of(keys, mask, SelectorUse.INSTEAD)
    if segments is None:
        rank, count = rank_by(chance), jnp.sum(selection.keep, axis=1, keepdims=True)
    else:
        segments = jnp.where(mask, segments, 0)
        rank, count = rank_in_segments(chance, segments), sum_of_segments(selection.keep, segments)
    return selection._replace(keep=(rank < count) & mask, priority=(-chance).astype(selection.priority.dtype))


def token_keys(tokens: Int[Array, "batch length"]) -> RowKeys:
    """Returns a random key of each row that depends on its tokens alone, not on its padding."""
    weights_key, root = jax.random.split(jax.random.key(0))
    weights = jax.random.bits(weights_key, tokens.shape[1:], jnp.uint32)
    digest = jnp.sum(tokens.astype(jnp.uint32) * weights[None], axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda number: jax.random.fold_in(root, number))(digest)


def chance_of(keys: RowKeys, mask: Bool[Array, "batch length"], use: SelectorUse) -> Float[Array, "batch length"]:
    """Draws uniform numbers of valid positions, one by one so that padding does not change them; 2 of the others."""

    def draw(key: Key[Array, ""], position: Int[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, use), position))

    chance = jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(keys, jnp.arange(mask.shape[1]))
    return jnp.where(mask, chance, 2.0)


def rank_by(chance: Float[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Counts the positions of the row that come before each, by rising chance."""
    return jnp.argsort(jnp.argsort(chance, axis=1), axis=1)


def rank_in_segments(
    chance: Float[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """Counts the positions of its segment that come before each, by rising chance and then by place."""

    def of_row(chance: Float[Array, " length"], segments: Int[Array, " length"]) -> Int[Array, " length"]:
        rank = jnp.argsort(jnp.lexsort((chance, segments)))
        return rank - jax.ops.segment_min(rank, segments, chance.shape[0] + 1)[segments]

    return jax.vmap(of_row)(chance, segments)


def sum_of_segments(
    values: Bool[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """Returns at each position how many values of its segment are True."""

    def of_row(values: Bool[Array, " length"], segments: Int[Array, " length"]) -> Int[Array, " length"]:
        return jax.ops.segment_sum(values.astype(jnp.int32), segments, values.shape[0] + 1)[segments]

    return jax.vmap(of_row)(values, segments)
