"""Attention: masks that leave nothing, the two ways over a batch, and T5's relative positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrt5_jax.kernels.xla
from mrt5_jax.kernels.attention import Attended, attention, prepare_bias
from mrt5_jax.kernels.position_bias import distance_buckets, relative_bias
from mrt5_jax.kernels.xla import choose_rows

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
COUNTED = np.random.default_rng(6).random((BATCH, QUERIES)) < 0.8
EXAMPLES = np.sort(np.random.default_rng(7).integers(1, 4, (BATCH, SLOTS)), axis=1)
"""Of packed rows, the example of each key; a query belongs to that of the key at its index."""


def run(arrays: tuple, rows: Any, *, sink: bool, shared: bool, causal: bool, packed: bool) -> Attended:
    query, key, value, key_bias, position_bias = arrays
    return attention(
        query,
        key,
        value,
        query_positions=jnp.arange(QUERIES)[None],
        key_positions=jnp.arange(SLOTS)[None],
        bias_table=position_bias[:1] if shared else position_bias,
        key_bias=key_bias,
        key_mask=jnp.asarray(MASK),
        query_segments=jnp.asarray(EXAMPLES[:, :QUERIES]) if packed else None,
        key_segments=jnp.asarray(EXAMPLES) if packed else None,
        causal=causal,
        sink=sink,
        query_mask=jnp.asarray(COUNTED),
        excess=True,
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
        {"causal": True, "packed": False, "sink": False, "shared": False},
        {"causal": False, "packed": False, "sink": True, "shared": True},
        {"causal": True, "packed": True, "sink": True, "shared": False},
        {"causal": False, "packed": True, "sink": False, "shared": True},
    ],
    ids=lambda how: ", ".join(name for name, applies in how.items() if applies),
)
def both(request) -> tuple[tuple[Attended, Any], tuple[Attended, Any]]:
    """Values and gradients, batched and one by one."""
    batched, one_by_one = (values_and_gradients(rows, **request.param) for rows in ("batched", "one_by_one"))
    return batched, one_by_one


def test_batched_is_one_by_one(both) -> None:
    """Values, score excess and the gradients of all inputs, with a bias of each kind and masks."""
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


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("rows", ["batched", "one_by_one"])
def test_the_softmax_is_the_formula_also_for_huge_scores(rows: Any, sink: bool) -> None:
    """e^s / (1 + sum e^s) with a sink; a query of masked keys gets zeros, hidden scores of any size do not matter."""
    scores = normal(6, 4, 1, 6)
    mask = np.arange(6)[None] < np.array([6, 3, 1, 0])[:, None]

    def weights(scores: np.ndarray) -> np.ndarray:
        """With values that are the unit vectors, what is attended to is the weights; one head, one query a row."""
        units = jnp.broadcast_to(jnp.eye(6)[:, None], (4, 6, 1, 6))
        key = units.at[..., 0].set(jnp.asarray(np.moveaxis(scores, 1, 2), jnp.float32))
        query = units[:, :1]
        return attention(query, key, units, key_mask=jnp.asarray(mask), sink=sink, rows=rows).values[:, :, 0]

    shown = mask[:, None]
    powers = np.where(shown, np.exp(scores.astype(np.float64)), 0)
    total = powers.sum(-1, keepdims=True) + sink
    np.testing.assert_allclose(weights(np.where(shown, scores, 1e20)), powers / np.where(total == 0, 1, total), 1e-5)
    without_sink = powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(weights(np.where(shown, scores + 300, 0)), without_sink, rtol=1e-4)
    low = weights(scores - 300)
    np.testing.assert_allclose(low, np.zeros_like(low) if sink else without_sink, rtol=1e-4)


def test_without_excess_none_is_counted_and_nothing_else_changes() -> None:
    arrays = [jnp.asarray(array) for array in ARRAYS[:3]]
    masks = {"key_mask": jnp.asarray(MASK), "query_mask": jnp.asarray(COUNTED)}
    counted, uncounted = (attention(*arrays, **masks, excess=excess) for excess in (True, False))
    np.testing.assert_array_equal(counted.values, uncounted.values)
    assert counted.score_excess[0] > 0
    assert not uncounted.score_excess.any()


def test_causal_is_by_position_and_not_by_slot() -> None:
    """A query at position 5 sees the keys of positions 3 and 5, wherever they lie."""
    positions = {"query_positions": jnp.full((1, QUERIES), 5), "key_positions": jnp.asarray([[9, 3, 5, 6, 8]])}
    arrays = [jnp.asarray(array) for array in ARRAYS[:3]]
    causal = attention(*arrays, **positions, key_mask=jnp.ones((BATCH, SLOTS), bool), causal=True)
    seen = jnp.broadcast_to(jnp.asarray([False, True, True, False, False]), (BATCH, SLOTS))
    masked = attention(*arrays, key_mask=seen)
    np.testing.assert_array_equal(causal.values, masked.values)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 16)])
def test_every_distance_has_t5s_bucket(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    """To 3000 either way, against exact fractions; each head has its own biases."""
    embedding = jnp.arange(2.0 * num_buckets).reshape(2, num_buckets)
    distances = np.arange(-3000, 3001)
    sizes = {"bidirectional": bidirectional, "max_distance": max_distance}
    biases = relative_bias(embedding, jnp.full((1, 1), 3000), jnp.asarray(distances + 3000)[None], **sizes)
    expected = np.array([oracle.bucket(int(distance), num_buckets=num_buckets, **sizes) for distance in distances])
    np.testing.assert_array_equal(biases[0, 0, 0], expected)
    np.testing.assert_array_equal(biases[0, 1, 0], expected + num_buckets)
    assert set(distance_buckets(num_buckets=num_buckets, **sizes)) == set(expected)


def test_biases_follow_original_positions() -> None:
    """The biases of a compact sequence are the full sequence's, at the rows and columns that stayed."""
    embedding = jnp.asarray(normal(7, HEADS, 8))
    sizes = {"bidirectional": True, "max_distance": 16}
    everything = jnp.arange(12)[None]
    full = np.asarray(relative_bias(embedding, everything, everything, **sizes))
    kept = np.array([[0, 3, 4, 11], [1, 2, 9, 10]], np.int32)
    compact = relative_bias(embedding, jnp.asarray(kept), jnp.asarray(kept), **sizes)
    for row, positions in enumerate(kept):
        np.testing.assert_array_equal(compact[row], full[0][:, positions][:, :, positions])


