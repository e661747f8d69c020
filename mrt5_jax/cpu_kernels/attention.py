"""Attention on a CPU as a custom call, forward and backward: what `attention.cc` computes, for JAX.

XLA's CPU backend makes a pass over [heads query key] floats of each of attention's steps. The custom call keeps a few
queries' scores in the cache from the first step to the last, and multiplies bfloat16 numbers with the processor's tiles
where it has them.
"""

import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.cpu_kernels.library import ATTENTION, ATTENTION_BACKWARD

_QUERY_BLOCK = 64
"""attention.cc's kQueries."""


class Operands(NamedTuple):
    """Everything that one attention reads."""

    query: Float[Array, "batch query heads width"]
    """float32 or bfloat16, as key and value; width is a multiple of 32."""
    key: Float[Array, "batch key heads width"]
    value: Float[Array, "batch key heads width"]
    key_bias: Float[Array, "batch key"]
    """float32; added to all scores of a key, below -1e29 for keys that no query sees."""
    table: Float[Array, "heads distances"]
    """float32; the position bias by key position minus query position, clipped to what an odd number can tell apart."""
    query_positions: Int[Array, "rows query"]
    """rows: the batch, or 1."""
    key_positions: Int[Array, "rows key"]
    counted: Bool[Array, "batch query"]
    """Whose scores count in the excess."""


class Results(NamedTuple):
    values: Float[Array, "batch query heads width"]
    """In the query's type; zeros for a query that sees no key."""
    excess: Float[Array, " batch"]
    """Sum of max(score, 5) - 5 over heads, counted queries and visible keys, scores taken without the key bias."""


class Kind(NamedTuple):
    causal: bool = False
    """Whether a query sees only keys at its own index or before it."""
    softmax1: bool = False
    """Whether there is one more key, of score 0 and value 0."""

    def attributes(self) -> dict[str, np.bool_]:
        return {name: np.bool_(value) for name, value in self._asdict().items()}


_PLAIN = Kind()


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def fused_attention(operands: Operands, kind: Kind = _PLAIN) -> Results:
    """softmax(q k^T + position bias + key bias) v.

    `library.available()` must have said yes.
    """
    return _forward(operands, kind)[0]


def _forward(operands: Operands, kind: Kind) -> tuple[Results, tuple[Operands, Array, Array]]:
    batch, queries, heads, _ = operands.query.shape
    # With fewer rows and heads than cores, a head's queries are shared out too.
    cores = os.cpu_count() or 1
    parts = min(-(-cores // (batch * heads)), -(-queries // _QUERY_BLOCK))
    call = jax.ffi.ffi_call(
        ATTENTION,
        (
            jax.ShapeDtypeStruct(operands.query.shape, operands.query.dtype),
            jax.ShapeDtypeStruct((batch, heads, queries, 2), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, parts), jnp.float32),
        ),
        vmap_method="sequential",
    )
    values, softmax, excess = call(*operands, **kind.attributes())
    return Results(values, jnp.sum(excess, axis=(1, 2))), (operands, values, softmax)


def _backward(kind: Kind, residuals: tuple[Operands, Array, Array], bars: Results) -> tuple[Operands]:
    operands, values, softmax = residuals
    batch, _, heads, _ = operands.query.shape
    call = jax.ffi.ffi_call(
        ATTENTION_BACKWARD,
        (
            *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in operands[:3]),
            jax.ShapeDtypeStruct((batch, heads, operands.key_bias.shape[1]), jnp.float32),
            jax.ShapeDtypeStruct((batch, *operands.table.shape), jnp.float32),
        ),
        vmap_method="sequential",
    )
    excess_bar = jnp.broadcast_to(bars.excess[:, None], (batch, heads))
    query_bar, key_bar, value_bar, key_bias_bar, table_bar = call(
        *operands, values, softmax, bars.values, excess_bar, **kind.attributes()
    )
    key_bias_bar, table_bar = jnp.sum(key_bias_bar, axis=1), jnp.sum(table_bar, axis=0)
    return (Operands(query_bar, key_bar, value_bar, key_bias_bar, table_bar, None, None, None),)  # pyright: ignore


fused_attention.defvjp(_forward, _backward)
