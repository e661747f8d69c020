"""Compaction against a NumPy oracle, and the properties that everything after it relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan, rescued_rows, restrict, scatter_back
from mrt5_jax.errors import UserError

from . import oracle
from .contents import contents

_plan = jax.jit(plan, static_argnums=1)
_restrict = jax.jit(restrict, static_argnums=2)
_gather = jax.jit(gather)
_scatter_back = jax.jit(scatter_back, static_argnums=2)


@jax.jit
def _never_empty(keep, scores, input_mask, segments=None):
    """What is kept, and which rows are rescued."""
    kept = never_empty(keep, scores, input_mask, segments)
    return kept, rescued_rows(keep, kept)


def _lengths(length):
    """The numbers of slots tried for a sequence length."""
    return sorted({1, (length + 1) // 2, length})


def _fitting(batch, num_slots):
    """A keep mask that fits: only the first kept positions stay."""
    return batch.keep & (np.cumsum(batch.keep, axis=1) <= num_slots)


@given(contents(), st.data())
def test_plan_equals_the_oracle(batch, data):
    num_slots = data.draw(st.sampled_from(_lengths(batch.keep.shape[1])))
    keep = _fitting(batch, num_slots)
    result = _plan(keep, num_slots)
    positions, mask = oracle.plan(keep, num_slots)
    np.testing.assert_array_equal(result.positions, positions)
    np.testing.assert_array_equal(result.mask, mask)
    assert result.positions.dtype == jnp.int32


@given(contents())
def test_kept_positions_are_original_in_order_and_filler_is_masked(batch):
    length = batch.keep.shape[1]
    result = _plan(batch.keep, length)
    np.testing.assert_array_equal(np.sum(result.mask, axis=1), batch.keep.sum(axis=1))
    for positions, mask, keep in zip(*map(np.asarray, result), batch.keep, strict=True):
        assert (np.diff(mask.astype(int)) <= 0).all(), "real slots come first"
        np.testing.assert_array_equal(positions[mask], np.flatnonzero(keep))
        assert ((positions >= 0) & (positions < length)).all(), "filler may be gathered"


@given(contents(shapes=((4, 21),)))
def test_rows_are_independent(batch):
    """A row's plan, rescue and drops are the same alone as among others."""
    everyone = restrict_and_plan(batch.keep, batch.scores, batch.input_mask)
    for row in range(len(batch.keep)):
        alone = restrict_and_plan(*(values[row : row + 1] for values in batch))
        jax.tree.map(lambda one, all_, row=row: np.testing.assert_array_equal(one[0], all_[row]), alone, everyone)


@jax.jit
def restrict_and_plan(keep, scores, input_mask):
    not_empty, rescued = _never_empty(keep, scores, input_mask)
    kept = restrict(not_empty, scores, 5)
    return rescued, kept, plan(kept, 5)


@given(contents(), st.data())
def test_overflow_drops_exactly_the_lowest_scores(batch, data):
    capacity = data.draw(st.sampled_from(_lengths(batch.keep.shape[1])))
    result = _restrict(batch.keep, batch.scores, capacity)
    keep, dropped = oracle.restrict(batch.keep, batch.scores, capacity)
    np.testing.assert_array_equal(result, keep)
    np.testing.assert_array_equal(np.sum(batch.keep & ~result, axis=1), dropped)


def random_segments(shape, seed):
    """Numbers from 1, rising along each row."""
    begins = np.random.default_rng(seed).random(shape) < 0.3
    segments = 1 + np.cumsum(begins[:, 1:], axis=1, dtype=np.int32)
    return np.pad(segments, ((0, 0), (1, 0)), constant_values=1)


@given(contents(), st.data(), st.integers(0, 99))
def test_overflow_leaves_every_segment_its_best(batch, data, seed):
    """As far as there are slots; where there are not, the best of the best stay."""
    capacity = data.draw(st.sampled_from(_lengths(batch.keep.shape[1])))
    segments = random_segments(batch.keep.shape, seed)
    result = _restrict(batch.keep, batch.scores, capacity, segments)
    keep, dropped = oracle.restrict(batch.keep, batch.scores, capacity, segments)
    np.testing.assert_array_equal(result, keep)
    np.testing.assert_array_equal(np.sum(batch.keep & ~result, axis=1), dropped)
    for row, numbers in enumerate(segments):
        before, after = (set(numbers[kept[row]]) for kept in (batch.keep, np.asarray(result)))
        assert len(after) == min(len(before), capacity)


