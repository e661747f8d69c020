"""A staged computation as several programs, between which the host reads the kept counts and chooses the rungs.

No program contains other rungs than its own, and memory is that of the lengths that run. All hosts read the same
maxima, and so call the same programs.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled, Wrapped
from jaxtyping import Array, Int, PyTree

from mrt5_jax.compaction.rows import Arrays, Chunked, chunk_rows, join_rows, split_rows, unsort_rows
from mrt5_jax.compaction.staged import Part, Staged, in_order, sorted_inputs

Shapes = PyTree[jax.ShapeDtypeStruct]
Program = TypeVar("Program", Wrapped, Compiled)
"""A program that compiles when it is called, or one that is compiled for certain shapes."""


@dataclasses.dataclass(frozen=True)
class Programs(Generic[Program]):
    """What a computation is compiled into."""

    zeros: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]
    """(first stage's params, second stage's) -> both totals before anything is added"""
    begin: Program
    """(first stage's params, shared, inputs, number of the part) -> (chunks, carry)"""
    bodies: dict[int, Program]
    """rung -> (total so far, second stage's params, shared, chunks, number of the chunk) -> (total, rows)"""
    finish: Program
    """(total so far, carry, order, rows of every chunk, rungs) -> (total, rows)"""
    sort: Program | None = None
    """(first stage's params, shared, inputs) -> (inputs in another order, that order); None: they keep theirs"""


class Sent(NamedTuple):
    """A batch whose first part has been sent through the first stage."""

    inputs: Arrays
    order: Int[Array, "shards local"] | None
    """As in `Collected`."""
    begun: tuple[Chunked, Arrays]
    """Of the first part."""


class Collected(NamedTuple):
    """What the programs leave: `joined` puts it together, as a part of the program that takes it."""

    chunk_total: Arrays
    total: Arrays
    rows: list[Arrays]
    """Of every part."""
    order: Int[Array, "shards local"] | None
    """Of the rows, where they were sorted before they were cut into parts."""


def joined(
    staged: Staged,
    collected: Collected,
) -> Part:
    """Returns the computation's result."""
    rows = collected.rows[0]
    if staged.num_parts > 1:
        rows = join_rows(jax.tree.map(lambda *leaves: jnp.stack(leaves), *collected.rows), staged.num_shards)
    if collected.order is not None:
        rows = unsort_rows(rows, collected.order)
    return Part(staged.combine(collected.chunk_total, collected.total), rows)


class OnHost:
    """Runs a staged computation. Programs compile when they are first needed, or ahead of that by `compile`.

    Both totals are zeroed once; bodies add to the one and `finish` to the other, each in the total's own memory.
    """

    def __init__(self, staged: Staged) -> None:
        self._staged, places = staged, staged.shardings
        self._totals = places and (places.chunk_total, places.total)
        self._jitted: Programs[Wrapped] = Programs(
            jax.jit(self._zeros, out_shardings=self._totals),
            jax.jit(self._begin),
            {
                rung: jax.jit(
                    self._body(rung), donate_argnums=0, out_shardings=places and (places.chunk_total, places.rows)
                )
                for rung in staged.ladder.rungs
            },
            jax.jit(self._finish, donate_argnums=0, out_shardings=places and (places.total, places.rows)),
            jax.jit(self._sort) if staged.rows_in_parts == "sorted" else None,
        )
        self._programs: Programs[Wrapped] | Programs[Compiled] = self._jitted

    def start(self, params: Arrays, shared: Arrays, inputs: Arrays) -> Callable[[], Part]:
        """Sends a batch through the first stage, and does not wait for it.

        The function that is returned does the rest: start the next batch before it is called, and the device computes
        while the host waits and reads.
        """
        sent = self._send(params, shared, inputs)
        return lambda: joined(self._staged, self._collect(params, shared, sent))

    def collect(self, params: Arrays, shared: Arrays, inputs: Arrays) -> Collected:
        """Runs a batch; for callers that have a program of their own for what `joined` does."""
        return self._collect(params, shared, self._send(params, shared, inputs))

    def _send(self, params: Arrays, shared: Arrays, inputs: Arrays) -> Sent:
        first, _ = self._staged.split(params)
        order = None
        if self._programs.sort is not None:
            inputs, order = self._programs.sort(first, shared, inputs)
        return Sent(inputs, order, self._programs.begin(first, shared, inputs, np.int32(0)))

    def _collect(self, params: Arrays, shared: Arrays, sent: Sent) -> Collected:
        programs, (first, second) = self._programs, self._staged.split(params)
        (chunk_total, total), results = programs.zeros(first, second), []
        for part in range(self._staged.num_parts):
            chunked, carry = programs.begin(first, shared, sent.inputs, np.int32(part)) if part else sent.begun
            rungs = [self._staged.ladder.host_rung(int(count)) for count in np.asarray(chunked.fullest)]
            outputs = []
            for number, rung in enumerate(rungs):
                body = programs.bodies[rung]
                chunk_total, own = body(chunk_total, second, shared, chunked.rows, np.int32(number))
                outputs.append(own)
            total, rows = programs.finish(total, carry, chunked.order, outputs, np.asarray(rungs, np.int32))
            results.append(rows)
        return Collected(chunk_total, total, results, sent.order)

    def compile(self, params: Arrays, shared: Arrays, inputs: Arrays) -> tuple[Programs[Compiled], Collected]:
        """Compiles all that inputs of these shapes can need, whatever is kept; from then on they alone are taken.

        Takes arrays, or their shapes.

        The bodies compile in parallel threads, each while the next is traced.

        Returns:
            The programs, and the shapes of what `collect` returns.
        """
        jitted, staged = self._jitted, self._staged
        first, second = staged.split(params)
        number = jax.ShapeDtypeStruct((), jnp.int32)
        zeros = jax.jit(lambda: self._zeros(first, second), out_shardings=self._totals).lower().compile()
        chunk_total, total = abstract_outputs(zeros)
        sort, order = None, None
        if jitted.sort is not None:
            sort = jitted.sort.lower(first, shared, inputs).compile()
            inputs, order = abstract_outputs(sort)
        begin = jitted.begin.lower(first, shared, inputs, number).compile()
        chunked, carry = abstract_outputs(begin)
        with ThreadPoolExecutor() as threads:
            compiling = {}
            for rung, body in jitted.bodies.items():
                lowered = body.lower(chunk_total, second, shared, chunked.rows, number)
                compiling[rung] = threads.submit(lowered.compile)
            bodies = {rung: each.result() for rung, each in compiling.items()}
        _, out = abstract_outputs(next(iter(bodies.values())))
        rungs = jax.ShapeDtypeStruct((staged.num_chunks,), jnp.int32)
        finish = jitted.finish.lower(total, carry, chunked.order, [out] * staged.num_chunks, rungs).compile()
        _, rows = abstract_outputs(finish)
        programs = Programs(lambda first, second: zeros(), begin, bodies, finish, sort)
        self._programs = programs
        return programs, Collected(chunk_total, total, [rows] * staged.num_parts, order)

    def _zeros(self, first: Arrays, second: Arrays) -> tuple[Arrays, Arrays]:
        return self._staged.chunk_zeros(second), self._staged.zeros(first)

    def _sort(self, params: Arrays, shared: Arrays, inputs: Arrays) -> tuple[Arrays, Int[Array, "shards local"]]:
        return sorted_inputs(self._staged, params, shared, inputs)

    def _begin(self, params: Arrays, shared: Arrays, inputs: Arrays, number: Int[Array, ""]) -> tuple[Chunked, Arrays]:
        staged = self._staged
        if staged.num_parts > 1:
            parts = split_rows(inputs, staged.num_parts, staged.num_shards)
            inputs = jax.tree.map(lambda leaf: leaf[number], parts)
        begun = staged.begin(params, shared, inputs)
        return chunk_rows(begun.rows, begun.kept_counts, staged.num_chunks, staged.num_shards), begun.carry

    def _body(self, rung: int) -> Callable[..., tuple[Arrays, Arrays]]:
        def run(
            total: Arrays, params: Arrays, shared: Arrays, chunks: Arrays, number: Int[Array, ""]
        ) -> tuple[Arrays, Arrays]:
            part = self._staged.body(rung)(params, shared, jax.tree.map(lambda leaf: leaf[number], chunks))
            return jax.tree.map(jnp.add, total, part.total), part.rows

        return run

    def _finish(
        self,
        total: Arrays,
        carry: Arrays,
        order: Int[Array, "shards local"],
        outputs: list[Arrays],
        rungs: Int[Array, " num_chunks"],
    ) -> tuple[Arrays, Arrays]:
        out = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
        own = self._staged.finish(carry, *in_order(out, rungs, order))
        return jax.tree.map(jnp.add, total, own.total), own.rows


def abstract_outputs(compiled: Compiled) -> Shapes:
    """Returns what a compiled program returns, as ShapeDtypeStructs for the program that takes it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        compiled.out_info,
        compiled.output_shardings,
    )
