"""Attention as a custom call, against NumPy in float64, JAX's derivatives, and the other ways over a batch."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.attention import Keys, Queries, attend
from mrt5_jax.cpu_attention import attention, library
from mrt5_jax.cpu_attention.attention import Operands, Results, fused_attention
from mrt5_jax.position_bias import relative_bias

MASKED = -1e30


@pytest.fixture(autouse=True)
def _compiled() -> None:
    assert library.available(), "CI has a C++ compiler"


def make_operands(
    seed: int,
    batch: int,
    queries: int,
    keys: int,
    *,
    width: int = 32,
    straight: bool,
    heads: int = 2,
    farthest: int = 16,
) -> Operands:
    """Gate values of all sizes, masked keys among them; the last row has no key at all."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    def positions(length: int) -> jax.Array:
        if straight:
            return jnp.arange(length, dtype=jnp.int32)[None]
        return jnp.asarray(np.sort(random.integers(0, 300, (batch, length)), axis=1), jnp.int32)

    gates = -30 * random.random((batch, keys)) * (random.random((batch, keys)) < 0.5)
    key_bias = np.where(random.random((batch, keys)) < 0.7, gates, MASKED)
    key_bias[-1] = MASKED
    return Operands(
        normal(batch, queries, heads, width),
        normal(batch, keys, heads, width),
        normal(batch, keys, heads, width),
        jnp.asarray(key_bias, jnp.float32),
        normal(heads, 2 * farthest + 1),
        positions(queries),
        positions(keys),
        jnp.asarray(random.random((batch, queries)) < 0.8),
    )


def expected(operands: Operands, *, softmax1: bool, numbers: Any = np) -> tuple[Any, Any]:
    """Values and excess by the formula; `numbers`: NumPy in float64, or jax.numpy for derivatives."""
    wide = np.float64 if numbers is np else np.float32
    query, key, value, key_bias, table = (numbers.asarray(array).astype(wide) for array in operands[:5])
    farthest = table.shape[1] // 2
    query_positions, key_positions = np.asarray(operands.query_positions), np.asarray(operands.key_positions)
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    bias = numbers.moveaxis(table[:, np.clip(distance, -farthest, farthest) + farthest], 0, 1)
    scores = numbers.einsum("bqhd,bkhd->bhqk", query, key) + bias
    visible = operands.key_bias > MASKED / 2
    counted = visible[:, None, None, :] & operands.counted[:, None, :, None]
    excess = numbers.sum(numbers.where(counted, numbers.maximum(scores - 5, 0), 0), axis=(1, 2, 3))
    shifted = numbers.where(visible[:, None, None, :], scores + key_bias[:, None, None, :], -np.inf)
    powers = numbers.exp(shifted)
    total = numbers.sum(powers, axis=-1, keepdims=True) + softmax1
    weights = powers / numbers.where(total == 0, 1, total)
    return numbers.einsum("bhqk,bkhd->bqhd", weights, value), excess


def close(one: Any, other: Any, tolerance: float) -> None:
    """To `tolerance` of the array's largest number."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(np.abs(other).max(), 1e-3))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    queries=st.sampled_from([1, 31, 64, 65, 130]),
    keys=st.sampled_from([1, 32, 33, 257, 300]),
    width=st.sampled_from([32, 64]),
    straight=st.booleans(),
    softmax1=st.booleans(),
)
def test_it_is_the_formula(batch: int, softmax1: bool, **sizes: Any) -> None:
    """At block edges and off them, for positions that follow each other and others, with masked rows."""
    operands = make_operands(batch=batch, **sizes)
    values, excess = fused_attention(operands, softmax1)
    wanted, wanted_excess = expected(operands, softmax1=softmax1)
    # Scores reach 30, and float32's rounding of them shows in their powers.
    close(values, wanted, 1e-5)
    close(excess, wanted_excess, 1e-5)
    assert not np.asarray(values)[-1].any()


def gradients(function: Any, operands: Operands, weights: jax.Array) -> Any:
    def total(floats: Any) -> jax.Array:
        values, excess = function(Operands(*floats, *operands[5:]))
        return jnp.sum(values * weights) + 0.01 * jnp.sum(excess * jnp.arange(1, len(excess) + 1))

    return jax.jit(jax.grad(total))(operands[:5])


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize("softmax1", [True, False])
def test_gradients_are_those_of_the_formula(straight: bool, softmax1: bool) -> None:
    """Of query, key, value, gate and bias table, the excess's part among them; 300 keys are more than one block."""
    operands = make_operands(0, 3, 130, 300, straight=straight)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=operands.query.shape), jnp.float32)
    found = gradients(lambda given: fused_attention(given, softmax1), operands, weights)
    wanted = gradients(lambda given: expected(given, softmax1=softmax1, numbers=jnp), operands, weights)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(other).max() > 0.1
        close(one, other, 2e-5)


