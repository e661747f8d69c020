"""From a keep mask to a shorter sequence: which position goes into which slot, and the way there and back.

Everything works row by row, in the order of the sequence, with static shapes. A plan's unused slots are filler: their
mask is False and they point at the last position, so they may be gathered but must be masked by every consumer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from mrt5_jax.errors import UserError


class Plan(NamedTuple):
    """Where each slot of the compact sequence comes from."""

    positions: Int[Array, "batch slots"]
    """Original positions, increasing over the real slots; length - 1 in filler."""
    mask: Bool[Array, "batch slots"]
    """True in real slots. These come first."""


def count_kept(keep: Bool[Array, "batch length"]) -> Int[Array, " batch"]:
    """Counts the kept positions of each row."""
    return jnp.sum(keep, axis=1, dtype=jnp.int32)


def plan(keep: Bool[Array, "batch length"], num_slots: int) -> Plan:
    """Moves the kept positions of each row to the front, in their order.

    No row may keep more than `num_slots` positions: a rung of the ladder is chosen so, and `restrict` makes it so for a
    fixed capacity. A kept position's slot is the number of kept positions before it.

    Args:
        keep: positions to move together.
        num_slots: of the compact sequence, 1 <= num_slots <= length; static.

    Raises:
        UserError: `num_slots` is below 1 or above the length.
    """
    length = keep.shape[1]
    if not 1 <= num_slots <= length:
        raise UserError(f"{num_slots} slots: a sequence of {length} positions has 1 to {length}")

    # The scatter is per row and vmapped: XLA then sees a batched scatter and keeps it local when the batch is sharded.
    def positions_of(row: Bool[Array, " length"]) -> Int[Array, " slots"]:
        slots = jnp.where(row, jnp.cumsum(row, dtype=jnp.int32) - 1, num_slots)
        filler = jnp.full((num_slots,), length - 1, jnp.int32)
        return filler.at[slots].set(jnp.arange(length, dtype=jnp.int32), mode="drop")

    mask = jnp.arange(num_slots, dtype=jnp.int32)[None, :] < count_kept(keep)[:, None]
    return Plan(jax.vmap(positions_of)(keep), mask)


def gather(
    values: Shaped[Array, "batch length *rest"], positions: Int[Array, "batch slots"]
) -> Shaped[Array, "batch slots *rest"]:
    """Returns the values at the planned positions."""
    index = positions.reshape(positions.shape + (1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1, mode="promise_in_bounds")


def scatter_back(
    compact: Shaped[Array, "batch slots *rest"], plan: Plan, length: int
) -> Shaped[Array, "batch length *rest"]:
    """Puts real slots back at their original positions, zeros elsewhere: the transpose of `gather` without filler."""
    num_slots = plan.positions.shape[1]

    # Only slot numbers are scattered; the wide values are then gathered, which accelerators do much faster.
    def slots_of(positions: Int[Array, " slots"], mask: Bool[Array, " slots"]) -> Int[Array, " length"]:
        nowhere = jnp.full((length,), num_slots, jnp.int32)
        return nowhere.at[jnp.where(mask, positions, length)].set(jnp.arange(num_slots, dtype=jnp.int32), mode="drop")

    slots = jax.vmap(slots_of)(*plan)
    values = gather(compact, jnp.minimum(slots, num_slots - 1))
    kept = (slots < num_slots).reshape(slots.shape + (1,) * (compact.ndim - 2))
    return jnp.where(kept, values, jnp.zeros((), compact.dtype))


def never_empty(
    keep: Bool[Array, "batch length"],
    priority: Float[Array, "batch length"],
    input_mask: Bool[Array, "batch length"],
    segments: Int[Array, "batch length"] | None = None,
) -> Bool[Array, "batch length"]:
    """Lets rows with input but without survivors keep their input position of highest priority, the first of several.

    Pads are never kept, so rows that are all padding stay empty. `rescued_rows` tells which rows that concerned.

    Args:
        keep: positions to keep; pads among them are taken out.
        priority: higher is kept longer (gate values).
        input_mask: True where the input is not padding.
        segments: numbers, from 1 to at most the length, of the parts of a row; what holds for rows holds for each.
    """
    keep = keep & input_mask
    # Pads lie below the lowest priority that an input position can have, -inf included.
    candidates = jnp.where(input_mask, jnp.maximum(priority, jnp.finfo(priority.dtype).min), -jnp.inf)
    if segments is not None:
        segments = jnp.where(input_mask, segments, 0)
        added = _best_of_segments(candidates, segments) & ~_segments_that_keep(keep, segments)
        return keep | added
    emptied = jnp.any(input_mask, axis=1) & ~jnp.any(keep, axis=1)
    best = jax.nn.one_hot(jnp.argmax(candidates, axis=1), keep.shape[1], dtype=bool)
    return keep | (emptied[:, None] & best)


def rescued_rows(before: Bool[Array, "batch length"], keep: Bool[Array, "batch length"]) -> Bool[Array, " batch"]:
    """Marks rows that, or of which a segment, would be empty without `never_empty`.

    Args:
        before: what `never_empty` was given.
        keep: what it returned.
    """
    return jnp.any(keep & ~before, axis=1)


def best_of_parts(
    scores: Float[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Float[Array, "batch length"]:
    """Returns the highest score among the positions of a row with the same number, 0 to the length; no gradient."""
    scores = jax.lax.stop_gradient(scores)  # JAX knows no derivative of a scattered maximum

    def of_row(scores: Float[Array, " length"], segments: Int[Array, " length"]) -> Float[Array, " length"]:
        return jax.ops.segment_max(scores, segments, scores.shape[0] + 1)[segments]

    return jax.vmap(of_row)(scores, segments)


def _best_of_segments(
    scores: Float[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Bool[Array, "batch length"]:
    """Marks the best position of each segment of each row, the first of several; segment 0 has none."""
    best = best_of_parts(scores, segments) == scores

    def of_row(best: Bool[Array, " length"], segments: Int[Array, " length"]) -> Bool[Array, " length"]:
        index, size = jnp.arange(best.shape[0]), best.shape[0] + 1
        first = jax.ops.segment_min(jnp.where(best, index, size), segments, size)[segments]
        return (index == first) & (segments > 0)

    return jax.vmap(of_row)(best, segments)


def _segments_that_keep(
    keep: Bool[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Bool[Array, "batch length"]:
    """Marks the positions of those segments that keep something."""

    def of_row(keep: Bool[Array, " length"], segments: Int[Array, " length"]) -> Bool[Array, " length"]:
        return jax.ops.segment_max(keep.astype(jnp.int32), segments, keep.shape[0] + 1)[segments] > 0

    return jax.vmap(of_row)(keep, segments)


def restrict(
    keep: Bool[Array, "batch length"],
    priority: Float[Array, "batch length"],
    capacity: int,
    segments: Int[Array, "batch length"] | None = None,
) -> Bool[Array, "batch length"]:
    """Keeps at most `capacity` positions a row: the lowest priorities go first, of equal ones the last position.

    In packed rows the best kept position of each example goes last, so no example becomes empty. Only where a row has
    more examples than slots some must: then the best positions stay, one of an example.

    Args:
        keep: positions that would be kept.
        priority: higher is kept longer (gate values).
        capacity: the most that a row may keep, at least 1; static.
        segments: numbers, from 1 to at most the length, of the examples of packed rows.

    Raises:
        UserError: the capacity holds nothing.
    """
    if capacity < 1:
        raise UserError(f"capacity {capacity}: a row needs at least one slot")

    # Kept positions come before deleted ones, and of packed rows the best of each example before the others.
    place = jnp.where(keep, 1, 2)
    if segments is not None:
        # Kept positions lie above what deleted ones have, whatever their priority, -inf and NaN included.
        candidates = jnp.where(keep, jnp.fmax(priority, jnp.finfo(priority.dtype).min), -jnp.inf)
        place = jnp.where(_best_of_segments(candidates, jnp.where(keep, segments, 0)), 0, place)

    def rank(place_row: Int[Array, " length"], priority_row: Float[Array, " length"]) -> Int[Array, " length"]:
        index = jnp.arange(place_row.shape[0], dtype=jnp.int32)
        # A stable sort: by place, then by falling priority, then by position.
        *_, order = jax.lax.sort((place_row, -priority_row, index), num_keys=2)
        return jnp.zeros_like(index).at[order].set(index, unique_indices=True)

    return keep & (jax.vmap(rank)(place, priority) < capacity)
