"""Attention: masks that leave nothing, the two ways over a batch, and T5's relative positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrt5_jax.kernels.xla
from mrt5_jax.kernels.position_bias import RelativeBias, distance_buckets, relative_bias
from mrt5_jax.kernels.xla import Attended, Keys, Queries, attend, choose_rows, masked_softmax, materialize_bias

from ..model import oracle

BATCH, QUERIES, SLOTS, HEADS, WIDTH = 3, 4, 5, 2, 3
MASK = np.arange(SLOTS)[None] < np.array([5, 2, 0])[:, None]
"""The last row has no key at all."""


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


ARRAYS = (
    normal(0, BATCH, QUERIES, HEADS, WIDTH),
    normal(1, BATCH, SLOTS, HEADS, WIDTH),
    normal(2, BATCH, SLOTS, HEADS, WIDTH),
    normal(3, BATCH, SLOTS),
    normal(4, BATCH, HEADS, QUERIES, SLOTS),
)
KEPT = np.random.default_rng(5).random((BATCH, HEADS, SLOTS)) < 0.7
COUNTED = np.random.default_rng(6).random((BATCH, QUERIES)) < 0.8
EXAMPLES = np.sort(np.random.default_rng(7).integers(1, 4, (BATCH, SLOTS)), axis=1)
"""Of packed rows, the example of each key; a query belongs to that of the key at its index."""


def run(arrays: tuple, rows: Any, *, softmax1: bool, shared: bool, causal: bool, packed: bool) -> Attended:
    query, key, value, key_bias, position_bias = arrays
    return attend(
        query,
        key,
        value,
        Queries(jnp.asarray(COUNTED), jnp.asarray(EXAMPLES[:, :QUERIES]) if packed else None),
        Keys(jnp.asarray(MASK), key_bias, jnp.asarray(EXAMPLES) if packed else None),
        position_bias=position_bias[:1] if shared else position_bias,
        causal=causal,
        softmax1=softmax1,
        kept_weights=jnp.asarray(KEPT),
        dropout_rate=0.3,
        rows=rows,
    )


def values_and_gradients(rows: Any, **how: bool) -> tuple[Attended, Any]:
    """In float64: the derivative for rows one by one is written by hand, that for batched rows is JAX's own."""

    def total(arrays: tuple) -> tuple[jax.Array, Attended]:
        attended = run(arrays, rows, **how)
        return jnp.sum(jnp.sin(attended.values)) + jnp.sum(jnp.sin(attended.score_excess)), attended

    with jax.enable_x64(True):
        wide = tuple(jnp.asarray(array, jnp.float64) for array in ARRAYS)
        gradient, attended = jax.jit(jax.grad(total, has_aux=True))(wide)
        return jax.device_get((attended, gradient))


@pytest.fixture(
    scope="module",
    params=[
        {"causal": True, "packed": False, "softmax1": False, "shared": False},
        {"causal": False, "packed": False, "softmax1": True, "shared": True},
        {"causal": True, "packed": True, "softmax1": True, "shared": False},
        {"causal": False, "packed": True, "softmax1": False, "shared": True},
    ],
    ids=lambda how: ", ".join(name for name, applies in how.items() if applies),
)
def both(request) -> tuple[tuple[Attended, Any], tuple[Attended, Any]]:
    """Values and gradients, batched and one by one."""
    batched, one_by_one = (values_and_gradients(rows, **request.param) for rows in ("batched", "one_by_one"))
    return batched, one_by_one


def test_batched_is_one_by_one(both) -> None:
    """Values, score excess and the gradients of all inputs, with a bias of each kind, dropout and masks."""
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12), *both)
    for leaf in jax.tree.leaves(both[0]):
        assert np.abs(leaf[:2]).max() > 1e-3, "all of it counts"


def test_queries_without_keys_receive_zeros_and_pass_no_gradient(both) -> None:
    """No NaN, forward or backward."""
    (attended, gradient), _ = both
    assert not attended.values[2].any()
    assert attended.score_excess[2] == 0
    for leaf in gradient[:4]:
        assert np.isfinite(leaf).all()
        assert not leaf[2].any()


