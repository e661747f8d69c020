"""Chunks hold every row once, by rising kept count, and the batch's order comes back."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan, rescued_rows
from mrt5_jax.compaction.rows import chunk_rows, join_rows, restore_rows, split_rows
from mrt5_jax.compaction.staged import Begun, InGraph, Part, Staged, in_graph
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
    np.testing.assert_array_equal(chunked.fullest, counts[expected].max(axis=1))


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
    num_parts: int = 1
    rows_in_parts: Literal["as_they_come", "sorted"] = "as_they_come"


_SHAPES = (
    Shape(1, 1, (1,), 1),
    Shape(6, 8, (8,), 1),
    Shape(6, 8, (2, 5, 8), 3),
    Shape(4, 21, (7, 14, 21), 2, 2),
    Shape(4, 21, (1, 2, 21), 4),
    Shape(12, 8, (2, 5, 8), 2, 3, "sorted"),
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
        return Part(jnp.sum(losses), (losses, *pull_back(jnp.ones_like(losses))))

    return run


def _staged(shape):
    """`_at_rung` of the survivors of each row; whoever is rescued is carried past the body."""

    def begin(params, shared, rows):
        values, keep, scores, input_mask = rows
        kept = never_empty(keep, scores, input_mask)
        return Begun((values, kept), count_kept(kept), rescued_rows(keep, kept))

    return Staged(
        begin,
        lambda rung: lambda scale, shared, rows: _at_rung(rung)(scale, rows),
        lambda rescued, out, rungs: Part(jnp.sum(rungs, dtype=jnp.float32), (*out, rungs, rescued)),
        Ladder(shape.rungs),
        chunk_zeros=lambda scale: jnp.float32(0),
        zeros=lambda scale: jnp.float32(0),
        combine=lambda losses, rungs: {"losses": losses, "rungs": rungs},
        num_parts=shape.num_parts,
        num_chunks=shape.num_chunks,
        rows_in_parts=shape.rows_in_parts,
    )


def _call(composition):
    return lambda *arguments: composition.start(*arguments)()


_in_graph = {shape: jax.jit(in_graph(_staged(shape))) for shape in _SHAPES}
_on_host = {shape: _call(OnHost(_staged(shape))) for shape in _SHAPES}


_cases = st.sampled_from(_SHAPES).flatmap(
    lambda shape: st.tuples(st.just(shape), contents(((shape.batch, shape.length),)))
)


@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking(case):
    for compositions in (_in_graph, _on_host):
        _check_against_masking(compositions, *case)


@pytest.mark.slow
@settings(max_examples=2000)
@given(_cases)
def test_chunks_at_their_own_rungs_equal_masking_in_2000_cases(case):
    for compositions in (_in_graph, _on_host):
        _check_against_masking(compositions, *case)


def _check_against_masking(compositions, shape, batch):
    """Loss and gradient through rescue, parts, chunks, rungs, plan and gather, against a NumPy oracle that masks."""
    values = np.random.default_rng(0).normal(size=batch.keep.shape).astype(np.float32)
    total, (losses, gradient, rungs, rescued) = compositions[shape](jnp.float32(2), (), (values, *batch))
    keep, expected_rescued = oracle.never_empty(*batch)
    factor = 1 + np.arange(shape.length)[None]
    expected = 2 * np.sum(keep * np.sin(values * factor), axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(total["losses"], expected.sum(), rtol=1e-4, atol=1e-4)
    assert total["rungs"] == rungs.sum()
    np.testing.assert_allclose(gradient, 2 * keep * factor * np.cos(values * factor), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rescued, expected_rescued)
    counts = keep.sum(axis=1)
    order = np.argsort(counts, kind="stable") if shape.rows_in_parts == "sorted" else np.arange(shape.batch)
    for part in order.reshape(shape.num_parts, -1):
        for rows in part[np.argsort(counts[part], kind="stable")].reshape(shape.num_chunks, -1):
            np.testing.assert_array_equal(rungs[rows], shape.rungs[oracle.rung_index(shape.rungs, counts[rows].max())])


def test_nothing_compiles_after_programs_were_compiled_ahead() -> None:
    """Every rung runs, and the results are those of one program."""
    shape, rng = _SHAPES[2], np.random.default_rng(0)
    staged = OnHost(_staged(shape))
    batches = [
        (rng.normal(size=(6, 8)).astype(np.float32), rng.random((6, 8)) < share, np.zeros((6, 8), np.float32), _ALL)
        for share in (0.1, 0.5, 0.9)
    ]
    scale = jnp.float32(2)
    programs, _ = staged.compile(
        *jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (scale, (), batches[0]))
    )
    assert programs.bodies.keys() == set(shape.rungs)
    ran = set()
    for batch in batches:
        ours, theirs = staged.start(scale, (), batch)(), _in_graph[shape](scale, (), batch)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), ours, theirs)
        ran |= set(np.asarray(ours.rows[2]).tolist())
    assert ran == set(shape.rungs)
    with pytest.raises(TypeError, match="compiled"):
        staged.start(scale, (), jax.tree.map(lambda leaf: leaf[:3], batches[0]))


def test_the_next_batch_may_start_before_the_results_of_this_one_are_asked_for() -> None:
    shape, rng = _SHAPES[1], np.random.default_rng(1)
    one, other = ((rng.normal(size=(6, 8)).astype(np.float32), _ALL, np.zeros((6, 8), np.float32), _ALL) for _ in "ab")
    scale = jnp.float32(1)
    for composition in (OnHost(_staged(shape)), InGraph(_staged(shape))):
        waiting = [composition.start(scale, (), batch) for batch in (one, other)]
        for complete, batch in zip(waiting, (one, other), strict=True):
            np.testing.assert_allclose(
                complete().total["losses"], _in_graph[shape](scale, (), batch).total["losses"], rtol=1e-6
            )


_ALL = np.ones((6, 8), bool)


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
