"""Attention of a block of one row's queries, and the derivative of it that CPUs use.

For accelerators JAX derives it. On a CPU what costs are passes over [heads query key] floats, and products that read
them across; so there the derivative is written by hand, with few of both. The numbers are the same.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.kernels.products import product

SCORE_CEILING = 5.0
"""Scores above this are penalised by the score regulariser."""

_LOWEST = -1e30
"""Score of a key that a query does not see: finite, so that no difference of two scores is NaN."""


class QuerySide(NamedTuple):
    """What is cut into blocks of one row's queries; of a batch, every array has the rows as its first axis."""

    query: Float[Array, "*rows query heads head_dim"]
    mask: Bool[Array, "*rows query"] | None
    segments: Int[Array, "*rows query"] | None
    positions: Int[Array, "*rows query"] | None
    position_bias: Float[Array, "*rows heads query key"] | None


class KeySide(NamedTuple):
    """What every block of a row's queries sees; of a batch, all but table and buckets have the rows as first axis."""

    key: Float[Array, "*rows key heads head_dim"]
    value: Float[Array, "*rows key heads head_dim"]
    mask: Bool[Array, "*rows key"]
    bias: Float[Array, "*rows key"] | None
    segments: Int[Array, "*rows key"] | None
    positions: Int[Array, "*rows key"] | None
    table: Float[Array, "heads buckets"] | None
    buckets: Int[Array, " distances"] | None


class BlockAttended(NamedTuple):
    values: Float[Array, "query heads head_dim"]
    excess: Float[Array, ""]
    """Summed over the pairs that are counted; 0 where none are."""
    pairs: Float[Array, ""]
    """How many are counted, in one head."""


@dataclasses.dataclass(frozen=True)
class Form:
    """Says what is static about a block's attention; see `kernels.attention.attention`."""

    compute_bias: Callable[..., Array]
    causal: bool
    sink: bool
    excess: bool


def attend_block(form: Form, queries: QuerySide, keys: KeySide) -> BlockAttended:
    """Computes what the block's queries attend to; a query that sees no key receives zeros."""
    attended, _ = _attend_and_sums(form, queries, keys)
    return attended


class _Sums(NamedTuple):
    """Holds two numbers a query: its weights are exp(score - top) / total."""

    top: Float[Array, "heads query"]
    total: Float[Array, "heads query"]


def _attend_and_sums(form: Form, queries: QuerySide, keys: KeySide) -> tuple[BlockAttended, _Sums]:
    scores = _scores(form, queries, keys)
    visible = _visible(form, queries, keys)
    excess = pairs = jnp.zeros((), scores.dtype)
    if form.excess:
        # By query first: XLA's CPU backend takes one sum over everything twice as long.
        excess = jnp.sum(jnp.where(visible[None], jnp.maximum(scores - SCORE_CEILING, 0), 0), axis=-1)
        excess = jnp.sum(excess if queries.mask is None else jnp.where(queries.mask[None], excess, 0))
        pairs = jnp.sum(jnp.broadcast_to(_counted(visible, queries), scores.shape[1:]), dtype=excess.dtype)
    scores = scores + _offsets(visible, keys, scores.dtype)
    top = jnp.max(scores, axis=-1, initial=0.0 if form.sink else _LOWEST)
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(scores - top[..., None])
    total = jnp.sum(weights, axis=-1)
    if form.sink:
        total = total + jnp.exp(-top)
    # Dividing values instead of weights saves a pass over [heads query key].
    values = product("hqk,hkd->hqd", weights.astype(keys.value.dtype), jnp.swapaxes(keys.value, 0, 1))
    values = jnp.where(jnp.any(visible, axis=-1)[None, :, None], values / total[..., None], 0)
    return BlockAttended(jnp.swapaxes(values, 0, 1), excess, pairs), _Sums(top, total)


def _scores(form: Form, queries: QuerySide, keys: KeySide) -> Float[Array, "heads query key"]:
    scores = product("hqd,hkd->hqk", jnp.swapaxes(queries.query, 0, 1), jnp.swapaxes(keys.key, 0, 1))
    if queries.position_bias is not None:
        scores = scores + queries.position_bias
    if keys.table is not None:
        assert keys.buckets is not None
        assert queries.positions is not None
        assert keys.positions is not None
        scores = scores + form.compute_bias(keys.table, keys.buckets, queries.positions, keys.positions)
    return scores


