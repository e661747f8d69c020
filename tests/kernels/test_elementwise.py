"""Norm and gated GELU against NumPy in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.kernels import elementwise

EPSILON = 1e-6


def numbers(seed: int, *shape: int, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(size)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON) * scale


def slopes(function: Any, bar: np.ndarray, *arguments: np.ndarray) -> list[np.ndarray]:
    """Derivatives of sum(bar * function) along random directions, by central differences in float64."""
    step = 1e-6
    results = []
    for i, argument in enumerate(arguments):
        direction = np.random.default_rng(i).normal(size=argument.shape)
        ends = []
        for side in (step, -step):
            moved = [a + side * direction if i == j else a for j, a in enumerate(arguments)]
            ends.append(np.sum(bar * function(*moved)))
        results.append((ends[0] - ends[1]) / (2 * step))
    return results


def projected(gradients: Any) -> list[float]:
    """Gradients along the directions of `slopes`."""
    arrays = [np.asarray(gradient, np.float64) for gradient in gradients]
    return [float(np.sum(g * np.random.default_rng(i).normal(size=g.shape))) for i, g in enumerate(arrays)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.sampled_from([1, 37]),
    panels=st.sampled_from([1, 3]),
    size=st.sampled_from([0.01, 1, 8]),
)
def test_they_are_the_formulas(seed: int, rows: int, panels: int, size: float) -> None:
    """Values and derivatives, for any number of rows and numbers of all sizes."""
    shape = (rows, 32 * panels)
    one, other, bar = numbers(seed, *shape, size=size), numbers(seed + 1, *shape), numbers(seed + 2, *shape)
    scale = other[0]
    wide = [array.astype(np.float64) for array in (one, other, scale, bar)]

    hidden, gelu_vjp = jax.vjp(elementwise.gated_gelu, jnp.asarray(one), jnp.asarray(other))
    # By the linear factor, which multiplies the rounding of 1 + tanh too.
    np.testing.assert_allclose(hidden / other, gelu(wide[0]), rtol=3e-6, atol=1e-6)
    expected = slopes(lambda x, y: gelu(x) * y, wide[3], *wide[:2])
    np.testing.assert_allclose(projected(gelu_vjp(jnp.asarray(bar))), expected, rtol=1e-4, atol=2e-4)

    normed, norm_vjp = jax.vjp(lambda x, s: elementwise.rms_norm(x, s, EPSILON), jnp.asarray(one), jnp.asarray(scale))
    np.testing.assert_allclose(normed, norm(wide[0], wide[2]), rtol=3e-6, atol=1e-6)
    expected = slopes(norm, wide[3], wide[0], wide[2])
    np.testing.assert_allclose(projected(norm_vjp(jnp.asarray(bar))), expected, rtol=1e-4, atol=1e-3 / size)


def test_bfloat16_is_rounded_once() -> None:
    """Results are float32's, rounded: at most half a unit of bfloat16's last place from the formula."""
    one, other = (jnp.asarray(numbers(seed, 33, 64), jnp.bfloat16) for seed in (0, 1))
    scale = numbers(2, 64)
    wide, factor = np.asarray(one, np.float64), np.asarray(other, np.float64)
    half_unit = 2.0**-8 + 1e-5
    np.testing.assert_allclose(elementwise.gated_gelu(one, other).astype(float), gelu(wide) * factor, rtol=half_unit)
    normed = elementwise.rms_norm(one, jnp.asarray(scale), EPSILON)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(normed.astype(float), norm(wide, scale.astype(np.float64)), rtol=half_unit)


def test_extremes() -> None:
    """Large numbers neither overflow nor lose their sign, zeros stay, and what is not a number shows."""
    gate = jnp.asarray(np.repeat([[-200.0, -20.0, 0.0, 20.0, 200.0, np.nan]], 32, axis=0).T.astype(np.float32))
    ones = jnp.ones_like(gate)
    hidden, vjp = jax.vjp(elementwise.gated_gelu, gate, ones)
    gate_bar, linear_bar = vjp(ones)
    for array, expected in (
        (hidden, [0, 0, 0, 20, 200]),
        (gate_bar, [0, 0, 0.5, 1, 1]),
        (linear_bar, [0, 0, 0, 20, 200]),
    ):
        np.testing.assert_allclose(array[:5], np.repeat(np.array([expected]), 32, axis=0).T, atol=1e-12)
        assert np.isnan(array[5]).all()
    zeros = jnp.zeros((2, 32))
    assert not np.asarray(elementwise.rms_norm(zeros, jnp.ones(32), EPSILON)).any()
    assert np.isnan(elementwise.rms_norm(zeros.at[0, 3].set(jnp.nan), jnp.ones(32), EPSILON)[0]).all()
