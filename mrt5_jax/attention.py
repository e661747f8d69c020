"""Multi-head attention over one row at a time, and the two ways of running it over a batch.

A row's attention is written once, for arrays without a batch axis. Accelerators want it batched (`vmap`); XLA's CPU
backend is several times faster when the rows follow each other (`lax.map`), because its batched matrix products are
slow and a row's scores stay in cache. Both give the same numbers.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Rows = Literal["batched", "one_by_one"]

SCORE_CEILING = 5.0
"""Scores above this are penalised by the score regulariser."""

_MANY_SCORES = 2**18


class Keys(NamedTuple):
    """What an attention needs to know of its key positions, besides the keys."""

    mask: Bool[Array, "batch key"]
    """True = attend."""
    bias: Float[Array, "batch key"] | None = None
    """Gate values, added to the scores of their keys (soft deletion)."""


class Attended(NamedTuple):
    values: Float[Array, "batch query heads head_dim"]
    score_excess: Float[Array, " batch"]
    """Mean over heads and valid pairs of max(score, 5) - 5, scores taken before the gate's bias."""


class _Row(NamedTuple):
    """The arguments of one row; None where a kind of attention lacks one."""

    query: Float[Array, "query heads head_dim"]
    key: Float[Array, "key heads head_dim"]
    value: Float[Array, "key heads head_dim"]
    query_mask: Bool[Array, " query"]
    key_mask: Bool[Array, " key"]
    key_bias: Float[Array, " key"] | None
    position_bias: Float[Array, "heads query key"] | None
    keep_probability_scale: Float[Array, "heads key"] | None


def choose_rows(scores_per_row: int) -> Rows:
    """One by one on a single CPU device where a row's scores are many; batched on accelerators and sharded batches.

    Args:
      scores_per_row: heads x queries x keys. Short rows do not keep the cores busy one by one.
    """
    alone_on_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return "one_by_one" if alone_on_cpu and scores_per_row >= _MANY_SCORES else "batched"


def attend(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key heads head_dim"],
    value: Float[Array, "batch key heads head_dim"],
    query_mask: Bool[Array, "batch query"],
    keys: Keys,
    *,
    position_bias: Float[Array, "rows heads query key"] | None = None,
    causal: bool = False,
    softmax1: bool = False,
    dropout: Float[Array, "batch heads key"] | None = None,
    rows: Rows | Literal["auto"] = "auto",
) -> Attended:
    """T5 attention: softmax(q k^T + position bias + gate bias) v, without score scaling.

    Args:
      query_mask: valid queries; only the score regulariser looks at it, results of other queries are never used.
      position_bias: relative biases; its first axis is the batch, or 1 where all rows share their positions.
      causal: whether a query sees only keys at its own index or before it.
      softmax1: exp(s) / (1 + sum exp(s)), a sink that lets a head attend to nothing.
      dropout: factors of the attention weights: 0, or 1 / keep probability.
      rows: how the batch is run; auto: as `choose_rows` says.

    A query without any valid key receives zeros.
    """
    shared_bias = position_bias is not None and position_bias.shape[0] == 1

    def one(row: _Row) -> tuple[Float[Array, "query heads head_dim"], Float[Array, ""]]:
        bias = position_bias[0] if shared_bias and position_bias is not None else row.position_bias
        return _attend_row(row._replace(position_bias=bias), causal=causal, softmax1=softmax1)

    batch = _Row(query, key, value, query_mask, keys.mask, keys.bias, None if shared_bias else position_bias, dropout)
    if rows == "auto":
        rows = choose_rows(query.shape[1] * key.shape[1] * key.shape[2])
    if rows == "one_by_one":
        # Recomputing a row's scores in the backward pass is faster than storing all rows' scores and reading them.
        values, excess = jax.lax.map(jax.checkpoint(one), batch)
    else:
        values, excess = jax.vmap(one)(batch)
    return Attended(values, excess)


def _attend_row(
    row: _Row, *, causal: bool, softmax1: bool
) -> tuple[Float[Array, "query heads head_dim"], Float[Array, ""]]:
    score_dtype = jnp.promote_types(row.query.dtype, jnp.float32)
    scores = jnp.einsum("qhd,khd->hqk", row.query, row.key, preferred_element_type=score_dtype)
    if row.position_bias is not None:
        scores = scores + row.position_bias
    mask = row.key_mask[None, :]
    if causal:
        mask = mask & jnp.tri(row.query.shape[0], row.key.shape[0], dtype=bool)
    excess = _mean_excess(scores, mask & row.query_mask[:, None])
    if row.key_bias is not None:
        scores = scores + row.key_bias[None, None, :]
    weights = masked_softmax(scores, mask[None], softmax1=softmax1)
    if row.keep_probability_scale is not None:
        weights = weights * row.keep_probability_scale[:, None, :]
    return jnp.einsum("hqk,khd->qhd", weights.astype(row.value.dtype), row.value), excess


def masked_softmax(
    scores: Float[Array, "*batch key"], mask: Bool[Array, "*#batch key"], *, softmax1: bool
) -> Float[Array, "*batch key"]:
    """Softmax over the unmasked keys, zeros where there are none; `softmax1` adds a key of score 0 and value 0."""
    lowest = jnp.zeros((), scores.dtype) if softmax1 else jnp.asarray(jnp.finfo(scores.dtype).min, scores.dtype)
    ceiling = jnp.max(scores, axis=-1, keepdims=True, initial=lowest, where=mask)
    ceiling = jax.lax.stop_gradient(ceiling)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - ceiling, 0)), 0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = total + jnp.exp(-ceiling) if softmax1 else jnp.where(total == 0, 1, total)
    return weights / total


def _mean_excess(scores: Float[Array, "heads query key"], pairs: Bool[Array, "query key"]) -> Float[Array, ""]:
    excess = jnp.where(pairs[None], jnp.maximum(scores - SCORE_CEILING, 0), 0)
    return jnp.sum(excess) / (scores.shape[0] * jnp.maximum(jnp.sum(pairs), 1))


def distance_buckets(*, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket number of every key-minus-query distance, clipped to [-max_distance, max_distance].

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
    embedding: Float[Array, "heads buckets"],
    query_positions: Int[Array, "rows query"],
    key_positions: Int[Array, "rows key"],
    *,
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "rows heads query key"]:
    """Relative position biases from original positions, so that compaction does not change them."""
    table = jnp.asarray(
        distance_buckets(bidirectional=bidirectional, num_buckets=embedding.shape[1], max_distance=max_distance)
    )
    by_distance = embedding[:, table]
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    index = jnp.clip(distance, -max_distance, max_distance) + max_distance
    return jnp.moveaxis(by_distance[:, index], 0, 1)