@pytest.mark.parametrize("softmax1", [False, True])
def test_masked_softmax_is_the_formula_also_for_huge_scores(softmax1: bool) -> None:
    """e^s / (1 + sum e^s) with softmax1; a row of masked keys is zero, hidden scores of any size do not matter."""
    scores = normal(6, 4, 6)
    mask = np.arange(6)[None] < np.array([6, 3, 1, 0])[:, None]
    powers = np.where(mask, np.exp(scores.astype(np.float64)), 0)
    total = powers.sum(-1, keepdims=True) + softmax1
    expected = powers / np.where(total == 0, 1, total)
    hidden = np.where(mask, scores, 1e30).astype(np.float32)
    np.testing.assert_allclose(
        masked_softmax(jnp.asarray(hidden), jnp.asarray(mask), softmax1=softmax1), expected, 1e-5
    )
    far = np.where(mask, scores + 300, 0).astype(np.float32)
    shifted = masked_softmax(jnp.asarray(far), jnp.asarray(mask), softmax1=softmax1)
    without_sink = powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(shifted, without_sink, rtol=1e-4)
    low = masked_softmax(jnp.asarray(scores - 300), jnp.asarray(mask), softmax1=softmax1)
    np.testing.assert_allclose(low, np.zeros_like(low) if softmax1 else without_sink, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 16)])
