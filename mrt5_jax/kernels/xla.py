"""Attention in XLA's own operations, over one row at a time, and the two ways of running it over a batch.

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
from jaxtyping import Array, Float, Int

from mrt5_jax.config import AttentionRows
from mrt5_jax.kernels.attention_block import BlockAttended, Form, KeySide, QuerySide, attend_block, attend_block_anew
from mrt5_jax.kernels.position_bias import bias_by_look_up, bias_by_product, relative_bias

_MANY_SCORES = 2**17
"""Scores [heads query key] of a row that keep the cores of a CPU busy without other rows beside it."""

_MATERIALIZED_BIASES = 2**25
"""The most biases [rows heads query key] that are held for all layers of a stack."""

_BLOCK_SCORES = 2**23
"""The most scores [heads query key] of a row that are computed at once."""


_Sides = tuple[QuerySide, KeySide]


def choose_rows(setting: AttentionRows, num_scores: int) -> Literal["batched", "one_by_one"]:
    """Decides how a batch is run; auto: one by one on a lone CPU device if a row has many scores, else batched."""
    if setting in ("batched", "one_by_one"):
        return setting
    return "one_by_one" if _alone_on_cpu() and num_scores >= _MANY_SCORES else "batched"


def materialize_bias(
    table: Float[Array, "heads buckets"],
    query_positions: Int[Array, "rows query"],
    key_positions: Int[Array, "rows key"],
    *,
    max_distance: int,
    causal: bool,
    rows: AttentionRows,
) -> Float[Array, "heads buckets"] | Float[Array, "rows heads query key"]:
    """Computes the full bias once per stack where memory allows; otherwise each layer computes its own from the table.

    XLA's CPU backend computes biases slowly and has memory for some of them; on an accelerator [batch heads query key]
    floats that live as long as the layers are what fills the memory.
    """
    on_cpu = _alone_on_cpu() if rows == "auto" else rows == "one_by_one"
    size = math.prod(query_positions.shape) * table.shape[0] * key_positions.shape[1]
    if not on_cpu or size > _MATERIALIZED_BIASES:
        return table
    return relative_bias(table, query_positions, key_positions, bidirectional=not causal, max_distance=max_distance)


def _alone_on_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def attend(
    queries: QuerySide, keys: KeySide, *, causal: bool, sink: bool, excess: bool, rows: AttentionRows
) -> tuple[Float[Array, "batch query heads head_dim"], Float[Array, " batch"]]:
    """Attends in all rows of a batch.

    Args:
      queries, keys: with the rows as first axis, of size 1 where all rows share positions or biases; `keys.table` and
        `keys.buckets` without it.
      rows: how the batch is run; auto: as `choose_rows` says.

    Returns:
      (values, score excess), as `kernels.attention.attention` describes them.
    """
    num_queries, heads = queries.query.shape[1:3]
    num_scores = heads * num_queries * keys.key.shape[1]
    rows = choose_rows(rows, num_scores)
    blocks = _num_blocks(num_queries, num_scores)
    form = Form(bias_by_look_up if rows == "one_by_one" else bias_by_product, causal, sink, excess)
    of_block = partial(attend_block_anew if rows == "one_by_one" else attend_block, form)
    if rows == "batched" and blocks > 1:
        of_block = jax.checkpoint(of_block)

    def one(own: _Sides, shared: _Shared) -> tuple[Float[Array, "query heads head_dim"], Float[Array, ""]]:
        query_side, key_side = _joined(own, shared)
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
        values = attended.values.astype(queries.query.dtype)
        return values, attended.excess / (heads * jnp.maximum(attended.pairs, 1))

    own, shared = _split(queries, keys)
    if rows == "one_by_one":
        return jax.lax.map(partial(one, shared=shared), own)
    return _batched(one, own, shared)


def _num_blocks(num_queries: int, num_scores: int) -> int:
    """Returns into how many equal parts to cut the queries, so that no part has too many scores if that can be."""
    fitting = (n for n in range(1, num_queries + 1) if num_queries % n == 0 and num_scores <= n * _BLOCK_SCORES)
    return next(fitting, 1)


class _Shared(NamedTuple):
    """Holds what all rows share; those of a row's own arrays are None then."""

    query_positions: Int[Array, " query"] | None
    position_bias: Float[Array, "heads query key"] | None
    key_positions: Int[Array, " key"] | None
    table: Float[Array, "*places heads buckets"] | None
    buckets: Int[Array, " distances"] | None


