"""Rows of several batches regrouped: each gets its own results, and the mean length is near the mean kept."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.rows import chunk_rows
from mrt5_jax.compaction.staged import Begun, Part, Staged
from mrt5_jax.compaction.windows import Windows, by_shape
from mrt5_jax.config import Dispatch, ExecutionConfig
from mrt5_jax.parallel.memory import USUAL_WINDOW

from .compilations import compilations

RUNGS, LENGTH, BATCH = (2, 3, 5, 8), 8, 4


def weighted_sums(num_chunks: int = 1, num_shards: int = 1, rungs: tuple[int, ...] = RUNGS) -> Staged:
    """Of each row's numbers that are not 0, which stand first: at a rung below their count some would be missing.

    Its own key, where it lies in its batch and the rung it ran at come back beside.
    """

    def begin(params: Any, shared: Any, batch: Any) -> Begun:
        return Begun(batch, count_kept(batch["numbers"] != 0), jnp.arange(batch["numbers"].shape[0]))

    def body(rung: int) -> Any:
        def run(params: Any, shared: Any, rows: Any) -> Part:
            sums = jnp.sum(rows["numbers"][:, :rung] * jnp.arange(1, rung + 1)[None], axis=1)
            return Part((), (params * sums, jax.random.key_data(rows["keys"])))

        return run

    def finish(places: Any, out: Any, rungs: Any) -> Part:
        return Part((), (*out, rungs, places))

    return Staged(begin, body, finish, Ladder(rungs, LENGTH), num_chunks=num_chunks, num_shards=num_shards)


def batch_of(counts: np.ndarray, seed: int = 0) -> dict[str, Any]:
    numbers = np.random.default_rng(seed).integers(1, 9, (len(counts), LENGTH))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.arange(len(counts)))
    return {"numbers": jnp.where(np.arange(LENGTH)[None] < counts[:, None], numbers, 0), "keys": keys}


CASES: list[tuple[Dispatch, tuple[int, int]]] = [("host", (1, 1)), ("in_graph", (1, 2)), ("host", (2, 2))]
"""Who chooses the rung, and (chunks, shards) of a batch."""
WINDOWS = {(dispatch, cut): Windows(weighted_sums(*cut), dispatch) for dispatch, cut in CASES}


@settings(max_examples=25)
@given(
    st.sampled_from(list(WINDOWS)),
    st.lists(st.lists(st.integers(0, LENGTH), min_size=BATCH, max_size=BATCH), min_size=1, max_size=3),
)
def test_every_row_has_its_own_results_in_its_own_place(case: Any, counts: list[list[int]]) -> None:
    """At the rung that the fullest of its chunk needs: sorted over all batches, on each shard its own."""
    _, (num_chunks, num_shards) = case
    batches = [batch_of(np.array(kept), seed) for seed, kept in enumerate(counts)]
    found = jax.device_get(list(WINDOWS[case].run(jnp.float32(2), (), batches, size=3)))
    by_shard = np.array(counts).reshape(len(counts), num_shards, -1).swapaxes(0, 1).reshape(num_shards, -1)
    order = np.argsort(by_shard, axis=1, kind="stable")
    chunks = np.take_along_axis(by_shard, order, 1).reshape(num_shards, len(counts) * num_chunks, -1)
    fullest = chunks.max(axis=(0, 2))
    rungs = np.broadcast_to(
        [next(rung for rung in RUNGS if rung >= most) for most in fullest], (num_shards, fullest.size)
    )
    by_row = np.empty_like(order)
    np.put_along_axis(by_row, order, np.repeat(rungs, chunks.shape[2], axis=1), 1)
    expected_rungs = by_row.reshape(num_shards, len(counts), -1).swapaxes(0, 1).reshape(len(counts), BATCH)
    assert len(found) == len(batches)
    for batch, (sums, keys, rungs_found, places), rungs_wanted in zip(batches, found, expected_rungs, strict=True):
        np.testing.assert_allclose(sums, 2 * (np.asarray(batch["numbers"]) * np.arange(1, LENGTH + 1)).sum(axis=1))
        np.testing.assert_array_equal(keys, jax.random.key_data(batch["keys"]))
        np.testing.assert_array_equal(places, np.arange(BATCH))
        np.testing.assert_array_equal(rungs_found, rungs_wanted)


@pytest.mark.parametrize(("dispatch", "bodies"), [("host", len(RUNGS)), ("in_graph", 1)])
def test_programs_are_those_of_a_batch_and_six_small_ones(dispatch: Dispatch, bodies: int) -> None:
    """As docs/compiling.md says; a body when its rung first comes. Fewer batches, and then others, add none."""
    windows, scale = Windows(weighted_sums(), dispatch), jnp.float32(2)
    every_rung = [batch_of(np.full(BATCH, rung), rung) for rung in RUNGS]
    size = len(RUNGS) + bodies  # the small programs, which all windows share, are then new to each dispatch
    with compilations() as programs:
        jax.block_until_ready(list(windows.run(scale, (), every_rung, size)))
    # begin, finish and bodies; sorting; of rows and of results, room for them and placing them; taking a chunk
    assert len(programs) == 2 + bodies + 6
    with compilations() as later:
        for number in range(1, len(RUNGS)):
            jax.block_until_ready(list(windows.run(scale, (), every_rung[-number:], size)))
    assert later == []


def test_the_host_runs_no_chunk_of_filler() -> None:
    """One batch in a window of three: one body."""
    ran: list[Any] = []
    windows = Windows(weighted_sums(), "host")
    windows.compile(jnp.float32(2), (), batch_of(np.full(BATCH, 5)), size=3)
    bodies: Any = windows._at_rung
    windows._at_rung = {rung: lambda *rows, body=body: ran.append(0) or body(*rows) for rung, body in bodies.items()}
    list(windows.run(jnp.float32(2), (), [batch_of(np.full(BATCH, 5))], size=3))
    assert len(ran) == 1


def test_batches_of_other_shapes_are_run_apart() -> None:
    """Each group once, the results in the order of the batches."""
    groups: list[list[int]] = []

    def run(alike: Any) -> Any:
        groups.append([int(batch[0, 0]) for batch in alike])
        return groups[-1]

    batches = [np.full((2, length), number) for number, length in enumerate((3, 4, 3, 5, 4, 3))]
    assert by_shape(batches, run) == list(range(6))
    assert groups == [[0, 2, 5], [1, 4], [3]]


_chunk_rows = jax.jit(chunk_rows, static_argnums=2)


def mean_slots(kept: np.ndarray, length: int, window: int, rows: int) -> tuple[float, float]:
    """Mean slots by the default ladder in windows of so many batches, the last one shorter; and the mean kept."""
    ladder = make_ladder(length, ExecutionConfig(), "cpu")
    kept = kept[: len(kept) // rows * rows].astype(np.int32)
    slots = 0
    for start in range(0, len(kept), window * rows):
        own = kept[start : start + window * rows]
        fullest = _chunk_rows((), jnp.asarray(own), len(own) // rows).fullest
        slots += rows * int(ladder.rung(fullest).sum())
    return slots / len(kept), float(kept.mean())


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_mean_slots_are_near_the_mean_kept(seed: int) -> None:
    """Five languages whose rows keep from a fifth to all of their 64 bytes, in batches of 32: at most 8 above it."""
    rng = np.random.default_rng(seed)
    means = np.array([0.34, 0.47, 0.55, 0.66, 0.78])[rng.integers(0, 5, 31 * 32)]
    kept = np.clip(np.round(64 * rng.normal(means, 0.07)), 1, 64)
    slots, mean = mean_slots(kept, 64, USUAL_WINDOW, 32)
    assert mean < slots <= mean + 8
    alone, _ = mean_slots(kept, 64, 1, 32)
    assert alone > slots + 8


def test_mean_slots_are_near_the_mean_kept_of_a_trained_model(shared: Path) -> None:
    """1,000 validation rows of five languages."""
    lines = (shared / "cases/kept_lengths.tsv").read_text(encoding="utf-8").splitlines()
    kept = np.array([int(line.split("\t")[2]) for line in lines if line[0] != "#" and not line.startswith("script")])
    slots, mean = mean_slots(kept, 64, USUAL_WINDOW, 32)
    assert mean < slots <= mean + 8
