"""Matrix products that read their inputs in the activations' type and add up in at least float32, both ways.

JAX's own derivative of such a product multiplies float32 cotangents by bfloat16 inputs, which no matrix unit does
well.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mrt5_jax.cpu_kernels.library import alone_on_cpu
from mrt5_jax.cpu_kernels.product import suits_tiles, tile_product

_FORWARD, _INPUT_BAR, _KERNEL_BAR = "ie,ef->if", "if,ef->ie", "ie,if->ef"
_TRANSPOSED = {_FORWARD: (False, False), _INPUT_BAR: (False, True), _KERNEL_BAR: (True, False)}
"""Of left and right, for a product of two matrices by rows."""


@jax.custom_vjp
def project(
    inputs: Float[Array, "rows embed"], kernel: Float[Array, "embed features"]
) -> Float[Array, "rows features"]:
    """inputs kernel in the inputs' type, read in that type and added up in at least float32, as are its gradients."""
    return _matrix_product(_FORWARD, inputs, kernel, inputs.dtype)


def _project_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _matrix_product(_FORWARD, inputs, kernel, inputs.dtype), (inputs, kernel)


def _project_backward(residuals: tuple[Array, Array], result_bar: Array) -> tuple[Array, Array]:
    inputs, kernel = residuals
    input_bar = _matrix_product(_INPUT_BAR, result_bar, kernel, inputs.dtype)
    return input_bar, _matrix_product(_KERNEL_BAR, inputs, result_bar, kernel.dtype)


project.defvjp(_project_forward, _project_backward)


def _matrix_product(formula: str, left: Array, right: Array, dtype: Any) -> Array:
    """On a lone CPU with tiles a custom call for large bfloat16 matrices, up to twice as fast as XLA's products."""

    def plain(left: Array, right: Array) -> Array:
        return product(formula, left, right).astype(dtype)

    left_transposed, right_transposed = _TRANSPOSED[formula]
    transposed = {"left_transposed": left_transposed, "right_transposed": right_transposed}
    narrow = left.dtype == jnp.bfloat16 and right.dtype in (jnp.bfloat16, jnp.float32)
    if not (narrow and alone_on_cpu() and suits_tiles(left.shape, right.shape, **transposed)):
        return plain(left, right)
    # By the platform compiled for, not by that of this machine, which may compile for TPUs.
    on_tiles = partial(tile_product, dtype=dtype, **transposed)
    return jax.lax.platform_dependent(left, right, cpu=on_tiles, default=plain)


def product(formula: str, left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum(formula, left, right)` of two arrays, read in `left`'s type; the result is at least float32.

    Args:
      formula: like "hqd,hkd->hqk". An index stands in at least two of the three places.
      right: may be wider than `left` (a parameter); its gradient then is as wide.
    """
    result: Any = _product(formula, left, right)
    return result


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(formula: str, left: Array, right: Array) -> Array:
    def einsum(left: Array, right: Array) -> Array:
        wide = jnp.promote_types(left.dtype, jnp.float32)
        return jnp.einsum(formula, left, right, preferred_element_type=wide)

    right = right.astype(left.dtype)
    if left.dtype != jnp.bfloat16 or jax.default_backend() != "cpu":
        return einsum(left, right)
    # By the platform compiled for, not by that of this machine, which may compile for TPUs.
    return jax.lax.platform_dependent(left, right, cpu=partial(_product_on_cpu, formula), default=einsum)


def _product_on_cpu(formula: str, left: Array, right: Array) -> Array:
    formula, left = _summed_last(formula, left)
    # Without the barrier XLA would turn a transposition of the result into one of the inputs, which it cannot run.
    return jax.lax.optimization_barrier(jnp.einsum(formula, left, right, preferred_element_type=jnp.float32))


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


def _summed_last(formula: str, left: Array) -> tuple[str, Array]:
    """The formula and its left operand with the summed indices last, which bfloat16 products on CPUs need.

    XLA's CPU backend gives a product to the matrix units only in this form. Any other, such as the gradient of a
    kernel, it computes from float32 copies, at a quarter of the speed; a transposition costs less.
    """
    names, result = formula.split("->")
    left_names, right_names = names.split(",")
    ordered = "".join(sorted(left_names, key=lambda index: index not in result))
    if ordered == left_names:
        return formula, left
    # XLA decides before it assigns layouts, and takes a transposed array for one that lies by columns; what comes out
    # of a reshape lies by rows. The barrier keeps the transposition from being folded into the product.
    moved = jnp.transpose(left[None], (0, *(1 + left_names.index(index) for index in ordered)))
    return f"{ordered},{right_names}->{result}", jax.lax.optimization_barrier(jnp.squeeze(moved, 0))