def test_every_distance_has_t5s_bucket(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    """To 3000 either way, against exact fractions; each head has its own biases."""
    embedding = jnp.arange(2.0 * num_buckets).reshape(2, num_buckets)
    distances = np.arange(-3000, 3001)
    sizes = {"bidirectional": bidirectional, "max_distance": max_distance}
    biases = relative_bias(embedding, jnp.full((1, 1), 3000), jnp.asarray(distances + 3000)[None], **sizes).whole()
    expected = np.array([oracle.bucket(int(distance), num_buckets=num_buckets, **sizes) for distance in distances])
    np.testing.assert_array_equal(biases[0, 0, 0], expected)
    np.testing.assert_array_equal(biases[0, 1, 0], expected + num_buckets)
    assert set(distance_buckets(num_buckets=num_buckets, **sizes)) == set(expected)


def test_biases_follow_original_positions() -> None:
    """The biases of a compact sequence are the full sequence's, at the rows and columns that stayed."""
    embedding = jnp.asarray(normal(7, HEADS, 8))
    sizes = {"bidirectional": True, "max_distance": 16}
    everything = jnp.arange(12)[None]
    full = np.asarray(relative_bias(embedding, everything, everything, **sizes).whole())
    kept = np.array([[0, 3, 4, 11], [1, 2, 9, 10]], np.int32)
    compact = relative_bias(embedding, jnp.asarray(kept), jnp.asarray(kept), **sizes).whole()
    for row, positions in enumerate(kept):
        np.testing.assert_array_equal(compact[row], full[0][:, positions][:, :, positions])


LONG, NUM_BUCKETS = 12, 8
POSITIONS = np.sort(np.random.default_rng(8).integers(0, 40, (BATCH, LONG)), axis=1).astype(np.int32)
SEGMENTS = np.sort(np.random.default_rng(9).integers(1, 4, (BATCH, LONG)), axis=1).astype(np.int32)


def attend_to_itself(
    embedding: Any, heads: Any, *, ready: bool, rows: Any, shared: bool, segments: bool
) -> tuple[jax.Array, jax.Array]:
    positions = jnp.asarray(POSITIONS[:1] if shared else POSITIONS)
    bias = relative_bias(embedding, positions, positions, bidirectional=True, max_distance=16)
    own = jnp.asarray(SEGMENTS) if segments else None
    everything = jnp.ones((BATCH, LONG), bool)
    attended = attend(
        *heads,
        Queries(everything, own),
        Keys(everything, segments=own),
        position_bias=bias.whole() if ready else bias,
        rows=rows,
    )
    return attended.values, attended.score_excess


def self_attention_and_gradients(**how: Any) -> Any:
    heads = tuple(jnp.asarray(normal(seed, BATCH, LONG, HEADS, WIDTH)) for seed in (10, 11, 12))
    embedding = jnp.asarray(normal(13, HEADS, NUM_BUCKETS))

    def total(embedding: Any, heads: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        values, excess = attend_to_itself(embedding, heads, **how)
        return jnp.sum(jnp.sin(values)) + jnp.sum(excess), (values, excess)

    return jax.device_get(jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(embedding, heads))


@pytest.mark.parametrize(
    ("shared", "segments"),
    [
        pytest.param(False, False, marks=pytest.mark.slow),
        (False, True),
        (True, False),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_neither_blocks_nor_when_biases_are_computed_change_anything(shared: bool, segments: bool, monkeypatch) -> None:
    """Values, score excess and all gradients, the bias table's among them, whose derivative is written by hand."""
    expected = self_attention_and_gradients(ready=True, rows="batched", shared=shared, segments=segments)
    assert np.abs(expected[0][0]).max() > 1e-3
    monkeypatch.setattr(mrt5_jax.kernels.xla, "_BLOCK_SCORES", HEADS * LONG * LONG // 3)
    for ready in (True, False):
        for rows in ("batched", "one_by_one"):
            result = self_attention_and_gradients(ready=ready, rows=rows, shared=shared, segments=segments)
            jax.tree.map(
                lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), result, expected
            )


def test_the_bias_table_s_gradient_is_that_of_a_gather() -> None:
    """Against JAX's own derivative of indexing."""
    embedding, positions = jnp.asarray(normal(13, HEADS, NUM_BUCKETS)), jnp.asarray(POSITIONS)
    weights = jnp.asarray(normal(14, BATCH, HEADS, LONG, LONG))

    def ours(embedding: Any) -> jax.Array:
        bias = relative_bias(embedding, positions, positions, bidirectional=True, max_distance=16)
        return jnp.sum(weights * jnp.sin(bias.whole()))

    def gathered(embedding: Any) -> jax.Array:
        table = jnp.asarray(distance_buckets(bidirectional=True, num_buckets=NUM_BUCKETS, max_distance=16))
        bucket = table[jnp.clip(positions[:, None, :] - positions[:, :, None], -16, 16) + 16]
        return jnp.sum(weights * jnp.sin(jnp.moveaxis(embedding[:, bucket], 0, 1)))

    np.testing.assert_allclose(jax.grad(ours)(embedding), jax.grad(gathered)(embedding), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", ["batched", "one_by_one"])
def test_a_segment_attends_as_if_it_were_alone(rows: Any) -> None:
    heads = tuple(jnp.asarray(normal(seed, BATCH, LONG, HEADS, WIDTH)) for seed in (10, 11, 12))
    embedding = jnp.asarray(normal(13, HEADS, NUM_BUCKETS))
    packed, _ = attend_to_itself(embedding, heads, ready=False, rows=rows, shared=False, segments=True)
    for row, number in ((0, 1), (1, 2), (2, 3)):
        mine = np.flatnonzero(SEGMENTS[row] == number)
        positions = jnp.asarray(POSITIONS[row, mine])[None]
        alone = attend(
            *(array[row, mine][None] for array in heads),
            Queries(jnp.ones((1, mine.size), bool)),
            Keys(jnp.ones((1, mine.size), bool)),
            position_bias=relative_bias(embedding, positions, positions, bidirectional=True, max_distance=16),
        )
        np.testing.assert_allclose(packed[row, mine], alone.values[0], rtol=1e-5, atol=1e-6)


def test_biases_are_computed_once_where_rows_run_one_by_one(monkeypatch) -> None:
    """A program compiled here for accelerators must be theirs: [batch heads query key] floats fill their memory."""
    positions = jnp.asarray(POSITIONS)
    bias = relative_bias(jnp.zeros((HEADS, 8)), positions, positions, bidirectional=True, max_distance=16)
    assert isinstance(materialize_bias(bias, "batched"), RelativeBias)
    assert isinstance(materialize_bias(bias, "one_by_one"), jax.Array)
    assert isinstance(materialize_bias(bias, "auto"), jax.Array), "the tests run on one CPU device"
    monkeypatch.setattr(mrt5_jax.kernels.xla, "_MATERIALIZED_BIASES", BATCH * HEADS * LONG * LONG - 1)
    assert isinstance(materialize_bias(bias, "auto"), RelativeBias), "memory has no room for them"


def test_rows_run_one_by_one_only_where_that_fills_a_lone_cpu(monkeypatch) -> None:
    assert choose_rows("auto", 6 * 1024 * 1024) == "one_by_one"
    assert choose_rows("auto", 6 * 64 * 64) == "batched"
    assert choose_rows("one_by_one", 6 * 64 * 64) == "one_by_one"
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert choose_rows("auto", 6 * 1024 * 1024) == "batched"