LONG, NUM_BUCKETS = 12, 8
POSITIONS = np.sort(np.random.default_rng(8).integers(0, 40, (BATCH, LONG)), axis=1).astype(np.int32)
SEGMENTS = np.sort(np.random.default_rng(9).integers(1, 4, (BATCH, LONG)), axis=1).astype(np.int32)


def attend_to_itself(
    embedding: Any, heads: Any, *, ready: bool, rows: Any, shared: bool, segments: bool
) -> tuple[jax.Array, jax.Array]:
    positions = jnp.asarray(POSITIONS[:1] if shared else POSITIONS)
    own = jnp.asarray(SEGMENTS) if segments else None
    ready_bias = relative_bias(embedding, positions, positions, bidirectional=True, max_distance=16)
    attended = attention(
        *heads,
        query_positions=positions,
        key_positions=positions,
        bias_table=ready_bias if ready else embedding,
        max_distance=16,
        key_mask=jnp.ones((BATCH, LONG), bool),
        query_segments=own,
        key_segments=own,
        excess=True,
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
        return jnp.sum(weights * jnp.sin(bias))

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
        alone = attention(
            *(array[row, mine][None] for array in heads),
            query_positions=positions,
            key_positions=positions,
            bias_table=embedding,
            max_distance=16,
            key_mask=jnp.ones((1, mine.size), bool),
        )
        np.testing.assert_allclose(packed[row, mine], alone.values[0], rtol=1e-5, atol=1e-6)


def test_biases_are_computed_once_where_rows_run_one_by_one(monkeypatch) -> None:
    """A program compiled here for accelerators must be theirs: [batch heads query key] floats fill their memory."""
    positions = jnp.asarray(POSITIONS)
    table = jnp.asarray(normal(15, HEADS, NUM_BUCKETS))

    def prepared(rows: Any) -> jax.Array:
        return prepare_bias(table, positions, positions, max_distance=16, causal=True, rows=rows)

    whole = relative_bias(table, positions, positions, bidirectional=False, max_distance=16)
    np.testing.assert_array_equal(prepared("batched"), table)
    np.testing.assert_array_equal(prepared("one_by_one"), whole)
    np.testing.assert_array_equal(prepared("auto"), whole, "the tests run on one CPU device")
    monkeypatch.setattr(mrt5_jax.kernels.xla, "_MATERIALIZED_BIASES", BATCH * HEADS * LONG * LONG - 1)
    np.testing.assert_array_equal(prepared("auto"), table, "memory has no room for them")


def test_rows_run_one_by_one_only_where_that_fills_a_lone_cpu(monkeypatch) -> None:
    assert choose_rows("auto", 6 * 1024 * 1024) == "one_by_one"
    assert choose_rows("auto", 6 * 64 * 64) == "batched"
    assert choose_rows("one_by_one", 6 * 64 * 64) == "one_by_one"
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert choose_rows("auto", 6 * 1024 * 1024) == "batched"
