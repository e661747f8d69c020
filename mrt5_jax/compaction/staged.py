"""A computation in three stages, of which the second runs at the length that its rows need.

    begin    up to the gate, for all rows                              full length    once
    body     what follows the gate, for one chunk of rows              a rung         once a chunk
    finish   what is left to do when all rows are in their order again                once

`Staged` names the stages. `in_graph` makes one program of them, in which `lax.switch` chooses each chunk's rung;
`on_host.OnHost` makes a program of each, between which the host chooses. Training, evaluation, scoring and generation
are such computations, and none of them knows who chooses.

A chunk's rung follows from a maximum over the rows of all devices, so that they take the same branch. The only
communication that deletion adds is this one integer per chunk. In training a body returns gradients instead of being
differentiated: reverse mode through `lax.switch` keeps the residuals of every branch.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, PyTree

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.rows import (
    Arrays,
    Chunked,
    chunk_rows,
    join_rows,
    restore_rows,
    sort_rows,
    split_rows,
    unsort_rows,
)
from mrt5_jax.config import RowsInParts


class Begun(NamedTuple):
    """What the first stage returns."""

    rows: Arrays
    """[batch ...]: what the body reads."""
    kept_counts: Int[Array, " batch"]
    """Slots that each row needs."""
    carry: Arrays
    """What `finish` reads."""


class Part(NamedTuple):
    """What some rows of a batch gave."""

    total: Arrays
    """To be added up over chunks, or over the parts of a batch."""
    rows: Arrays
    """[rows ...]"""


@dataclasses.dataclass(frozen=True)
class Shardings:
    """Where results of separately compiled programs lie: trees of shardings, or one for all leaves."""

    chunk_total: PyTree[NamedSharding]
    total: PyTree[NamedSharding]
    rows: NamedSharding


def _both_stages(params: Arrays) -> tuple[Arrays, Arrays]:
    return params, params


def _no_total(params: Arrays) -> tuple[()]:
    return ()


def _totals_of_finish(chunk_total: Arrays, total: Arrays) -> Arrays:
    return total


@dataclasses.dataclass(frozen=True)
class Staged:
    """The stages, and how a batch is cut for them.

    Called as (params, shared, inputs) -> Part by either composition.
    """

    begin: Callable[[Arrays, Arrays, Arrays], Begun]
    body: Callable[[int], Callable[[Arrays, Arrays, Arrays], Part]]
    """From a rung to the function that is compiled for it; results have the same shapes at every rung."""
    finish: Callable[[Arrays, Arrays, Int[Array, " batch"]], Part]
    """(what `begin` handed on, the body's rows in the batch's order, the rung of each) -> its own total and results"""
    ladder: Ladder
    split: Callable[[Arrays], tuple[Arrays, Arrays]] = _both_stages
    """Parameters -> those of the first stage, those of the second."""
    chunk_zeros: Callable[[Arrays], Arrays] = _no_total
    """Second stage's parameters -> zeros that the body's totals are added to."""
    zeros: Callable[[Arrays], Arrays] = _no_total
    """First stage's parameters -> zeros that totals of `finish` are added to."""
    combine: Callable[[Arrays, Arrays], Arrays] = _totals_of_finish
    """(total of the body, total of `finish`) -> total of the computation; linear"""
    num_parts: int = 1
    """Microbatches: a batch is computed in so many parts, one after another."""
    rows_in_parts: RowsInParts = "as_they_come"
    """sorted: by kept count over the whole batch, so that each part holds rows that are alike. What is kept is known
    only after the first stage, which therefore runs twice: keeping its results would take more memory than parts do.
    """
    num_chunks: int = 1
    """Each part's rows are sorted by kept count and cut into so many chunks, each with its own rung."""
    num_shards: int = 1
    """Devices that rows are spread over; each sorts its own rows, so that none leaves its device."""
    shardings: Shardings | None = None
    """Of what separately compiled programs return; None: the compiler's choice."""


