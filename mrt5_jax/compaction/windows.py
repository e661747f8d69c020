"""A staged computation over several batches together: a window, whose rows are regrouped between stage 1 and the body.

    begin     batch by batch; the rows at the gate of the whole window are kept
    sort      these rows by kept count, each device its own, and cut them into as many full batches
    body      each of these at the smallest rung that holds its fullest row
    finish    batch by batch, every row's results where the row came from

A batch alone runs at the length of its fullest row, a window at little more than its mean. Its rows at the gate lie on
the devices all at once: that is what it costs. The large programs are those of a batch, however many are regrouped;
the small ones between them are compiled for a number of batches, `size`, and take fewer as well.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled, Wrapped
from jaxtyping import Array, Int

from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.rows import Arrays, chunk_rows, join_rows, split_rows, take_rows
from mrt5_jax.compaction.staged import InGraph, Part, Staged, in_order
from mrt5_jax.config import Dispatch

OfBatch = TypeVar("OfBatch")


class Sorted(NamedTuple):
    """Where the rows of a window go. The first chunks are those of batches that it has less than its size."""

    order: Int[Array, "shards local"]
    """See `rows.Chunked`; of the batches' rows, joined."""
    fullest: Int[Array, " num_chunks"]
    rungs: Int[Array, " num_chunks"]


class HeldWindow(NamedTuple):
    """A window between stage 1 and the body."""

    rows: Arrays
    """[size batch ...]"""
    at: Sorted
    carries: list[Arrays]
    """Of each batch, what `finish` reads."""


class Windows:
    """Runs a computation that adds nothing up (evaluation, scoring, generation), under either dispatch.

    The host compiles a body when its rung first comes, or all of them by `compile`.
    """

    def __init__(self, staged: Staged, dispatch: Dispatch) -> None:
        self._staged, self._dispatch = staged, dispatch
        self._by_batch = OnHost(staged) if dispatch == "host" else InGraph(staged)
        self._begin = jax.jit(staged.begin)
        self._sort = jax.jit(self._sorted)
        self._at_rung: dict[int, Wrapped] | dict[int, Compiled] = {
            rung: jax.jit(self._body(rung)) for rung in staged.ladder.rungs
        }
        self._at_its_rung = jax.jit(self._switch)
        self._finish = jax.jit(self._finished)

    def regroups(self, size: int) -> bool:
        """Says whether windows of so many batches can save anything: with one rung nothing is shorter."""
        return size > 1 and len(self._staged.ladder.rungs) > 1

    def start(self, params: Arrays, shared: Arrays, batch: Arrays) -> Callable[[], Part]:
        """Sends one batch to the devices; the function that is returned gives the results."""
        return self._by_batch.start(params, shared, batch)

    def run(self, params: Arrays, shared: Arrays, batches: Sequence[Arrays], size: int) -> Iterator[Arrays]:
        """Yields the rows' results of each batch.

        Args:
            batches: of one shape, at most `size`.
            size: what the small programs are compiled for; 1 computes batch by batch, each while the host reads the
                results of the one before.
        """
        if not self.regroups(size):
            yield from self._batch_by_batch(params, shared, batches)
            return
        _, second = self._staged.split(params)
        rows, at, carries = self._up_to_gate(params, shared, batches, size)
        num_chunks, results = at.fullest.shape[0], None
        first_chunk = num_chunks - len(batches) * self._staged.num_chunks
        bodies = self._chosen(at.fullest)
        for number in map(np.int32, range(first_chunk, num_chunks)):
            chunk, fullest = _take(rows, at, number)
            own = bodies[number](second, shared, chunk, fullest).rows
            results = _put(_spread(own, num_chunks) if results is None else results, own, number)
        del rows
        for number, carry in enumerate(carries):
            yield self._finish(carry, results, at, np.int32(number))

    def compile(self, params: Arrays, shared: Arrays, batch: Arrays, size: int) -> None:
        """Compiles what windows of batches of this shape can need, whatever they keep; then no other shape is taken.

        Under dispatch in_graph there is one body, which compiles when it is called.
        """
        if isinstance(self._by_batch, InGraph):
            return
        if not self.regroups(size):
            self._by_batch.compile(params, shared, batch)
            return
        _, second = self._staged.split(params)
        rows, at, _ = self._up_to_gate(params, shared, [batch], size)
        chunk, fullest = _take(rows, at, np.int32(0))
        with ThreadPoolExecutor() as threads:  # each body compiles while the next is traced
            compiling = {
                rung: threads.submit(body.lower(second, shared, chunk, fullest).compile)
                for rung, body in self._at_rung.items()
                if not isinstance(body, Compiled)
            }
            self._at_rung = {rung: each.result() for rung, each in compiling.items()}

    def _batch_by_batch(self, params: Arrays, shared: Arrays, batches: Sequence[Arrays]) -> Iterator[Arrays]:
        ahead: Callable[[], Part] | None = None
        for batch in batches:
            following = self._by_batch.start(params, shared, batch)
            if ahead is not None:
                yield ahead().rows
            ahead = following
        if ahead is not None:
            yield ahead().rows

    def _up_to_gate(self, params: Arrays, shared: Arrays, batches: Sequence[Arrays], size: int) -> HeldWindow:
        first, _ = self._staged.split(params)
        held, carries = None, []
        for number, batch in enumerate(batches):
            begun = self._begin(first, shared, batch)
            own = begun.rows, begun.kept_counts
            held = _put(_spread(own, size) if held is None else held, own, np.int32(number))
            carries.append(begun.carry)
        assert held is not None, "a window has a batch"
        rows, kept_counts = held
        return HeldWindow(rows, self._sort(kept_counts, np.int32(len(batches))), carries)

    def _sorted(self, kept_counts: Int[Array, "size batch"], num_batches: Int[Array, ""]) -> Sorted:
        staged, size = self._staged, kept_counts.shape[0]
        counts = jnp.where(jnp.arange(size)[:, None] < num_batches, kept_counts, -1)
        chunked = chunk_rows((), join_rows(counts, staged.num_shards), size * staged.num_chunks, staged.num_shards)
        return Sorted(chunked.order, chunked.fullest, staged.ladder.rung(chunked.fullest))

    def _chosen(self, fullest: Int[Array, " num_chunks"]) -> list[Callable[..., Part]]:
        """The body of each chunk."""
        if self._dispatch == "in_graph":
            return [self._at_its_rung] * fullest.shape[0]
        return [self._at_rung[self._staged.ladder.host_rung(int(count))] for count in np.asarray(fullest)]

    def _body(self, rung: int) -> Callable[[Arrays, Arrays, Arrays, Int[Array, ""]], Part]:
        body = self._staged.body(rung)
        return lambda params, shared, rows, fullest: body(params, shared, rows)

    def _switch(self, params: Arrays, shared: Arrays, rows: Arrays, fullest: Int[Array, ""]) -> Part:
        bodies = [self._staged.body(rung) for rung in self._staged.ladder.rungs]
        return jax.lax.switch(self._staged.ladder.rung_index(fullest), bodies, params, shared, rows)

    def _finished(self, carry: Arrays, results: Arrays, at: Sorted, number: Int[Array, ""]) -> Arrays:
        size = at.rungs.shape[0] // self._staged.num_chunks
        by_batch = split_rows(in_order(results, at.rungs, at.order), size, self._staged.num_shards)
        return self._staged.finish(carry, *jax.tree.map(lambda leaf: leaf[number], by_batch)).rows


