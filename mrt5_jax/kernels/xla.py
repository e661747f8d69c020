"""Multi-head attention over one row at a time, and the two ways of running it over a batch.

A row's attention is written once, heads before positions. Accelerators want the rows batched (`vmap`); XLA's CPU
backend is several times faster when they follow each other (`lax.map`), because its batched matrix products are slow
and a row's scores stay in cache. Where a row has very many scores, its queries are cut into blocks whose scores the
backward pass computes anew, so that few [heads query key] floats exist at a time. Both ways give the same numbers.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import AttentionRows
from mrt5_jax.kernels.attention_block import BlockAttended, Form, KeySide, QuerySide, attend_block, attend_block_anew
from mrt5_jax.kernels.position_bias import PositionBias, RelativeBias, bias_by_look_up, bias_by_product

_MANY_SCORES = 2**17
"""Scores [heads query key] of a row that keep the cores of a CPU busy without other rows beside it."""

_MATERIALIZED_BIASES = 2**25
"""The most biases [rows heads query key] that are held for all layers of a stack."""

_BLOCK_SCORES = 2**23
"""The most scores [heads query key] of a row that are computed at once."""


class Keys(NamedTuple):
    """What an attention needs to know of its key positions, besides the keys."""

    mask: Bool[Array, "batch key"]
    """True = attend."""
    bias: Float[Array, "batch key"] | None = None
    """Gate values, added to the scores of their keys (soft deletion)."""
    segments: Int[Array, "batch key"] | None = None
    """In packed rows, the number of the example that a key belongs to: a query sees its own example alone."""


class Queries(NamedTuple):
    """What an attention needs to know of its query positions, besides the queries."""

    mask: Bool[Array, "batch query"]
    """Valid queries; only the score regulariser looks at it, results of other queries are never used."""
    segments: Int[Array, "batch query"] | None = None


class Attended(NamedTuple):
    values: Float[Array, "batch query heads head_dim"]
    score_excess: Float[Array, " batch"]
    """Mean over heads and valid pairs of max(score, 5) - 5, scores taken before the gate's bias."""


def choose_rows(setting: AttentionRows, num_scores: int) -> Literal["batched", "one_by_one"]:
    """How to run a batch; auto: one by one on a single CPU device if a row has many scores, batched elsewhere."""
    if setting in ("batched", "one_by_one"):
        return setting
    return "one_by_one" if _alone_on_cpu() and num_scores >= _MANY_SCORES else "batched"


def materialize_bias(bias: RelativeBias, setting: AttentionRows) -> PositionBias:
    """Computes the full bias once per stack where memory allows; otherwise each layer computes its own.

    XLA's CPU backend computes biases slowly and has memory for some of them; on an accelerator [batch heads query key]
    floats that live as long as the layers are what fills the memory.
    """
    on_cpu = _alone_on_cpu() if setting == "auto" else setting == "one_by_one"
    rows, num_queries = bias.query_positions.shape
    size = rows * bias.embedding.shape[0] * num_queries * bias.key_positions.shape[1]
    return bias.whole() if on_cpu and size <= _MATERIALIZED_BIASES else bias


def _alone_on_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def attend(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key heads head_dim"],
    value: Float[Array, "batch key heads head_dim"],
    queries: Queries,
    keys: Keys,
    *,
    position_bias: PositionBias = None,
    causal: bool = False,
    softmax1: bool = False,
    kept_weights: Bool[Array, "batch heads key"] | None = None,
    dropout_rate: float = 0.0,
    rows: AttentionRows = "auto",
) -> Attended:
    """T5 attention: softmax(q k^T + position bias + gate bias) v, without score scaling.

    Args:
      causal: whether a query sees only keys at its own index or before it.
      softmax1: exp(s) / (1 + sum exp(s)), a sink that lets a head attend to nothing.
      kept_weights: the attention weights that dropout leaves, of a key for all queries together; None: all.
      dropout_rate: the share that it takes away.
      rows: how the batch is run; auto: as `choose_rows` says.

    A query without any valid key receives zeros.
    """
    num_queries, heads = query.shape[1:3]
    num_scores = heads * num_queries * key.shape[1]
    rows = choose_rows(rows, num_scores)
    if kept_weights is not None:
        # A key's weights are dropped by dropping its value: one pass over [key head_dim] instead of [query key].
        value = jnp.where(jnp.swapaxes(kept_weights, 1, 2)[..., None], value, jnp.zeros((), value.dtype))
    blocks = _num_blocks(num_queries, num_scores)
    compute_bias = bias_by_look_up if rows == "one_by_one" else bias_by_product
    form = Form(compute_bias, causal, softmax1)
    of_block = partial(attend_block_anew if rows == "one_by_one" else attend_block, form)
    if rows == "batched" and blocks > 1:
        of_block = jax.checkpoint(of_block)

    own, shared = _split(position_bias)

    def one(row: Any, shared: _BiasParts) -> tuple[Float[Array, "query heads head_dim"], Float[Array, ""]]:
        query_side, key_side = _sides(*row, shared=shared)
        if blocks == 1:
            attended = of_block(query_side, key_side)
        else:

            def attend_part(part: QuerySide) -> BlockAttended:
                # Ties positions to their queries: alone they are the same in every layer, and JAX would compute the
                # biases of all blocks before the first layer and hold them.
                return of_block(jax.lax.optimization_barrier(part), key_side)

            parts = jax.lax.map(attend_part, _cut(query_side, blocks))
            values = parts.values.reshape(num_queries, heads, -1)
            attended = BlockAttended(values, jnp.sum(parts.excess), jnp.sum(parts.pairs))
        values = attended.values / (1.0 - dropout_rate)
        return values.astype(query.dtype), attended.excess / (heads * jnp.maximum(attended.pairs, 1))

    each = (query, key, value, queries, keys, own)
    if rows == "one_by_one":
        return Attended(*jax.lax.map(partial(one, shared=shared), each))
    return Attended(*_batched(one, each, shared))