def in_graph(
    staged: Staged,
) -> Callable[[Arrays, Arrays, Arrays], Part]:
    """Returns the whole computation as one function, to be jitted by the caller."""

    def run(params: Arrays, shared: Arrays, inputs: Arrays) -> Part:
        first, second = staged.split(params)
        order = None
        if staged.rows_in_parts == "sorted":
            inputs, order = sorted_inputs(staged, first, shared, inputs)

        def run_part(inputs: Arrays) -> Part:
            begun = staged.begin(first, shared, inputs)
            chunked = chunk_rows(begun.rows, begun.kept_counts, staged.num_chunks, staged.num_shards)
            chunks = _run_chunks(staged, second, shared, chunked)
            out, rungs = in_order(chunks.rows, staged.ladder.rung(chunked.fullest), chunked.order)
            own = staged.finish(begun.carry, out, rungs)
            return Part(staged.combine(chunks.total, own.total), own.rows)

        if staged.num_parts == 1:
            return run_part(inputs)

        def add_part(total: Arrays, part: Arrays) -> tuple[Arrays, Arrays]:
            own = run_part(part)
            return jax.tree.map(jnp.add, total, own.total), own.rows

        parts = split_rows(inputs, staged.num_parts, staged.num_shards)
        nothing = staged.combine(staged.chunk_zeros(second), staged.zeros(first))
        total, rows = jax.lax.scan(add_part, nothing, parts)
        rows = join_rows(rows, staged.num_shards)
        return Part(total, rows if order is None else unsort_rows(rows, order))

    return run


def sorted_inputs(
    staged: Staged, params: Arrays, shared: Arrays, inputs: Arrays
) -> tuple[Arrays, Int[Array, "shards local"]]:
    """Sorts a batch by what the first stage keeps of its rows, which it finds part by part; see `sort_rows`."""
    parts = split_rows(inputs, staged.num_parts, staged.num_shards)
    counts = jax.lax.map(lambda part: staged.begin(params, shared, part).kept_counts, parts)
    return sort_rows(inputs, join_rows(counts, staged.num_shards), staged.num_shards)


def _run_chunks(
    staged: Staged,
    params: Arrays,
    shared: Arrays,
    chunked: Chunked,
) -> Part:
    """Every chunk at the smallest rung that holds its rows, within one program; rows are [num_chunks rows ...]."""
    bodies = [staged.body(rung) for rung in staged.ladder.rungs]
    index = staged.ladder.rung_index(chunked.fullest)
    if staged.num_chunks == 1:
        part = jax.lax.switch(index[0], bodies, params, shared, jax.tree.map(lambda leaf: leaf[0], chunked.rows))
        return part._replace(rows=jax.tree.map(lambda leaf: leaf[None], part.rows))

    def run_chunk(total: Arrays, chunk: tuple[Arrays, Array]) -> tuple[Arrays, Arrays]:
        rows, at = chunk
        part = jax.lax.switch(at, bodies, params, shared, rows)
        return jax.tree.map(jnp.add, total, part.total), part.rows

    return Part(*jax.lax.scan(run_chunk, staged.chunk_zeros(params), (chunked.rows, index)))


def in_order(
    out: Arrays, rungs: Int[Array, " num_chunks"], order: Int[Array, "shards local"]
) -> tuple[Arrays, Int[Array, " batch"]]:
    """Returns the results of chunks in the batch's order again, and the rung of each row.

    Args:
        out: pytree of arrays [num_chunks rows ...].
        rungs: the static length that each chunk ran at.
        order: see `Chunked`.
    """
    num_chunks = rungs.shape[0]
    by_row = jnp.broadcast_to(rungs[:, None], (num_chunks, order.size // num_chunks))
    return restore_rows((out, by_row), order)


class InGraph:
    """A staged computation as one compiled program."""

    def __init__(self, staged: Staged) -> None:
        self._run = jax.jit(in_graph(staged))

    def start(self, params: Arrays, shared: Arrays, inputs: Arrays) -> Callable[[], Part]:
        """Sends a batch to the device; the function that is returned gives the results."""
        part = self._run(params, shared, inputs)
        return lambda: part