def test_a_capacity_leaves_an_example_of_low_scores_its_best():
    """NaN and -inf are scores like any: the lowest."""
    scores = np.array([[-1, -1, -1, -1, -9, -9, -9, -9], [0, 0, 0, 0, -np.inf, np.nan, 0, 0]], np.float32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 3, 4, 4]], np.int32)
    kept = restrict(jnp.ones((2, 8), bool), jnp.asarray(scores), 4, jnp.asarray(segments))
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1, 1, 0]])


@given(contents())
def test_rows_with_input_are_never_empty(batch):
    kept, were_rescued = _never_empty(batch.keep, batch.scores, batch.input_mask)
    keep, rescued = oracle.never_empty(batch.keep, batch.scores, batch.input_mask)
    np.testing.assert_array_equal(kept, keep)
    np.testing.assert_array_equal(were_rescued, rescued)
    np.testing.assert_array_equal(np.any(kept, axis=1), batch.input_mask.any(axis=1))


@given(contents(), st.integers(0, 99))
def test_segments_with_input_are_never_empty(batch, seed):
    """As if each were a row of its own; a row counts as rescued where one of its segments is."""
    segments = random_segments(batch.keep.shape, seed)
    kept, were_rescued = _never_empty(batch.keep, batch.scores, batch.input_mask, segments)
    keep, rescued = np.zeros_like(batch.keep), np.zeros(len(batch.keep), bool)
    for number in range(1, segments.max() + 1):
        here = segments == number
        alone = oracle.never_empty(batch.keep & here, batch.scores, batch.input_mask & here)
        keep, rescued = keep | alone[0], rescued | alone[1]
    np.testing.assert_array_equal(kept, keep)
    np.testing.assert_array_equal(were_rescued, rescued)


def test_pads_are_never_kept():
    keep = jnp.ones((2, 3), bool)
    mask = jnp.array([[True, False, False], [False, False, False]])
    np.testing.assert_array_equal(never_empty(keep, jnp.zeros((2, 3)), mask), mask)


@pytest.mark.parametrize("rest", [(), (2,), (2, 3)])
def test_gather_and_scatter_back(rest):
    """Out and back gives the kept values and zeros elsewhere."""
    rng = np.random.default_rng(0)
    keep = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    values = rng.normal(size=(3, 5, *rest)).astype(np.float32)
    planned = _plan(keep, 4)
    compact = _gather(values, planned.positions)
    for row in range(3):
        np.testing.assert_array_equal(np.asarray(compact)[row][np.asarray(planned.mask)[row]], values[row][keep[row]])
    expected = values * keep.reshape(keep.shape + (1,) * len(rest))
    np.testing.assert_array_equal(_scatter_back(compact, planned, 5), expected)


@given(contents(shapes=((3, 8),)))
def test_scatter_back_is_the_transpose_of_gather(batch):
    """<gather(x), y> = <x, scatter_back(y)> over real slots."""
    rng = np.random.default_rng(1)
    planned = _plan(batch.keep, 8)
    x, y = rng.integers(-9, 9, (2, 3, 8, 2)).astype(np.float32)
    left = np.sum(np.asarray(_gather(x, planned.positions)) * y * np.asarray(planned.mask)[..., None])
    assert left == np.sum(x * np.asarray(_scatter_back(y, planned, 8)))


@jax.jit
def _compacted_gradient(values, weights, keep):
    def loss(values):
        planned = plan(keep, 8)
        real = planned.mask[..., None]
        outputs = jnp.where(real, jnp.tanh(gather(values, planned.positions)) * gather(weights, planned.positions), 0)
        return jnp.sum(outputs**2)

    return jax.grad(loss)(values)


@jax.jit
def _masked_gradient(values, weights, keep):
    return jax.grad(lambda values: jnp.sum(jnp.where(keep[..., None], jnp.tanh(values) * weights, 0) ** 2))(values)


@given(contents(shapes=((3, 8),)))
def test_gradients_through_gather_equal_maskings(batch):
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=(2, 3, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(
        _compacted_gradient(values, weights, batch.keep), _masked_gradient(values, weights, batch.keep), rtol=1e-6
    )


def test_count_kept():
    np.testing.assert_array_equal(count_kept(jnp.array([[True, False, True], [False] * 3])), [2, 0])


@pytest.mark.parametrize("num_slots", [0, 4])
def test_a_number_of_slots_outside_the_sequence_is_refused(num_slots):
    with pytest.raises(UserError, match=f"{num_slots} slots: .* 1 to 3"):
        plan(jnp.ones((1, 3), bool), num_slots)


def test_an_empty_capacity_is_refused():
    with pytest.raises(UserError, match="capacity 0"):
        restrict(jnp.ones((1, 3), bool), jnp.zeros((1, 3)), 0)
