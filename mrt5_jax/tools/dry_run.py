"""What a run would be, before anything runs: where every array lies, what a step costs, what the compiler makes of it.

Nothing is allocated and no data are read. The devices need not be there (`tools.topology`).
"""

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.config import ExecutionConfig, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds, training_multiply_adds
from mrt5_jax.model.parameters import path_name
from mrt5_jax.model.precision import check_precision
from mrt5_jax.parallel.batches import abstract_batch, check_batch_size, check_parts
from mrt5_jax.parallel.mesh import make_mesh, on_mesh, row_shards
from mrt5_jax.selection.held_targets import with_held_target
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.tools.collectives import Collective, collectives
from mrt5_jax.tools.compiled import CostEstimate, Memory, cost_of, memory_of
from mrt5_jax.tools.cycles import estimated_cycles
from mrt5_jax.tools.hlo import parse_hlo
from mrt5_jax.tools.topology import Topology
from mrt5_jax.training.dealing import features_dealt_by
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, jit_step
from mrt5_jax.training.step import make_state, make_train_step, under

_REST = "rest at "


class Placement(NamedTuple):
    """An array, and what of it lies on one device."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sharding: str
    bytes_on_a_device: int


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run on its devices, without compiling anything."""

    topology: Topology
    mesh: Mesh
    ladder: Ladder
    state: TrainState
    """ShapeDtypeStructs with shardings."""
    batch: dict[str, jax.ShapeDtypeStruct]
    parameters: list[Placement]
    bytes_on_a_device: dict[str, int]
    """Of parameters, optimizer, controller and batch."""
    multiply_adds: dict[int, int]
    """Rung -> multiply-adds of a step on all devices."""


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """What the compiler makes of a program."""

    memory: Memory
    cost: CostEstimate
    cycles: int | None
    """The compiler's estimate for one run on a device, without exchanges; None where it makes none."""
    collectives: list[Collective]
    runs: int
    """How often a step runs it; of a rest, if all chunks run at its length."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler makes of the training step."""

    programs: dict[str, CompiledProgram]
    """"step" or, under host dispatch, "begin", "rest at RUNG" and so on: those that a step runs one after another."""
    seconds: float
    """Tracing and compiling."""

    @property
    def largest(self) -> CompiledProgram:
        """The program that needs most memory."""
        return max(self.programs.values(), key=lambda program: program.memory.total)

    @property
    def step_cycles(self) -> dict[str, int]:
        """Estimated cycles of a whole step, "step" or "step at RUNG"; empty where the compiler makes no estimate."""
        cycles = {name: one.runs * one.cycles for name, one in self.programs.items() if one.cycles is not None}
        rests = {name: cycles.pop(name) for name in list(cycles) if name.startswith(_REST)}
        always = sum(cycles.values())
        if rests:
            return {f"step at {name.removeprefix(_REST)}": always + rest for name, rest in rests.items()}
        return {"step": always} if cycles else {}


def plan_run(run: RunConfig, topology: Topology) -> RunPlan:
    """Lays a run out over the devices of a topology.

    Raises:
        UserError: the mesh or the batch does not fit the devices.
    """
    run = with_held_target(run)
    check_precision(run.model)
    mesh = make_mesh(run.execution.mesh, topology.devices)
    check_batch_size(run.data.batch_size, mesh, "batch_size")
    check_batch_size(run.data.eval_batch_size, mesh, "eval_batch_size")
    model, learning = MrT5(run.model, run.execution), make_learning(run)
    check_parts(run, mesh)
    cost = body_multiply_adds(run.model, run.data.target_length)
    length, dispatch = run.data.input_length, run.execution.dispatch
    ladder = make_ladder(length, run.execution, topology.backend, run.compaction.capacity, cost, dispatch)
    key = jax.random.key(run.training.seed)
    with on_mesh(mesh, run.execution.mesh):
        state = abstract_state(lambda key: make_state(model, run, learning, key), mesh, key)
    batch = abstract_batch(run.data, mesh, len(features_dealt_by(run, mesh, {length: ladder})), run.controller)
    parts = {"parameters": state.params, "optimizer": state.opt_state, "controller": state.controller, "batch": batch}
    rungs = ladder.rungs if run.model.gate else (run.data.input_length,)
    return RunPlan(
        topology,
        mesh,
        ladder,
        state,
        batch,
        placements(state.params),
        {name: sum(place.bytes_on_a_device for place in placements(part)) for name, part in parts.items()},
        {rung: training_multiply_adds(run.model, run.data, rung) for rung in rungs},
    )


