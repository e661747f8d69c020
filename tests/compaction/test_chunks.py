"""Chunks hold every row once, by rising kept count, and the batch's order comes back."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.compaction.chunks import chunk_rows, restore_rows, take_chunks
from mrt5_jax.compaction.dispatch import switch_rung
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan
from mrt5_jax.errors import UserError

from . import oracle
from .contents import contents

_chunk_rows = jax.jit(chunk_rows, static_argnums=1)
_take_chunks = jax.jit(take_chunks)
_restore_rows = jax.jit(restore_rows)

_counts = st.lists(st.integers(0, 9), min_size=6, max_size=6).map(lambda counts: np.array(counts, np.int32))


@given(_counts, st.sampled_from([1, 2, 3, 6]))
def test_rows_are_sorted_stably_into_equal_chunks(counts, num_chunks):
    order = _chunk_rows(counts, num_chunks)
    assert order.shape == (num_chunks, 6 // num_chunks)
    expected = sorted(range(6), key=lambda row: (counts[row], row))
    np.testing.assert_array_equal(np.ravel(order), expected)


@given(_counts, st.sampled_from([1, 2, 3, 6]))
def test_restoring_undoes_chunking(counts, num_chunks):
    order = _chunk_rows(counts, num_chunks)
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    chunked = _take_chunks(values, order)
    np.testing.assert_array_equal(chunked, values[np.asarray(order)])
    np.testing.assert_array_equal(_restore_rows(chunked, order), values)


class Shape(NamedTuple):
    """What a program is compiled for."""

    batch: int
    length: int
    rungs: tuple[int, ...]
    num_chunks: int


_SHAPES = (
    Shape(1, 1, (1,), 1),
    Shape(6, 8, (8,), 1),
    Shape(6, 8, (2, 5, 8), 3),
    Shape(4, 21, (7, 14, 21), 2),
    Shape(4, 21, (1, 2, 21), 4),
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chunked_loss_and_gradient(rungs, num_chunks, values, keep, scores, input_mask):
    """The whole way of compaction, each chunk at its own rung; a loss over each row's kept positions."""

    def branch(rung):
        def run(values, keep):
            planned = plan(keep, rung)

            def loss(values):
                compact = gather(values, planned.positions) * (1 + planned.positions)
                return jnp.sum(jnp.where(planned.mask, jnp.sin(compact), 0), axis=1)

            losses, pull_back = jax.vjp(loss, values)
            return losses, *pull_back(jnp.ones_like(losses))

        return run

    def run_chunk(chunk):
        return switch_rung(Ladder(rungs), count_kept(chunk[1]), branch, *chunk)

    kept = never_empty(keep, scores, input_mask)
    order = chunk_rows(count_kept(kept.keep), num_chunks)
    switched = jax.lax.map(run_chunk, (take_chunks(values, order), take_chunks(kept.keep, order)))
    return *(restore_rows(result, order) for result in switched.result), switched.rung


_cases = st.sampled_from(_SHAPES).flatmap(
    lambda shape: st.tuples(st.just(shape), contents(((shape.batch, shape.length),)))
)


@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking(case):
    _check_against_masking(*case)


@pytest.mark.slow
@settings(max_examples=2000)
@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking_in_2000_cases(case):
    _check_against_masking(*case)


def _check_against_masking(shape, batch):
    """Loss and gradient through rescue, chunks, rungs, plan and gather, against a NumPy oracle that only masks."""
    values = np.random.default_rng(0).normal(size=batch.keep.shape).astype(np.float32)
    losses, gradient, rungs = _chunked_loss_and_gradient(shape.rungs, shape.num_chunks, values, *batch)
    keep, _ = oracle.never_empty(*batch)
    factor = 1 + np.arange(shape.length)[None]
    np.testing.assert_allclose(losses, np.sum(keep * np.sin(values * factor), axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, keep * factor * np.cos(values * factor), rtol=1e-4, atol=1e-4)
    fullest = np.sort(keep.sum(axis=1)).reshape(shape.num_chunks, -1)[:, -1]
    np.testing.assert_array_equal(rungs, [shape.rungs[oracle.rung_index(shape.rungs, count)] for count in fullest])


@pytest.mark.parametrize("num_chunks", [0, 4, 12])
def test_chunks_that_do_not_divide_the_rows_are_refused(num_chunks):
    with pytest.raises(UserError, match=f"{num_chunks} suffix chunks: .* divisor of the 6 rows"):
        chunk_rows(jnp.zeros(6, jnp.int32), num_chunks)
