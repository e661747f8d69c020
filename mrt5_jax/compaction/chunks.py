"""Rows sorted by kept count and cut into chunks, so that each chunk can run at its own rung.

The longest row of a mixed batch keeps nearly everything; sorted and chunked, only its own chunk pays for it. All
functions work on local rows: under data sharding each device orders its own.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from mrt5_jax.errors import UserError


def chunk_rows(kept_counts: Int[Array, " batch"], num_chunks: int) -> Int[Array, "num_chunks rows"]:
    """Row numbers of each chunk, by rising kept count; rows with equal counts stay in order.

    Args:
        kept_counts: kept positions of each row.
        num_chunks: equal chunks to cut the batch into; static.

    Raises:
        UserError: the batch cannot be cut so.
    """
    batch = kept_counts.shape[0]
    if num_chunks < 1 or batch % num_chunks:
        raise UserError(f"{num_chunks} suffix chunks: must be a positive divisor of the {batch} rows on a device")
    return jnp.argsort(kept_counts, stable=True).astype(jnp.int32).reshape(num_chunks, -1)


def take_chunks(
    values: Shaped[Array, "batch *rest"], order: Int[Array, "num_chunks rows"]
) -> Shaped[Array, "num_chunks rows *rest"]:
    """The rows of each chunk."""
    return values.at[order].get(mode="promise_in_bounds", unique_indices=True)


def restore_rows(
    chunked: Shaped[Array, "num_chunks rows *rest"], order: Int[Array, "num_chunks rows"]
) -> Shaped[Array, "batch *rest"]:
    """The rows in the batch's order again: the inverse of `take_chunks`."""
    flat = order.reshape(-1)
    slots = jnp.zeros_like(flat).at[flat].set(jnp.arange(flat.shape[0], dtype=flat.dtype), unique_indices=True)
    rows = chunked.reshape((flat.shape[0], *chunked.shape[2:]))
    return rows.at[slots].get(mode="promise_in_bounds", unique_indices=True)
