"""A block's elementwise parts: root mean square norm and gated GELU, computed in at least float32 and rounded once.

On a lone CPU large arrays go to custom calls.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mrt5_jax.cpu_kernels import elementwise as on_cpu
from mrt5_jax.cpu_kernels.library import alone_on_cpu, available


def rms_norm(
    inputs: Float[Array, "*batch embed"], scale: Float[Array, " embed"], epsilon: float
) -> Float[Array, "*batch embed"]:
    """inputs / root(mean(inputs^2) + epsilon) * scale, in the inputs' type."""

    def by_call(inputs: Array, scale: Array) -> Array:
        flat: Any = on_cpu.rms_norm(inputs.reshape(-1, inputs.shape[-1]), scale.astype(jnp.float32), epsilon)
        return flat.reshape(inputs.shape)

    def plain(inputs: Array, scale: Array) -> Array:
        wide = _widened(inputs)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + epsilon)
        factor = scale.astype(normed.dtype).reshape((1,) * (normed.ndim - 1) + scale.shape)
        return (normed * factor).astype(inputs.dtype)

    if not _by_call(inputs):
        return plain(inputs, scale)
    return jax.lax.platform_dependent(inputs, scale, cpu=by_call, default=plain)


def gated_gelu(gate: Float[Array, "*batch mlp"], linear: Float[Array, "*batch mlp"]) -> Float[Array, "*batch mlp"]:
    """gelu(gate) * linear, GELU in its tanh approximation, in the gate's type."""

    @jax.checkpoint
    def plain(gate: Array, linear: Array) -> Array:
        # Computed again in the backward pass: what it would keep is wide and larger than its inputs.
        return (jax.nn.gelu(_widened(gate), approximate=True) * _widened(linear)).astype(gate.dtype)

    if not _by_call(gate):
        return plain(gate, linear)
    return jax.lax.platform_dependent(gate, linear, cpu=on_cpu.gated_gelu, default=plain)


def _by_call(inputs: Array) -> bool:
    return alone_on_cpu() and on_cpu.suits(inputs) and available()


def _widened(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """In at least float32, for elementwise operations that are then rounded once: on CPUs faster, and more exact."""
    return inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
