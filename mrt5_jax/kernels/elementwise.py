"""A block's elementwise parts: root mean square norm and gated GELU, computed in at least float32 and rounded once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(
    inputs: Float[Array, "*batch embed"], scale: Float[Array, " embed"], epsilon: float
) -> Float[Array, "*batch embed"]:
    """Computes inputs / root(mean(inputs^2) + epsilon) * scale, in the inputs' type."""
    wide = _widened(inputs)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(mean_square + epsilon)
    factor = scale.astype(normed.dtype).reshape((1,) * (normed.ndim - 1) + scale.shape)
    return (normed * factor).astype(inputs.dtype)


@jax.checkpoint
def gated_gelu(gate: Float[Array, "*batch mlp"], linear: Float[Array, "*batch mlp"]) -> Float[Array, "*batch mlp"]:
    """Computes gelu(gate) * linear, GELU in its tanh approximation, in the gate's type.

    Computed again in the backward pass: what it would keep is wide and larger than its inputs.
    """
    return (jax.nn.gelu(_widened(gate), approximate=True) * _widened(linear)).astype(gate.dtype)


def _widened(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """In at least float32, for elementwise operations that are then rounded once: on CPUs faster, and more exact."""
    return inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
