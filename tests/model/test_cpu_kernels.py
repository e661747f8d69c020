"""Custom calls: attention against NumPy in float64, JAX's derivatives and the other ways over a batch; products."""

import logging
import os
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.attention import Keys, Queries, attend
from mrt5_jax.cpu_kernels import attention, library, product
from mrt5_jax.cpu_kernels.attention import Kind, Operands, Results, fused_attention
from mrt5_jax.position_bias import relative_bias
from mrt5_jax.products import project

MASKED = -1e30


pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _compiled() -> None:
    assert library.available()


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


def expected(operands: Operands, kind: Kind, numbers: Any = np) -> tuple[Any, Any]:
    """Values and excess by the formula; `numbers`: NumPy in float64, or jax.numpy for derivatives."""
    wide = np.float64 if numbers is np else np.float32
    query, key, value, key_bias, table = (numbers.asarray(array).astype(wide) for array in operands[:5])
    farthest = table.shape[1] // 2
    query_positions, key_positions = np.asarray(operands.query_positions), np.asarray(operands.key_positions)
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    bias = numbers.moveaxis(table[:, np.clip(distance, -farthest, farthest) + farthest], 0, 1)
    scores = numbers.einsum("bqhd,bkhd->bhqk", query, key) + bias
    queries, keys = distance.shape[1:]
    visible = (operands.key_bias > MASKED / 2)[:, None, None, :]
    visible = visible & ((np.arange(queries)[None, None, :, None] >= np.arange(keys)) | (not kind.causal))
    counted = visible & operands.counted[:, None, :, None]
    excess = numbers.sum(numbers.where(counted, numbers.maximum(scores - 5, 0), 0), axis=(1, 2, 3))
    shifted = numbers.where(visible, scores + key_bias[:, None, None, :], -np.inf)
    powers = numbers.exp(shifted)
    total = numbers.sum(powers, axis=-1, keepdims=True) + kind.softmax1
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
    kind=st.builds(Kind, causal=st.booleans(), softmax1=st.booleans()),
)
def test_it_is_the_formula(batch: int, kind: Kind, **sizes: Any) -> None:
    """At block edges and off them, for positions that follow each other and others, with masked rows."""
    operands = make_operands(batch=batch, **sizes)
    values, excess = fused_attention(operands, kind)
    wanted, wanted_excess = expected(operands, kind)
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
@pytest.mark.parametrize("kind", [Kind(), Kind(softmax1=True), Kind(causal=True)])
def test_gradients_are_those_of_the_formula(straight: bool, kind: Kind) -> None:
    """Of query, key, value, gate and bias table, the excess's part among them; 300 keys are more than one block."""
    operands = make_operands(0, 3, 300, 300, straight=straight)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=operands.query.shape), jnp.float32)
    found = gradients(lambda given: fused_attention(given, kind), operands, weights)
    wanted = gradients(lambda given: expected(given, kind, jnp), operands, weights)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(other).max() > 0.1
        close(one, other, 2e-5)


@pytest.mark.parametrize("farthest", [32, 33, 34])
def test_far_begins_where_the_table_ends(farthest: int) -> None:
    """Blocks of queries and keys lie 1, 33 and 65 apart: one bias for all of them from the last bin on, not before."""
    operands = make_operands(7, 1, 130, 130, straight=True, farthest=farthest)
    # Every key counts: none is masked, and no score outweighs the others.
    operands = operands._replace(key_bias=jnp.zeros((1, 130)), query=operands.query / 20, table=operands.table / 20)
    weights = jnp.asarray(np.random.default_rng(8).normal(size=operands.query.shape), jnp.float32)
    close(fused_attention(operands).values, expected(operands, Kind())[0], 1e-5)
    found = gradients(lambda given: fused_attention(given), operands, weights)
    wanted = gradients(lambda given: expected(given, Kind(), jnp), operands, weights)
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 2e-5)


def test_bfloat16_is_the_formula_to_its_rounding() -> None:
    """Products read 8 bits of each number; sums, softmax and gradients of tables are float32."""
    operands = make_operands(2, 3, 130, 300, width=64, straight=False)
    narrow = [array.astype(jnp.bfloat16) for array in operands[:3]]
    operands = Operands(*[array.astype(jnp.float32) for array in narrow], *operands[3:])
    weights = jnp.asarray(np.random.default_rng(3).normal(size=operands.query.shape), jnp.float32)

    def rounded(given: Operands) -> Results:
        return fused_attention(Operands(*[array.astype(jnp.bfloat16) for array in given[:3]], *given[3:]))

    values, excess = rounded(operands)
    assert values.dtype == jnp.bfloat16
    wanted, wanted_excess = expected(operands, Kind())
    close(values, wanted, 1e-2)
    close(excess, wanted_excess, 1e-5)
    found = gradients(rounded, operands, weights)
    for one, other in zip(found, gradients(lambda given: fused_attention(given), operands, weights), strict=True):
        close(one, other, 2e-2)


