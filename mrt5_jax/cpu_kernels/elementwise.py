"""Root mean square norm and gated GELU on a CPU, as custom calls: what `elementwise.cc` computes, for JAX.

XLA makes several passes over memory of their derivatives; these make one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mrt5_jax.cpu_kernels.library import GELU, GELU_BACKWARD, NORM, NORM_BACKWARD

_ROW, _PARTS = 32, 16
"""elementwise.cc's numbers at a time, and kParts."""

_MANY = 2**18
"""Fewer numbers than this are not worth a call of their own."""


def suits(inputs: Float[Array, "..."]) -> bool:
    """Whether the functions here take this array, and are worth it."""
    fits = inputs.dtype in (jnp.float32, jnp.bfloat16) and inputs.shape[-1] % _ROW == 0
    return fits and inputs.size >= _MANY


@jax.custom_vjp
def gated_gelu(gate: Float[Array, "*batch mlp"], linear: Float[Array, "*batch mlp"]) -> Float[Array, "*batch mlp"]:
    """gelu(gate) * linear, GELU in its tanh approximation; in float32 and rounded once, as are its gradients."""
    return _call(GELU, gate)(gate, linear)


def _gelu_forward(gate: Array, linear: Array) -> tuple[Array, tuple[Array, Array]]:
    return gated_gelu(gate, linear), (gate, linear)


def _gelu_backward(inputs: tuple[Array, Array], hidden_bar: Array) -> tuple[Array, Array]:
    gate, _ = inputs
    bars = _call(GELU_BACKWARD, gate, gate)(*inputs, hidden_bar)
    return bars[0], bars[1]


gated_gelu.defvjp(_gelu_forward, _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(
    inputs: Float[Array, "rows embed"], scale: Float[Array, " embed"], epsilon: float
) -> Float[Array, "rows embed"]:
    """inputs / root(mean(inputs^2) + epsilon) * scale by rows, in float32 and rounded once, as are its gradients."""
    return _norm(inputs, scale, epsilon)[0]


def _norm(inputs: Array, scale: Array, epsilon: float) -> tuple[Array, Array]:
    inverse = jax.ShapeDtypeStruct(inputs.shape[:1], jnp.float32)
    normed, root = _call(NORM, inputs, inverse)(inputs, scale, epsilon=np.float32(epsilon))
    return normed, root


def _norm_forward(inputs: Array, scale: Array, epsilon: float) -> tuple[Array, tuple[Array, Array, Array]]:
    normed, inverse = _norm(inputs, scale, epsilon)
    return normed, (inputs, scale, inverse)


def _norm_backward(_: float, residuals: tuple[Array, Array, Array], normed_bar: Array) -> tuple[Array, Array]:
    inputs, scale, inverse = residuals
    parts = jax.ShapeDtypeStruct((_PARTS, *scale.shape), jnp.float32)
    inputs_bar, scale_bars = _call(NORM_BACKWARD, inputs, parts)(inputs, scale, inverse, normed_bar)
    return inputs_bar, jnp.sum(scale_bars, axis=0)


rms_norm.defvjp(_norm_forward, _norm_backward)


def _call(name: str, *results: Array | jax.ShapeDtypeStruct) -> Callable[..., Any]:
    """The custom call whose results are like these."""
    shapes = [jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results]
    return jax.ffi.ffi_call(name, shapes if len(shapes) > 1 else shapes[0], vmap_method="sequential")