def compile_step(run: RunConfig, plan: RunPlan) -> Compilation:
    """Compiles the step for the plan's devices; of what is "auto", the one that a run begins with.

    Raises:
        UserError: the compiler says that it needs more memory than a device has.
    """
    run = under(run, step_deletions(run).begins_with[0], fixed_chunks(run.execution))
    execution = run.execution
    alone_on_cpu = plan.topology.backend == "cpu" and plan.mesh.size == 1
    if execution.attention_rows == "auto" and not alone_on_cpu:  # auto looks at the devices that are here
        execution = dataclasses.replace(execution, attention_rows="batched")
    start = time.perf_counter()
    try:
        with on_mesh(plan.mesh, run.execution.mesh):
            programs = _compiled(MrT5(run.model, execution), run, plan)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used \S+ of \S+ \w+", str(error))
        raise UserError(
            f"the step does not fit {plan.topology.description}{f' ({used[0]})' if used else ''}: give more devices, "
            "an fsdp or tensor axis, more microbatches, host dispatch, or config.ExecutionConfig.remat = 'full'"
        ) from None
    seconds = time.perf_counter() - start
    described = {name: _described(compiled, _runs(name, run.execution)) for name, compiled in programs.items()}
    return Compilation(described, seconds)


def _described(compiled: jax.stages.Compiled, runs: int) -> CompiledProgram:
    hlo = parse_hlo(compiled.as_text() or "")
    return CompiledProgram(memory_of(compiled), cost_of(compiled), estimated_cycles(hlo), collectives(hlo), runs)


def _runs(name: str, execution: ExecutionConfig) -> int:
    """How often a step runs a program; the rest of the model, if all chunks run at its length."""
    if name in ("step", "update"):
        return 1
    return execution.microbatches * (fixed_chunks(execution) if name.startswith(_REST) else 1)


def _compiled(model: MrT5, run: RunConfig, plan: RunPlan) -> dict[str, jax.stages.Compiled]:
    """Compiles the programs of a step, in the order in which it runs them."""
    learning = make_learning(run)
    if run.execution.dispatch == "host":
        gradients, update = HostTrainStep(model, run, learning, plan.ladder, plan.state).prepare(plan.batch)
        rest = {f"{_REST}{rung}": program for rung, program in gradients.bodies.items()}
        return {"begin": gradients.begin, **rest, "finish": gradients.finish, "update": update}
    step = make_train_step(model, run, learning, plan.ladder, row_shards(plan.mesh))
    return {"step": jit_step(step, plan.state).lower(plan.state, plan.batch).compile()}


def placements(tree: Any) -> list[Placement]:
    """Returns where every array of a tree of ShapeDtypeStructs with shardings lies, in the order of the tree."""
    return [_placement(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _placement(name: str, leaf: jax.ShapeDtypeStruct) -> Placement:
    sharding: Any = leaf.sharding
    on_a_device = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return Placement(name, leaf.shape, str(leaf.dtype), _written(sharding.spec, leaf.ndim), on_a_device)


def _written(spec: Any, ndim: int) -> str:
    """A PartitionSpec as "- fsdp data+fsdp", a word for each dimension; empty for what is whole everywhere."""
    axes = [*spec, *[None] * (ndim - len(spec))]
    words = ["-" if axis is None else axis if isinstance(axis, str) else "+".join(axis) for axis in axes]
    return " ".join(words) if any(word != "-" for word in words) else ""


def axes_in_words(axes: Mapping[str, int]) -> str:
    """Writes a mesh as "data=4 x fsdp=2 x tensor=1"."""
    return " x ".join(f"{name}={size}" for name, size in axes.items())
