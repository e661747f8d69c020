"""Rows sorted by kept count and cut into chunks, so that each chunk can run at its own rung.

The longest row of a mixed batch keeps nearly everything; sorted and chunked, only its own chunk pays for it. A batch
that is spread over devices is cut into as many shards, and every shard sorts and cuts its own rows: nothing moves
between devices.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PyTree

from mrt5_jax.errors import UserError

Arrays = PyTree[ArrayLike | jax.ShapeDtypeStruct]
"""Arrays, or their shapes where programs are compiled ahead."""
Rows = TypeVar("Rows")
"""Pytree of arrays that have a row of the batch along an axis."""


class Chunked(NamedTuple):
    """The rows of a batch, in chunks."""

    rows: Arrays
    """Pytree of arrays [num_chunks rows ...]."""
    fullest: Int[Array, " num_chunks"]
    """Kept positions of each chunk's fullest row, over all shards."""
    order: Int[Array, "shards local"]
    """The row of its shard that stands at each place."""


def split_rows(rows: Rows, num_parts: int, num_shards: int = 1) -> Rows:
    """Cuts the rows of every shard into equal parts: arrays [batch ...] become [num_parts rows ...].

    Args:
        rows: pytree of arrays [batch ...].
        num_parts: how many; static.
        num_shards: devices that the batch is spread over.

    Raises:
        UserError: the batch cannot be cut so.
    """
    batch = jax.tree.leaves(rows)[0].shape[0]
    if num_parts < 1 or batch % (num_parts * num_shards):
        raise UserError(
            f"{num_parts} parts of a batch of {batch} rows on {num_shards} device(s): must be a positive divisor of "
            f"the {batch // num_shards} rows on a device"
        )

    def split(array: Array) -> Array:
        # Written out, since a model without a gate has dropout of no layers behind it: arrays of size 0.
        in_part = batch // (num_shards * num_parts)
        by_shard = array.reshape(num_shards, num_parts, in_part, *array.shape[1:])
        return jnp.swapaxes(by_shard, 0, 1).reshape(num_parts, in_part * num_shards, *array.shape[1:])

    return jax.tree.map(split, rows)


def join_rows(parts: Rows, num_shards: int = 1) -> Rows:
    """Undoes `split_rows`."""

    def join(array: Array) -> Array:
        num_parts, rows = array.shape[:2]
        by_part = array.reshape(num_parts, num_shards, rows // num_shards, *array.shape[2:])
        return jnp.swapaxes(by_part, 0, 1).reshape(num_parts * rows, *array.shape[2:])

    return jax.tree.map(join, parts)


def chunk_rows(rows: Arrays, kept_counts: Int[Array, " batch"], num_chunks: int, num_shards: int = 1) -> Chunked:
    """Sorts the rows of every shard by rising kept count and cuts them into chunks; equal counts stay in order.

    Args:
        rows: pytree of arrays [batch ...].
        kept_counts: kept positions of each row.
        num_chunks: equal chunks to cut each shard into; static. One leaves the rows where they are.
        num_shards: devices that the batch is spread over.

    Raises:
        UserError: the batch cannot be cut so.
    """
    counts = kept_counts.reshape(num_shards, -1)
    if num_chunks == 1:
        order = jnp.broadcast_to(jnp.arange(counts.shape[1], dtype=jnp.int32), counts.shape)
    else:
        order = jnp.argsort(counts, axis=1, stable=True).astype(jnp.int32)
        rows, kept_counts = _reorder((rows, kept_counts), order)
    chunks, chunk_counts = split_rows((rows, kept_counts), num_chunks, num_shards)
    return Chunked(chunks, jnp.max(chunk_counts, axis=1), order)


def restore_rows(chunks: Rows, order: Int[Array, "shards local"]) -> Rows:
    """Puts arrays [num_chunks rows ...] back into the batch's order, [batch ...]: the inverse of `chunk_rows`."""
    rows = join_rows(chunks, order.shape[0])
    if jax.tree.leaves(chunks)[0].shape[0] == 1:
        return rows
    return _reorder(rows, jnp.argsort(order, axis=1).astype(jnp.int32))


def _reorder(rows: Rows, order: Int[Array, "shards local"]) -> Rows:
    def reorder(array: Array) -> Array:
        # A gather that is mapped over the shards stays on its device.
        by_shard = array.reshape(*order.shape, *array.shape[1:])
        take = jax.vmap(lambda own, at: own.at[at].get(mode="promise_in_bounds", unique_indices=True))
        return take(by_shard, order).reshape(array.shape)

    return jax.tree.map(reorder, rows)
