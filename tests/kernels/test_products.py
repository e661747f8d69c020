"""Products that read narrow numbers and add up in float32, with their gradients, against NumPy in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.kernels.products import product, project


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def read_as(dtype: Any, array: np.ndarray) -> np.ndarray:
    """What is left of the numbers when they are read in `dtype`, in float64."""
    return np.asarray(jnp.asarray(array, dtype).astype(jnp.float32), np.float64)


def close(found: Any, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(
        np.asarray(found, np.float64), wanted, rtol=tolerance, atol=tolerance * abs(wanted).max()
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("formula", "left_shape", "right_shape", "result_shape"),
    [
        ("ie,ef->if", (37, 600), (600, 20), (37, 20)),
        ("hqd,hkd->hqk", (3, 7, 33), (3, 9, 33), (3, 7, 9)),
        ("hqk,hkd->hqd", (3, 7, 9), (3, 9, 33), (3, 7, 33)),
    ],
)
def test_a_product_reads_narrow_and_adds_up_wide(dtype, formula, left_shape, right_shape, result_shape) -> None:
    """600 summands added up in bfloat16 would be off by a hundredth; cotangents are read in the left array's type."""
    left, right, bar = normal(0, *left_shape), normal(1, *right_shape), normal(2, *result_shape)
    found, vjp = jax.vjp(lambda *arrays: product(formula, *arrays), jnp.asarray(left, dtype), jnp.asarray(right))
    left_bar, right_bar = vjp(jnp.asarray(bar))
    assert (found.dtype, left_bar.dtype, right_bar.dtype) == (jnp.float32, dtype, jnp.float32)
    left, right, bar = (read_as(dtype, array) for array in (left, right, bar))
    names, result = formula.split("->")
    left_names, right_names = names.split(",")
    close(found, np.einsum(formula, left, right), 1e-5)
    rounding = 2.0**-8 if dtype == jnp.bfloat16 else 1e-5
    close(left_bar, np.einsum(f"{result},{right_names}->{left_names}", bar, right), rounding)
    close(right_bar, np.einsum(f"{result},{left_names}->{right_names}", bar, left), 1e-5)


def test_a_projection_is_rounded_once() -> None:
    """In its inputs' type; the kernel's gradient is as wide as the kernel."""
    inputs, kernel, bar = normal(3, 37, 600), normal(4, 600, 20), normal(5, 37, 20)
    found, vjp = jax.vjp(project, jnp.asarray(inputs, jnp.bfloat16), jnp.asarray(kernel))
    input_bar, kernel_bar = vjp(jnp.asarray(bar, jnp.bfloat16))
    assert (found.dtype, input_bar.dtype, kernel_bar.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    inputs, kernel, bar = (read_as(jnp.bfloat16, array) for array in (inputs, kernel, bar))
    close(found, inputs @ kernel, 2.0**-8)
    close(input_bar, bar @ kernel.T, 2.0**-8)
    close(kernel_bar, inputs.T @ bar, 1e-5)
