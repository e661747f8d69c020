"""Chunks hold every row once, by rising kept count, and the batch's order comes back."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.compaction.dispatch import ChunkResult, program, run_in_graph, run_on_host
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan
from mrt5_jax.compaction.rows import chunk_rows, join_rows, restore_rows, split_rows
from mrt5_jax.errors import UserError

from . import oracle
from .contents import contents

_counts = st.lists(st.integers(0, 9), min_size=12, max_size=12).map(lambda counts: np.array(counts, np.int32))
_CUTS = [(1, 1), (2, 1), (3, 2), (2, 3), (6, 2), (1, 4)]
"""(chunks, shards) of 12 rows."""

_chunk_rows = jax.jit(chunk_rows, static_argnums=(2, 3))
_restore_rows = jax.jit(restore_rows)


@given(_counts, st.sampled_from(_CUTS[1:5]))
def test_every_shard_s_rows_are_sorted_stably_into_equal_chunks(counts, cut):
    num_chunks, num_shards = cut
    chunked = _chunk_rows(np.arange(12), counts, num_chunks, num_shards)
    shards = np.arange(12).reshape(num_shards, -1)
    ordered = np.array([sorted(rows, key=lambda row: (counts[row], row)) for rows in shards])
    expected = np.concatenate(ordered.reshape(num_shards, num_chunks, -1), axis=1)
    np.testing.assert_array_equal(chunked.rows, expected)
    np.testing.assert_array_equal(chunked.most, counts[expected].max(axis=1))


@given(_counts, st.sampled_from(_CUTS))
def test_restoring_undoes_chunking(counts, cut):
    values = {"wide": np.arange(24, dtype=np.float32).reshape(12, 2), "narrow": np.arange(12)}
    chunked = _chunk_rows(values, counts, *cut)
    jax.tree.map(np.testing.assert_array_equal, _restore_rows(chunked.rows, chunked.order), values)


def test_one_chunk_moves_nothing():
    counts = np.array([5, 1, 3, 2, 8, 0], np.int32)
    np.testing.assert_array_equal(_chunk_rows(counts, counts, 1, 2).rows, counts[None])


@pytest.mark.parametrize(("num_parts", "num_shards"), [(1, 1), (4, 1), (2, 3), (3, 4)])
def test_parts_have_as_many_rows_of_every_shard(num_parts, num_shards):
    rows = jnp.arange(12)
    parts = split_rows(rows, num_parts, num_shards)
    for part in np.asarray(parts):
        np.testing.assert_array_equal(np.bincount(part // (12 // num_shards)), 12 // num_parts // num_shards)
    np.testing.assert_array_equal(join_rows(parts, num_shards), rows)


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


def _at_rung(rung):
    """Loss of each row's kept positions, and its gradient; the chunks' losses are added up beside."""

    def run(scale, rows):
        values, keep = rows
        planned = plan(keep, rung)

        def loss(values):
            compact = gather(values, planned.positions) * (1 + planned.positions)
            return scale * jnp.sum(jnp.where(planned.mask, jnp.sin(compact), 0), axis=1)

        losses, pull_back = jax.vjp(loss, values)
        return ChunkResult(jnp.sum(losses), (losses, *pull_back(jnp.ones_like(losses))))

    return run


@functools.partial(jax.jit, static_argnums=0)
def _begin(num_chunks, values, keep, scores, input_mask):
    kept = never_empty(keep, scores, input_mask)
    return chunk_rows((values, kept.keep), count_kept(kept.keep), num_chunks)


@jax.jit
def _finish(ran, order):
    (losses, gradient), rungs = restore_rows(ran.by_row(), order)
    return ran.total, losses, gradient, rungs


@functools.partial(jax.jit, static_argnums=(0, 1))
def _in_graph(rungs, num_chunks, *batch):
    chunked = _begin(num_chunks, *batch)
    ran = run_in_graph(Ladder(rungs), _at_rung, jnp.float32(2), chunked.rows, chunked.most)
    return _finish(ran, chunked.order)


_PROGRAMS = {rung: jax.jit(program(_at_rung, rung)) for rung in (1, 2, 5, 7, 8, 14, 21)}


def _on_host(rungs, num_chunks, *batch):
    chunked = _begin(num_chunks, *batch)
    ran = run_on_host(_PROGRAMS, Ladder(rungs), jnp.float32(0), jnp.float32(2), chunked.rows, chunked.most)
    return _finish(ran, chunked.order)


_cases = st.sampled_from(_SHAPES).flatmap(
    lambda shape: st.tuples(st.just(shape), contents(((shape.batch, shape.length),)))
)


@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking(case):
    for run in (_in_graph, _on_host):
        _check_against_masking(run, *case)


@pytest.mark.slow
@settings(max_examples=2000)
@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking_in_2000_cases(case):
    for run in (_in_graph, _on_host):
        _check_against_masking(run, *case)


def _check_against_masking(run, shape, batch):
    """Loss and gradient through rescue, chunks, rungs, plan and gather, against a NumPy oracle that only masks."""
    values = np.random.default_rng(0).normal(size=batch.keep.shape).astype(np.float32)
    total, losses, gradient, rungs = run(shape.rungs, shape.num_chunks, values, *batch)
    keep, _ = oracle.never_empty(*batch)
    factor = 1 + np.arange(shape.length)[None]
    expected = 2 * np.sum(keep * np.sin(values * factor), axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, 2 * keep * factor * np.cos(values * factor), rtol=1e-4, atol=1e-4)
    order = np.argsort(keep.sum(axis=1), kind="stable").reshape(shape.num_chunks, -1)
    for rows in order:
        fullest = keep.sum(axis=1)[rows].max()
        np.testing.assert_array_equal(rungs[rows], shape.rungs[oracle.rung_index(shape.rungs, fullest)])


@pytest.mark.parametrize("num_chunks", [0, 4, 12])
def test_chunks_that_do_not_divide_the_rows_are_refused(num_chunks):
    with pytest.raises(UserError, match=f"{num_chunks} parts .* divisor of the 6 rows"):
        chunk_rows(jnp.zeros(6), jnp.zeros(6, jnp.int32), num_chunks)


def test_arrays_without_elements_are_cut_and_joined_too() -> None:
    """A model without a gate has dropout of no layers behind it."""
    rows = {"numbers": jnp.arange(16).reshape(8, 2), "nothing": jnp.zeros((8, 0, 3))}
    parts = split_rows(rows, 2, 2)
    assert parts["nothing"].shape == (2, 4, 0, 3)
    joined = join_rows(parts, 2)
    assert joined["nothing"].shape == (8, 0, 3)
    np.testing.assert_array_equal(joined["numbers"], rows["numbers"])