def test_many_cores_share_a_heads_queries_without_changing_anything(monkeypatch) -> None:
    operands = make_operands(4, 1, 200, 70, straight=True)._replace(key_bias=jnp.zeros((1, 70)))
    alone = fused_attention(operands)
    monkeypatch.setattr(attention.os, "cpu_count", lambda: 64)
    shared = fused_attention(operands)
    np.testing.assert_array_equal(shared.values, alone.values)
    np.testing.assert_allclose(shared.excess, alone.excess, rtol=1e-6)


def test_a_number_that_is_none_spoils_its_own_row_alone() -> None:
    operands = make_operands(5, 3, 40, 40, straight=True)
    spoiled = operands._replace(query=operands.query.at[0, 3, 1].set(jnp.nan))
    before, after = (np.array(fused_attention(given).values) for given in (operands, spoiled))
    assert np.isnan(after[0, 3, 1]).all()
    after[0, 3, 1] = before[0, 3, 1]
    np.testing.assert_array_equal(after, before)


def attend_and_differentiate(rows: Any, *, bias: bool, softmax1: bool, causal: bool = False) -> Any:
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
            causal=causal,
            softmax1=softmax1,
            kept_weights=kept,
            dropout_rate=0.3,
            rows=rows,
        )
        return jnp.sum(jnp.sin(attended.values)) + jnp.sum(attended.score_excess), attended

    embedding = jnp.asarray(random.normal(size=(2, 8)), jnp.float32)
    run = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))
    return run(*heads, gates, embedding)


@pytest.mark.parametrize(
    "how",
    [
        {"bias": True, "softmax1": False},
        {"bias": False, "softmax1": True},
        {"bias": True, "softmax1": False, "causal": True},
    ],
)
def test_fused_is_batched(how: Any) -> None:
    """Values, mean excess and all gradients, with dropout, gate values, masks, and biases or none."""
    fused, batched = (attend_and_differentiate(rows, **how) for rows in ("fused", "batched"))
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


SIZES = [(64, 32, 32), (130, 96, 64), (1000, 1056, 544), (96, 2080, 64)]
"""Rows, summed index, columns: all of it at once and in parts, more columns than fit at once."""


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_on_tiles_is_numpys(sizes: tuple[int, int, int], transposed: tuple[bool, bool], dtype: Any) -> None:
    """Of bfloat16 numbers, in float32 arrays too, to the rounding of sums and of the result."""
    if not library.has_tiles():
        pytest.skip("this processor has no tiles for bfloat16")
    rows, inner, columns = sizes
    if transposed[0]:
        rows = -(-rows // 64) * 64
    random = np.random.default_rng(8)
    left = jnp.asarray(random.normal(size=(rows, inner)), jnp.bfloat16)
    right = jnp.asarray(random.normal(size=(inner, columns)), jnp.bfloat16)
    wanted = np.asarray(left, np.float64) @ np.asarray(right, np.float64)
    found = product.tile_product(
        left.T if transposed[0] else left,
        (right.T if transposed[1] else right).astype(dtype),
        dtype,
        left_transposed=transposed[0],
        right_transposed=transposed[1],
    )
    assert found.dtype == dtype
    close(found, wanted, 1e-5 if dtype == jnp.float32 else 4e-3)


def test_a_projection_is_the_same_on_tiles_and_without(monkeypatch) -> None:
    """With its gradients, which read the same 8 bits of each number; 48 rows are fewer than are packed together."""
    random = np.random.default_rng(9)
    inputs = jnp.asarray(random.normal(size=(48, 64)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(64, 96)), jnp.float32)

    def total(inputs: Any, kernel: Any) -> jax.Array:
        return jnp.sum(jnp.sin(project(inputs, kernel).astype(jnp.float32)))

    results = []
    for fewest in (1, 2**60):
        monkeypatch.setattr(product, "_MANY_PRODUCTS", fewest)
        results.append(jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(inputs, kernel))
        jax.clear_caches()
    jax.tree.map(lambda one, other: close(one, other, 1e-2), *results)


@pytest.mark.parametrize(
    ("left", "right", "transposed", "fits"),
    [
        ((4096, 512), (512, 1024), (False, False), True),
        ((4095, 512), (512, 1024), (False, False), True),
        ((4096, 512), (512, 1000), (False, False), False),
        ((4096, 500), (500, 1024), (False, False), False),
        ((4095, 512), (4095, 1024), (True, False), True),
        ((4096, 480), (4096, 1024), (True, False), False),
        ((4096, 1000), (512, 1000), (False, True), False),
        ((8, 512), (512, 1024), (False, False), False),
    ],
)
def test_products_that_do_not_fill_tiles_are_left_to_xla(left, right, transposed, fits: bool, monkeypatch) -> None:
    monkeypatch.setattr(product, "has_tiles", lambda: True)
    assert product.suits_tiles(left, right, left_transposed=transposed[0], right_transposed=transposed[1]) == fits