def _split(queries: QuerySide, keys: KeySide) -> tuple[_Sides, _Shared]:
    """Returns (what differs from row to row, what all rows share)."""
    query_positions, shared_query_positions = _by_row(queries.positions)
    position_bias, shared_position_bias = _by_row(queries.position_bias)
    key_positions, shared_key_positions = _by_row(keys.positions)
    own = (
        queries._replace(positions=query_positions, position_bias=position_bias),
        keys._replace(positions=key_positions, table=None, buckets=None),
    )
    return own, _Shared(shared_query_positions, shared_position_bias, shared_key_positions, keys.table, keys.buckets)


def _by_row(array: Array | None) -> tuple[Array | None, Array | None]:
    """Returns (array, None), or (None, its only row)."""
    return (array, None) if array is None or array.shape[0] > 1 else (None, array[0])


def _joined(own: _Sides, shared: _Shared) -> _Sides:
    """Returns a row's own arrays with those that all rows share."""
    queries, keys = own
    if shared.query_positions is not None:
        queries = queries._replace(positions=shared.query_positions)
    if shared.position_bias is not None:
        queries = queries._replace(position_bias=shared.position_bias)
    if shared.key_positions is not None:
        keys = keys._replace(positions=shared.key_positions)
    return queries, keys._replace(table=shared.table, buckets=shared.buckets)


def _batched(one: Callable[[_Sides, _Shared], tuple[Array, Array]], own: _Sides, shared: _Shared) -> Any:
    """Runs `one` of every row at once.

    Rows that share their positions share their biases. The gradients of these are added up at each place of the mesh
    that has rows before they become gradients of the table: so places exchange [heads buckets] numbers, and not
    [heads query key] of them in every layer.
    """
    every_row = jax.vmap(one, in_axes=(0, None))
    axes = _batch_axes()
    places = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)
    batch = own[0].query.shape[0]
    if shared.table is None or shared.key_positions is None or places == 1 or batch % places:
        return every_row(own, shared)
    table = jnp.broadcast_to(shared.table, (places, *shared.table.shape))
    free = PartitionSpec.UNCONSTRAINED
    shared = shared._replace(table=jax.lax.with_sharding_constraint(table, PartitionSpec(axes, free, free)))
    apart = jax.tree.map(lambda leaf: leaf.reshape(places, -1, *leaf.shape[1:]), own)
    over_places = _Shared(None, None, None, table=0, buckets=None)  # pyright: ignore[reportArgumentType]
    done = jax.vmap(every_row, in_axes=(0, over_places))(apart, shared)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), done)


def _batch_axes() -> tuple[str, ...]:
    """Returns the axes of the mesh in use that the rows of a batch are spread over."""
    (axes,) = nn.spmd.logical_to_mesh_axes(("batch",)) or (None,)
    axes = (axes,) if isinstance(axes, str) else axes or ()
    return tuple(axis for axis in axes if axis in jax.sharding.get_abstract_mesh().shape)


def _cut(queries: QuerySide, blocks: int) -> QuerySide:
    """Returns the queries in blocks along a new first axis."""

    def cut(leaf: Array, axis: int) -> Array:
        shape = (*leaf.shape[:axis], blocks, -1, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    def cut_optional(leaf: Array | None, axis: int) -> Array | None:
        return None if leaf is None else cut(leaf, axis)

    return QuerySide(
        query=cut(queries.query, 0),
        mask=cut_optional(queries.mask, 0),
        segments=cut_optional(queries.segments, 0),
        positions=cut_optional(queries.positions, 0),
        position_bias=cut_optional(queries.position_bias, 1),
    )