def test_bfloat16_is_the_formula_to_its_rounding() -> None:
    """Products read 8 bits of each number; sums, softmax and gradients of tables are float32."""
    operands = make_operands(2, 3, 130, 300, width=64, straight=False)
    narrow = [array.astype(jnp.bfloat16) for array in operands[:3]]
    operands = Operands(*[array.astype(jnp.float32) for array in narrow], *operands[3:])
    weights = jnp.asarray(np.random.default_rng(3).normal(size=operands.query.shape), jnp.float32)

    def rounded(given: Operands) -> Results:
        return fused_attention(Operands(*[array.astype(jnp.bfloat16) for array in given[:3]], *given[3:]), False)

    values, excess = rounded(operands)
    assert values.dtype == jnp.bfloat16
    wanted, wanted_excess = expected(operands, softmax1=False)
    close(values, wanted, 1e-2)
    close(excess, wanted_excess, 1e-5)
    found = gradients(rounded, operands, weights)
    for one, other in zip(
        found, gradients(lambda given: fused_attention(given, False), operands, weights), strict=True
    ):
        close(one, other, 2e-2)


def test_many_cores_share_a_heads_queries_without_changing_anything(monkeypatch) -> None:
    operands = make_operands(4, 1, 200, 70, straight=True)._replace(key_bias=jnp.zeros((1, 70)))
    alone = fused_attention(operands, False)
    monkeypatch.setattr(attention.os, "cpu_count", lambda: 64)
    shared = fused_attention(operands, False)
    np.testing.assert_array_equal(shared.values, alone.values)
    np.testing.assert_allclose(shared.excess, alone.excess, rtol=1e-6)


def test_a_number_that_is_none_spoils_its_own_row_alone() -> None:
    operands = make_operands(5, 3, 40, 40, straight=True)
    spoiled = operands._replace(query=operands.query.at[0, 3, 1].set(jnp.nan))
    before, after = (np.array(fused_attention(given, False).values) for given in (operands, spoiled))
    assert np.isnan(after[0, 3, 1]).all()
    after[0, 3, 1] = before[0, 3, 1]
    np.testing.assert_array_equal(after, before)


def attend_and_differentiate(rows: Any, *, bias: bool, softmax1: bool) -> Any:
    random = np.random.default_rng(6)
    heads = [jnp.asarray(random.normal(size=(2, 40, 2, 32)), jnp.float32) for _ in range(3)]
    positions = jnp.asarray(np.sort(random.integers(0, 90, (2, 40)), axis=1), jnp.int32)
    mask = jnp.asarray(random.random((2, 40)) < 0.8)
    gates = jnp.asarray(-5 * random.random((2, 40)), jnp.float32)
    kept = jnp.asarray(random.random((2, 2, 40)) < 0.7)

    def total(query: Any, key: Any, value: Any, gates: Any, embedding: Any) -> Any:
        biases = relative_bias(embedding, positions, positions, bidirectional=True, max_distance=16) if bias else None
        attended = attend(
            query,
            key,
            value,
            Queries(mask),
            Keys(mask, gates),
            position_bias=biases,
            softmax1=softmax1,
            kept_weights=kept,
            dropout_rate=0.3,
            rows=rows,
        )
        return jnp.sum(jnp.sin(attended.values)) + jnp.sum(attended.score_excess), attended

    embedding = jnp.asarray(random.normal(size=(2, 8)), jnp.float32)
    run = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))
    return run(*heads, gates, embedding)


@pytest.mark.parametrize(("bias", "softmax1"), [(True, False), (False, True)])
def test_fused_is_batched(bias: bool, softmax1: bool) -> None:
    """Values, mean excess and all gradients, with dropout, gate values, masks, and biases or none."""
    fused, batched = (attend_and_differentiate(rows, bias=bias, softmax1=softmax1) for rows in ("fused", "batched"))
    jax.tree.map(lambda one, other: close(one, other, 1e-5), fused, batched)


@pytest.fixture
def nothing_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.available.cache_clear()
    yield
    library.available.cache_clear()


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no C++ compiler was found"), ("false", "exit")])
def test_without_a_compiler_one_line_says_so_and_numbers_stay(
    compiler: str, reason: str, nothing_compiled, monkeypatch, caplog
) -> None:
    wanted = attend_and_differentiate("batched", bias=True, softmax1=False)
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        found = [attend_and_differentiate("fused", bias=True, softmax1=False) for _ in range(2)]
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()
    jax.tree.map(lambda one, other: close(one, other, 1e-5), found[0], wanted)