@functools.partial(jax.jit, static_argnums=1)
def _spread(own: Arrays, size: int) -> Arrays:
    """Room for `size` such arrays, each filled with these."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (size, *leaf.shape)), own)


@functools.partial(jax.jit, donate_argnums=0)
def _put(held: Arrays, own: Arrays, number: Int[Array, ""]) -> Arrays:
    return jax.tree.map(lambda all, leaf: jax.lax.dynamic_update_index_in_dim(all, leaf, number, 0), held, own)


@jax.jit
def _take(rows: Arrays, at: Sorted, number: Int[Array, ""]) -> tuple[Arrays, Int[Array, ""]]:
    """The rows of a chunk, and the kept count of its fullest."""
    num_shards, local = at.order.shape
    in_chunk = local // at.fullest.shape[0]
    places = jax.lax.dynamic_slice_in_dim(at.order, number * in_chunk, in_chunk, axis=1)
    return take_rows(join_rows(rows, num_shards), places), at.fullest[number]


def by_shape(batches: Sequence[Arrays], run: Callable[[Sequence[Arrays]], Iterable[OfBatch]]) -> list[OfBatch]:
    """Calls `run` once for all batches of the same shape; returns the results in the order of the batches."""
    groups: dict[Hashable, list[int]] = {}
    for number, batch in enumerate(batches):
        groups.setdefault(shape_of(batch), []).append(number)
    results: dict[int, OfBatch] = {}
    for numbers in groups.values():
        results |= zip(numbers, run([batches[number] for number in numbers]), strict=True)
    return [results[number] for number in range(len(batches))]


def shape_of(batch: Arrays) -> Hashable:
    """Returns what programs for a batch are compiled for."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple(leaf.shape for leaf in leaves)
