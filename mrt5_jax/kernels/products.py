"""Matrix products that read their inputs in the activations' type and add up in at least float32, both ways.

JAX's own derivative of such a product multiplies float32 cotangents by bfloat16 inputs, which no matrix unit does
well.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
    inputs: Float[Array, "rows embed"], kernel: Float[Array, "embed features"]
) -> Float[Array, "rows features"]:
    """Multiplies inputs by a kernel in the inputs' type; it and its gradients are added up in at least float32."""
    return product("ie,ef->if", inputs, kernel).astype(inputs.dtype)


def product(formula: str, left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Computes `jnp.einsum(formula, left, right)`, both read in `left`'s type; the result is at least float32.

    Args:
      formula: like "hqd,hkd->hqk". An index stands in at least two of the three places.
      right: may be wider than `left` (a parameter); its gradient then is as wide.
    """
    result: Any = _product(formula, left, right)
    return result


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(formula: str, left: Array, right: Array) -> Array:
    wide = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(formula, left, right.astype(left.dtype), preferred_element_type=wide)


def _forward(formula: str, left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(formula, left, right), (left, right)


def _backward(formula: str, inputs: tuple[Array, Array], result_bar: Array) -> tuple[Array, Array]:
    left, right = inputs
    names, result = formula.split("->")
    left_names, right_names = names.split(",")
    narrow = result_bar.astype(left.dtype)
    left_bar = product(f"{result},{right_names}->{left_names}", narrow, right)
    right_bar = product(f"{left_names},{result}->{right_names}", left, narrow)
    return left_bar.astype(left.dtype), right_bar.astype(right.dtype)


_product.defvjp(_forward, _backward)
