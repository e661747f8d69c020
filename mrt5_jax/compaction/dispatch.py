"""Which rung each chunk runs at, decided inside the compiled program or by the host.

What runs is given as a `Body`: from a rung to the function compiled for it. Both dispatches call it in the same way and
return the same `Ran`, so what a model does with its rows does not know who chose the rung.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mrt5_jax.compaction.ladder import Ladder


class ChunkResult(NamedTuple):
    """What a body returns of one chunk; the same shapes at every rung."""

    total: Any
    """Pytree to be added up over the chunks."""
    rows: Any
    """Pytree of arrays [rows ...]."""


class Ran(NamedTuple):
    """What all chunks returned."""

    total: Any
    rows: Any
    """Pytree of arrays [num_chunks rows ...]; from the host, a list of pytrees [rows ...]."""
    rungs: Int[Array, " num_chunks"] | Int[np.ndarray, " num_chunks"]
    """The static length that each chunk ran at."""

    def by_row(self) -> tuple[Any, Int[Array, "num_chunks rows"]]:
        """(`rows` in one pytree [num_chunks rows ...], the rung of each row); part of the program that takes them."""
        rows = self.rows
        if isinstance(rows, list):
            rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        num_chunks, rows_in_chunk = jax.tree.leaves(rows)[0].shape[:2]
        return rows, jnp.broadcast_to(jnp.asarray(self.rungs)[:, None], (num_chunks, rows_in_chunk))


Body = Callable[[int], Callable[[Any, Any], ChunkResult]]
"""rung -> (what all chunks share, rows of one chunk) -> result."""

Program = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""(total so far, shared, all chunks, number of the chunk) -> (new total, rows); compiled for one rung."""


def run_in_graph(ladder: Ladder, body: Body, shared: Any, chunks: Any, most: Int[Array, " num_chunks"]) -> Ran:
    """Every chunk at the smallest rung that holds its rows, chosen by `lax.switch` within one program.

    The rungs follow from maxima over the whole batch, so under data sharding all devices take the same branch; those
    maxima are the only collectives added. In training a body returns gradients instead of being differentiated:
    reverse mode through `lax.switch` keeps the residuals of every branch.

    Args:
        ladder: the static lengths.
        body: what runs.
        shared: pytree that every chunk sees.
        chunks: pytree of arrays [num_chunks rows ...].
        most: kept positions of each chunk's fullest row.
    """
    branches = [body(rung) for rung in ladder.rungs]
    index, rungs = ladder.rung_index(most), ladder.rung(most)
    if most.shape[0] == 1:
        result = jax.lax.switch(index[0], branches, shared, jax.tree.map(lambda leaf: leaf[0], chunks))
        return Ran(result.total, jax.tree.map(lambda leaf: leaf[None], result.rows), rungs)

    # Jitted, a branch is traced once, for the shapes of its total as well as for its place in the switch.
    branches[0] = jax.jit(branches[0], inline=True)

    def run_chunk(total: Any, chunk: tuple[Any, Array]) -> tuple[Any, Any]:
        rows, rung_index = chunk
        result = jax.lax.switch(rung_index, branches, shared, rows)
        return jax.tree.map(jnp.add, total, result.total), result.rows

    total, rows = jax.lax.scan(run_chunk, _zeros(branches[0], shared, chunks), (chunks, index))
    return Ran(total, rows, rungs)


def program(body: Body, rung: int) -> Program:
    """The body at one rung as a program of its own, for `run_on_host`; to be jitted, the total donated."""

    def run(total: Any, shared: Any, chunks: Any, number: Int[Array, ""]) -> tuple[Any, Any]:
        result = body(rung)(shared, jax.tree.map(lambda leaf: leaf[number], chunks))
        return jax.tree.map(jnp.add, total, result.total), result.rows

    return run


def compile_programs(
    body: Body, rungs: Iterable[int], total: Any, shared: Any, chunks: Any, out_shardings: Any = None
) -> dict[int, Program]:
    """`program` at every rung, compiled ahead of time in parallel threads; each call's total is donated.

    Args:
        total, shared, chunks: pytrees of ShapeDtypeStructs.
        out_shardings: of (total, rows); None: the compiler's choice.
    """
    number = jax.ShapeDtypeStruct((), jnp.int32)
    with ThreadPoolExecutor() as threads:
        compiling = {}
        for rung in rungs:  # each compiles while the next is traced
            jitted = jax.jit(program(body, rung), donate_argnums=0, out_shardings=out_shardings)
            compiling[rung] = threads.submit(jitted.lower(total, shared, chunks, number).compile)
        return {rung: each.result() for rung, each in compiling.items()}


def abstract_outputs(compiled: Any) -> Any:
    """What a program compiled ahead of time returns, as ShapeDtypeStructs for the program that takes it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        compiled.out_info,
        compiled.output_shardings,
    )


def run_on_host(
    programs: Mapping[int, Program], ladder: Ladder, total: Any, shared: Any, chunks: Any, most: Any
) -> Ran:
    """Every chunk at the smallest rung that holds its rows, chosen by the host, which waits for `most`.

    All hosts read the same maxima and so call the same programs.

    Args:
        programs: rung -> what runs there, see `program`.
        total: zeros of the total's shapes.
    """
    rungs = [ladder.host_rung(int(count)) for count in np.asarray(most)]
    rows = []
    for number, rung in enumerate(rungs):
        total, own = programs[rung](total, shared, chunks, np.int32(number))
        rows.append(own)
    return Ran(total, rows, np.asarray(rungs, np.int32))


def _zeros(branch: Callable[[Any, Any], ChunkResult], shared: Any, chunks: Any) -> Any:
    """Zeros of the shapes of a branch's total."""
    shapes = jax.eval_shape(lambda: branch(shared, jax.tree.map(lambda leaf: leaf[0], chunks))).total
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