def _visible(form: Form, queries: QuerySide, keys: KeySide) -> Bool[Array, "#query key"]:
    visible = keys.mask[None, :]
    if form.causal:
        assert queries.positions is not None
        assert keys.positions is not None
        visible = visible & (queries.positions[:, None] >= keys.positions[None, :])
    if keys.segments is not None and queries.segments is not None:
        visible = visible & (queries.segments[:, None] == keys.segments[None, :])
    return visible


def _counted(visible: Bool[Array, "#query key"], queries: QuerySide) -> Bool[Array, "#query key"]:
    """Pairs that the score excess counts."""
    return visible if queries.mask is None else visible & queries.mask[:, None]


def _offsets(visible: Bool[Array, "#query key"], keys: KeySide, dtype: Any) -> Float[Array, "1 #query key"]:
    """Returns what is added to the scores of all heads: key biases, and where a query does not see a key, `_LOWEST`.

    Added, not selected: a score is lost beside it, and [1 key] or [query key] numbers serve all heads.
    """
    bias = jnp.zeros_like(keys.mask, dtype) if keys.bias is None else keys.bias
    return jnp.where(visible, bias[None], _LOWEST)[None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_block_anew(form: Form, queries: QuerySide, keys: KeySide) -> BlockAttended:
    """Computes what `attend_block` does, for CPUs: its derivative makes the weights anew, of two numbers a query.

    Of JAX's own derivative under `jax.checkpoint` it leaves out the product with the values and two passes over
    [heads query key].
    """
    return attend_block(form, queries, keys)


def _forward(form: Form, queries: QuerySide, keys: KeySide) -> tuple[BlockAttended, Any]:
    attended, sums = _attend_and_sums(form, queries, keys)
    return attended, (queries, keys, attended.values, sums)


def _backward(form: Form, kept: Any, bars: BlockAttended) -> tuple[QuerySide, KeySide]:
    queries, keys, values, sums = kept
    visible = _visible(form, queries, keys)

    def both_scores(queries: QuerySide, keys: KeySide) -> tuple[Array, Array]:
        keys = keys._replace(key=_gradient_by_dimension(keys.key))
        scores = _scores(form, queries, keys)
        return scores, scores + _offsets(visible, keys, scores.dtype)

    def weighed(weights: Array, value: Array) -> Array:
        return product("hqk,hkd->hqd", weights, jnp.swapaxes(_gradient_by_dimension(value), 0, 1))

    (scores, biased), pull_scores = jax.vjp(both_scores, queries, keys)
    weights = jnp.exp(biased - sums.top[..., None])  # not divided by their total: values_bar is
    _, pull_values = jax.vjp(weighed, weights.astype(keys.value.dtype), keys.value)
    values_bar = jnp.where(jnp.any(visible, axis=-1)[:, None, None], bars.values / sums.total.T[..., None], 0)
    weights_bar, value_bar = pull_values(jnp.swapaxes(values_bar, 0, 1))
    # The softmax's derivative; the sum over keys of weights * weights_bar is one over a head's dimensions.
    biased_bar = weights * (weights_bar - jnp.sum(values_bar * values, axis=-1).T[..., None])
    excess_bar = jnp.zeros_like(scores)
    if form.excess:
        excess_bar = jnp.where(_counted(visible, queries)[None] & (scores > SCORE_CEILING), bars.excess, 0)
    queries_bar, keys_bar = pull_scores((excess_bar, biased_bar))
    return queries_bar, keys_bar._replace(value=value_bar)


attend_block_anew.defvjp(_forward, _backward)


@jax.custom_vjp
def _gradient_by_dimension(array: Float[Array, "key heads head_dim"]) -> Float[Array, "key heads head_dim"]:
    """Returns the array. Its gradient is computed as [heads head_dim key] and then turned.

    XLA's CPU backend otherwise turns the product that makes it, and [heads query key] floats are read across.
    """
    return array


def _gradient_by_dimension_backward(_: None, bar: Array) -> tuple[Array]:
    return (jnp.transpose(jax.lax.optimization_barrier(jnp.transpose(bar, (1, 2, 0))), (2, 0, 1)),)


_gradient_by_dimension.defvjp(lambda array: (array, None), _gradient_by_dimension_backward)
