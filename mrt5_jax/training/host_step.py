"""A training step of several programs, between which the host reads the kept counts and chooses the lengths.

    begin    prefix with its pull-back, gate, rows sorted into chunks     one program
    rest     gradient of the model after the gate, for one chunk          one program for each rung
    finish   the prefix's gradient                                        one program
    update   gradients put together, optimizer, controller, metrics       one program

Gradients are added up over chunks and microbatches in two totals, which are zeroed once a step: `rest` adds to the one
and `finish` to the other, each in the total's own memory.
All compile before the first step of an input length, in parallel threads: nothing compiles later, whatever is kept.
The memory of a step is that of the lengths that ran, and gradients stay outside of conditionals.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from mrt5_jax.compaction.dispatch import Program, Ran, abstract_outputs, compile_programs, run_on_host
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.rows import join_rows, split_rows
from mrt5_jax.config import RunConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params, split_parameters
from mrt5_jax.parallel.axis_rules import DATA
from mrt5_jax.parallel.mesh import batch_sharding, replicated, row_shards
from mrt5_jax.training.gradients import (
    AtGate,
    MeasuredRows,
    RestTotal,
    Shared,
    begin,
    differentiate_prefix,
    lengths_of,
    put_together,
    rest,
)
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import (
    Learning,
    Stepped,
    choose_by_branch,
    choose_leaf_by_leaf,
    make_setting,
    step_inputs,
    update,
)


class Totals(NamedTuple):
    """Sums over the chunks and microbatches of a step."""

    rest: RestTotal
    prefix_gradient: Params


class Programs(NamedTuple):
    """Compiled for one input length."""

    zeros: Any
    """Totals before the first microbatch."""
    begin: Any
    rest: dict[int, Program]
    finish: Any
    update: Any


class HostTrainStep:
    """(state, batch) -> Stepped, like `make_train_step`'s; the state is donated.

    Args:
        ladder: the lengths that deletion with compaction runs at.
        abstract: what `state_shardings.abstract_state` returns.
    """

    def __init__(self, model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, abstract: TrainState) -> None:
        self._run, self._learning, self._ladder, self._abstract = run, learning, ladder, abstract
        mesh = jax.tree.leaves(abstract)[0].sharding.mesh
        self._mesh = mesh
        self._setting = make_setting(model, run, ladder, row_shards(mesh))
        self._programs: Programs | None = None

    @property
    def num_programs(self) -> int:
        """How many of them depend on the rung."""
        return 0 if self._programs is None else len(self._programs.rest)

    def __call__(self, state: TrainState, batch: dict[str, Array]) -> Stepped:
        if self._programs is None:
            self.prepare(jax.tree.map(_abstract, batch))
        assert self._programs is not None
        programs = self._programs
        parts = split_parameters(state.params)
        total, prefix_gradient = programs.zeros()
        measured = []
        for number in range(self._run.execution.microbatches):
            at_gate = programs.begin(state, batch, np.int32(number))
            shared = Shared(parts.rest, at_gate.shared.objective)
            chunked = at_gate.chunked
            ran = run_on_host(programs.rest, lengths_of(self._setting), total, shared, chunked.rows, chunked.most)
            total = ran.total
            prefix_gradient, rows = programs.finish(prefix_gradient, at_gate, ran._replace(total=None))
            measured.append(rows)
        return programs.update(state, batch, Totals(total, prefix_gradient), measured)

    def prepare(self, batch: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Compiles ahead of the first step what batches of these shapes will need."""
        self._programs = self.compile(batch)

    def compile(self, batch: dict[str, jax.ShapeDtypeStruct]) -> Programs:
        """Compiles everything that a batch of these shapes can need."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._abstract)
        rows: Any = batch_sharding(self._mesh)
        everywhere: Any = replicated(self._mesh)
        parameters = split_parameters(shardings.params)
        rest_total = RestTotal(everywhere, everywhere, everywhere, parameters.rest)
        rest_total = jax.tree.map(self._by_group, rest_total)
        made = jax.jit(self._zeros, out_shardings=Totals(rest_total, parameters.prefix)).lower().compile()
        zeros: Totals = abstract_outputs(made)
        started = jax.jit(self._begin).lower(self._abstract, batch, jax.ShapeDtypeStruct((), jnp.int32)).compile()
        at_gate = abstract_outputs(started)
        shared = Shared(split_parameters(self._abstract.params).rest, at_gate.shared.objective)
        compiled = compile_programs(
            rest(self._setting),
            lengths_of(self._setting).rungs,
            zeros.rest,
            shared,
            at_gate.chunked.rows,
            (rest_total, rows),
        )
        _, out = abstract_outputs(next(iter(compiled.values())))
        num_chunks = self._run.execution.chunks
        rungs: Any = jax.ShapeDtypeStruct((num_chunks,), jnp.int32)
        finished = jax.jit(self._finish, donate_argnums=0, out_shardings=(parameters.prefix, rows))
        finished = finished.lower(zeros.prefix_gradient, at_gate, Ran(None, [out] * num_chunks, rungs)).compile()
        _, measured = abstract_outputs(finished)
        updated = jax.jit(self._update, donate_argnums=0, out_shardings=Stepped(shardings, everywhere))
        updated = updated.lower(self._abstract, batch, zeros, [measured] * self._run.execution.microbatches).compile()
        return Programs(made, started, compiled, finished, updated)

    def _zeros(self) -> Totals:
        def zeros(leading: tuple[int, ...], params: Params) -> Params:
            return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), params)

        params, groups = split_parameters(self._abstract.params), (self._setting.num_groups,)
        dtype = jnp.promote_types(self._abstract.controller.alpha.dtype, jax.tree.leaves(params)[0].dtype)
        nothing = jnp.zeros(groups, dtype)
        return Totals(RestTotal(nothing, nothing, nothing, zeros(groups, params.rest)), zeros((), params.prefix))

    def _by_group(self, sharding: NamedSharding) -> NamedSharding:
        """Of totals with a leading axis of groups."""
        groups = DATA if self._setting.num_groups > 1 else None
        return NamedSharding(self._mesh, PartitionSpec(groups, *sharding.spec))

    def _begin(self, state: TrainState, batch: dict[str, Array], number: Int[Array, ""]) -> AtGate:
        inputs = step_inputs(self._run, state, batch)
        rows, keys = batch, inputs.row_keys
        if self._run.execution.microbatches > 1:
            parts = split_rows((rows, keys), self._run.execution.microbatches, self._setting.shards.count)
            rows, keys = jax.tree.map(lambda leaf: leaf[number], parts)
        at_gate = begin(self._setting, state.params, rows, inputs.objective, keys)
        nowhere: Any = None  # the parameters are there already
        return at_gate._replace(shared=Shared(nowhere, inputs.objective))

    def _finish(self, total: Params, at_gate: AtGate, ran: Ran) -> tuple[Params, MeasuredRows]:
        gradient, rows = differentiate_prefix(at_gate, ran)
        return jax.tree.map(jnp.add, total, gradient), rows

    def _update(
        self, state: TrainState, batch: dict[str, Array], totals: Totals, measured: list[MeasuredRows]
    ) -> Stepped:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *measured)
        result = put_together(*totals, join_rows(stacked, self._setting.shards.count))
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        choose = choose_by_branch if on_cpu else choose_leaf_by_leaf
        return update(self._run, self._learning, self._ladder, state, batch, result, choose)


def _abstract(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
