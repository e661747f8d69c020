"""T5's relative position biases: a learned number for each head and bucket of distances (Raffel et al. 2020, 2.1).

Buckets come from a table over clipped distances, so that no logarithm is taken where biases are computed. Positions are
those in the original row, which compaction does not change.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def distance_buckets(*, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns the bucket number of every key-minus-query distance, clipped to [-max_distance, max_distance].

    T5's buckets (Raffel et al. 2020, section 2.1): half of them for single distances, the other half growing
    logarithmically up to `max_distance`. All larger distances share the last bucket, so a table of
    2 max_distance + 1 numbers is exact.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    first = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = np.where(distance > 0, num_buckets, 0)
        past = np.abs(distance)
    else:
        past = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # float32, as in T5: the logarithm of a bucket's edge must round the same way.
    ratio = np.log(np.maximum(past, 1).astype(np.float32) / exact) / np.log(max_distance / exact)
    coarse = np.minimum(exact + (ratio * (num_buckets - exact)).astype(np.int32), num_buckets - 1)
    return (first + np.where(past < exact, past, coarse)).astype(np.int32)


def relative_bias(
    table: Float[Array, "heads buckets"],
    query_positions: Int[Array, "rows query"],
    key_positions: Int[Array, "rows key"],
    *,
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "rows heads query key"]:
    """Computes T5's relative position biases between all given positions, a row at a time."""
    buckets = distance_buckets(bidirectional=bidirectional, num_buckets=table.shape[1], max_distance=max_distance)

    def row(positions: tuple[Int[Array, " query"], Int[Array, " key"]]) -> Float[Array, "heads query key"]:
        return bias_by_look_up(table, jnp.asarray(buckets), *positions)

    return jax.lax.map(row, (query_positions, key_positions))


def bias_by_look_up(
    table: Float[Array, "heads buckets"],
    buckets: Int[Array, " distances"],
    query_positions: Int[Array, " query"],
    key_positions: Int[Array, " key"],
) -> Float[Array, "heads query key"]:
    """Looks up the biases of a row or a part of it: for CPUs, where it takes a tenth of the time of `bias_by_product`.

    Args:
      table: a learned number for each head and bucket.
      buckets: the bucket of every clipped distance, see `distance_buckets`.
    """
    bias: Any = _look_up(table, _bucket_numbers(buckets, query_positions, key_positions))
    return bias


def _bucket_numbers(
    buckets: Int[Array, " distances"], query_positions: Int[Array, " query"], key_positions: Int[Array, " key"]
) -> Int[Array, "query key"]:
    largest = buckets.shape[0] // 2
    distance = key_positions[None, :] - query_positions[:, None]
    return buckets[jnp.clip(distance, -largest, largest) + largest]


@jax.custom_vjp
def _look_up(
    embedding: Float[Array, "heads buckets"], bucket: Int[Array, "query key"]
) -> Float[Array, "heads query key"]:
    return embedding[:, bucket]


def _look_up_forward(embedding: Array, bucket: Array) -> tuple[Array, tuple[Array, Array]]:
    return _look_up(embedding, bucket), (embedding, bucket)


def _look_up_backward(residuals: tuple[Array, Array], bias_bar: Array) -> tuple[Array, None]:
    # Products with one-hot rows: scattering millions of numbers into a few buckets would go one by one. A query at a
    # time, since the one-hot rows of all of them would leave the cache.
    embedding, bucket = residuals

    def add_query(total: Array, query: tuple[Array, Array]) -> tuple[Array, None]:
        bar, numbers = query
        one_hot = jax.nn.one_hot(numbers, embedding.shape[1], dtype=bar.dtype)
        return total + jnp.einsum("hk,kn->hn", bar, one_hot, precision=jax.lax.Precision.HIGHEST), None

    none = jnp.zeros(embedding.shape, bias_bar.dtype)
    embedding_bar, _ = jax.lax.scan(add_query, none, (jnp.moveaxis(bias_bar, 1, 0), bucket))
    return embedding_bar.astype(embedding.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


def bias_by_product(
    table: Float[Array, "heads buckets"],
    buckets: Int[Array, " distances"],
    query_positions: Int[Array, " query"],
    key_positions: Int[Array, " key"],
) -> Float[Array, "heads query key"]:
    """Computes what `bias_by_look_up` does, for accelerators.

    A product with one-hot rows: a TPU gathers into a layout that it then copies, a third of a compacted step.
    """
    bucket = _bucket_numbers(buckets, query_positions, key_positions)
    one_hot = jax.nn.one_hot(bucket, table.shape[1], dtype=table.dtype)
    return jnp.einsum("hn,qkn->hqk", table, one_hot, precision=jax.lax.Precision.HIGHEST)
