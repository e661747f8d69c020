"""The one seam through which the model attends: what an attention is, whatever computes it.

The encoder before and after the gate, the decoder, cross-attention and incremental decoding all call `attention`.
Which implementation runs is decided here, where a program is built; today it is XLA's own operations (`xla.py`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import AttentionRows
from mrt5_jax.kernels import xla
from mrt5_jax.kernels.attention_block import KeySide, QuerySide
from mrt5_jax.kernels.position_bias import distance_buckets

BiasTable = Float[Array, "heads buckets"] | Float[Array, "#batch heads query key"]
"""A learned number for each head and bucket of distances, or what `prepare_bias` made of it for a stack's layers."""


class Attended(NamedTuple):
    """Holds the results of an attention."""

    values: Float[Array, "batch query heads head_dim"]
    score_excess: Float[Array, " batch"]
    """Mean over heads and valid pairs of max(score, 5) - 5, scores taken before the keys' biases."""


def attention(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key heads head_dim"],
    value: Float[Array, "batch key heads head_dim"],
    *,
    query_positions: Int[Array, "#batch query"] | None = None,
    key_positions: Int[Array, "#batch key"] | None = None,
    bias_table: BiasTable | None = None,
    max_distance: int = 0,
    key_bias: Float[Array, "batch key"] | None = None,
    key_mask: Bool[Array, "batch key"],
    query_segments: Int[Array, "batch query"] | None = None,
    key_segments: Int[Array, "batch key"] | None = None,
    causal: bool = False,
    sink: bool = False,
    query_mask: Bool[Array, "batch query"] | None = None,
    excess: bool = False,
    rows: AttentionRows = "auto",
) -> Attended:
    """Computes T5's attention, softmax(q k^T + position bias + key bias) v, without score scaling.

    A query without any valid key receives zeros. Dropout of attention weights is the caller's: it drops values.

    Args:
      query_positions, key_positions: positions in the original row, which compaction does not change; one row where
        all rows share them. Only `causal` and `bias_table` read them.
      bias_table: a learned bias for each head and bucket of relative positions (Raffel et al. 2020, section 2.1), or
        what `prepare_bias` made of it; None: no position bias.
      max_distance: the distance from which on all share the last bucket.
      key_bias: added to the scores of each key: the gate values, under soft deletion.
      key_mask: True = attend.
      query_segments, key_segments: in packed rows, the number of the example; a query sees its own example alone.
      causal: whether a query sees only keys at its own position or before it; the buckets are one-sided then.
      sink: exp(s) / (1 + sum exp(s)): a head may attend to nothing (softmax1).
      query_mask: valid queries; only `score_excess` looks at it, results of other queries are never used. None: all.
      excess: whether `score_excess` is computed; zeros otherwise.
      rows: how XLA runs a batch: all rows at once, or one after another. No result depends on it.
    """
    table = position_bias = buckets = None
    if bias_table is not None and bias_table.ndim == 2:
        table = bias_table
        sides = distance_buckets(bidirectional=not causal, num_buckets=table.shape[1], max_distance=max_distance)
        buckets = jnp.asarray(sides)
    else:
        position_bias = bias_table
    if table is None and not causal:
        query_positions = key_positions = None
    queries = QuerySide(query, query_mask if excess else None, query_segments, query_positions, position_bias)
    keys = KeySide(key, value, key_mask, key_bias, key_segments, key_positions, table, buckets)
    return Attended(*xla.attend(queries, keys, causal=causal, sink=sink, excess=excess, rows=rows))


def prepare_bias(
    bias_table: Float[Array, "heads buckets"],
    query_positions: Int[Array, "#batch query"],
    key_positions: Int[Array, "#batch key"],
    *,
    max_distance: int,
    causal: bool,
    rows: AttentionRows = "auto",
) -> BiasTable:
    """Returns what the layers of a stack pass as `bias_table`.

    That is the table itself, or all biases, computed once, where that is faster and memory has room for them.
    """
    return xla.materialize_bias(
        bias_table, query_positions, key_positions, max_distance=max_distance, causal=causal, rows=rows
    )