def _num_blocks(num_queries: int, num_scores: int) -> int:
    """Into how many equal parts to cut the queries, so that no part has too many scores if that can be."""
    fitting = (n for n in range(1, num_queries + 1) if num_queries % n == 0 and num_scores <= n * _BLOCK_SCORES)
    return next(fitting, 1)


class _BiasParts(NamedTuple):
    """A position bias apart, each part with or without the axis of rows."""

    ready: Array | None = None
    query_positions: Array | None = None
    key_positions: Array | None = None
    embedding: Array | None = None
    buckets: Array | None = None


def _split(bias: PositionBias) -> tuple[_BiasParts, _BiasParts]:
    """(what differs from row to row, what all rows share)."""
    if isinstance(bias, RelativeBias):
        positions = _BiasParts(None, bias.query_positions, bias.key_positions)
        table = _BiasParts(None, None, None, bias.embedding, bias.buckets)
    else:
        positions, table = _BiasParts(bias), _BiasParts()
    if all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(positions)):
        return _BiasParts(), _merged(jax.tree.map(lambda leaf: leaf[0], positions), table)
    return positions, table


def _merged(own: _BiasParts, shared: _BiasParts) -> _BiasParts:
    return _BiasParts(*(theirs if mine is None else mine for mine, theirs in zip(own, shared, strict=True)))


def _batched(one: Callable[..., Any], each: Any, shared: _BiasParts) -> Any:
    """`one` of every row at once.

    Rows that share their positions share their biases. The gradients of these are added up at each place of the mesh
    that has rows before they become gradients of the embedding: so places exchange [heads buckets] numbers, and not
    [heads query key] of them in every layer.
    """
    every_row = jax.vmap(one, in_axes=(0, None))
    axes = _batch_axes()
    places = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)
    rows = jax.tree.leaves(each)[0].shape[0]
    if shared.key_positions is None or shared.embedding is None or places == 1 or rows % places:
        return every_row(each, shared)
    embedding = jnp.broadcast_to(shared.embedding, (places, *shared.embedding.shape))
    free = PartitionSpec.UNCONSTRAINED
    shared = shared._replace(embedding=jax.lax.with_sharding_constraint(embedding, PartitionSpec(axes, free, free)))
    apart = jax.tree.map(lambda leaf: leaf.reshape(places, -1, *leaf.shape[1:]), each)
    over_places = _BiasParts(embedding=0)  # pyright: ignore[reportArgumentType]
    done = jax.vmap(every_row, in_axes=(0, over_places))(apart, shared)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), done)


def _batch_axes() -> tuple[str, ...]:
    """The axes of the mesh in use that the rows of a batch are spread over."""
    (axes,) = nn.spmd.logical_to_mesh_axes(("batch",)) or (None,)
    axes = (axes,) if isinstance(axes, str) else axes or ()
    return tuple(axis for axis in axes if axis in jax.sharding.get_abstract_mesh().shape)


def _sides(
    query: Float[Array, "query heads head_dim"],
    key: Float[Array, "key heads head_dim"],
    value: Float[Array, "key heads head_dim"],
    queries: Queries,
    keys: Keys,
    own: _BiasParts,
    shared: _BiasParts,
) -> tuple[QuerySide, KeySide]:
    bias = _merged(own, shared)
    index = jnp.arange(query.shape[0])
    return (
        QuerySide(query, queries.mask, queries.segments, index, bias.query_positions, bias.ready),
        KeySide(
            key,
            value,
            keys.mask,
            keys.bias,
            keys.segments,
            bias.key_positions,
            bias.embedding,
            bias.buckets,
        ),
    )


def _cut(queries: QuerySide, blocks: int) -> QuerySide:
    """Blocks of queries along a new first axis."""

    def cut(leaf: Array, axis: int) -> Array:
        shape = (*leaf.shape[:axis], blocks, -1, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    def cut_optional(leaf: Array | None, axis: int) -> Array | None:
        return None if leaf is None else cut(leaf, axis)

    return QuerySide(
        query=cut(queries.query, 0),
        mask=cut(queries.mask, 0),
        segments=cut_optional(queries.segments, 0),
        index=cut(queries.index, 0),
        positions=cut_optional(queries.positions, 0),
        bias=cut_optional(queries.bias, 1),
    )


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
