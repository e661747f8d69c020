"""This project's contestants: training steps, forward passes and greedy decoding of one model.

They share one state, which every training step replaces in place as in real training: on a device there are parameters
and moments once, however many contestants there are.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.race import Contestant, UnableError
from benchmarks.accelerator.sizes import Lengths, Sizes, device_batch, keeping_even_bytes, make_run
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.compaction.on_host import Programs
from mrt5_jax.config import Deletion, MeshConfig, TrainingDeletion
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward, up_to_gate
from mrt5_jax.model.multiply_adds import forward_multiply_adds, training_multiply_adds
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.batches import abstract_batch
from mrt5_jax.parallel.mesh import make_mesh, on_mesh, replicated
from mrt5_jax.tools.compiled import Memory, memory_of
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, init_sharded, jit_step
from mrt5_jax.training.step import make_state, make_train_step

TRAINING, FORWARD = "training step", "forward pass"

_STEEPNESS = 4.0
"""Gate values at 0 or at k, hardly ever between, as in a trained model."""


class SharedModel:
    """The state and the batch that contestants use in turn, on one device."""

    def __init__(self, sizes: Sizes, device: Any) -> None:
        self.sizes, self.mesh = sizes, make_mesh(MeshConfig(), [device])
        run = make_run(sizes, "saturated")  # whose state is that of the other deletions and a monitor

        def new_state(key: jax.Array) -> TrainState:
            return make_state(MrT5(sizes.model), run, make_learning(run), key)

        self._new_state = new_state
        with on_mesh(self.mesh, MeshConfig()):
            self.abstract = abstract_state(new_state, self.mesh, jax.random.key(0))
        self.batch = device_batch(sizes, replicated(self.mesh))
        self._state: TrainState | None = None

    def take(self) -> TrainState:
        """The state, for a step that consumes it; made anew where a failed step has consumed it."""
        if self._state is None:
            with on_mesh(self.mesh, MeshConfig()):
                state = init_sharded(self._new_state, self.mesh, jax.random.key(0))
                params = jax.jit(keeping_even_bytes, static_argnums=1)(state.params, _STEEPNESS)
            self._state = jax.device_put(state._replace(params=params), replicated(self.mesh))
        state, self._state = self._state, None
        return state

    def give(self, state: TrainState) -> None:
        self._state = state

    @property
    def params(self) -> Params:
        self.give(self.take())
        assert self._state is not None
        return self._state.params


class TrainingSteps:
    """A training step, compiled; every call is one on the same batch."""

    def __init__(self, shared: SharedModel, deletion: TrainingDeletion, dispatch: Lengths, length: int) -> None:
        self._shared = shared
        start = time.perf_counter()
        with on_mesh(shared.mesh, MeshConfig()):
            self._step, self.memory = _compile_step(shared, deletion, dispatch)
        self.compile_seconds: float | None = time.perf_counter() - start
        self.turn(1)
        _expect("ran at the length", int(self._metrics["rung"]), length)
        _expect("the loss is finite", bool(np.isfinite(self._metrics["total_loss"])), True)

    def turn(self, calls: int) -> None:
        state = self._shared.take()
        for _ in range(calls):
            state, self._metrics, _ = self._step(state, self._shared.batch)
        jax.block_until_ready((state, self._metrics))
        self._shared.give(state)


def _compile_step(shared: SharedModel, deletion: TrainingDeletion, dispatch: Lengths) -> tuple[Any, int]:
    """The step as real training has it, and the bytes that it needs on the device."""
    run = make_run(shared.sizes, deletion, dispatch)
    model, learning = MrT5(run.model, run.execution), make_learning(run)
    ladder = make_ladder(run.data.input_length, run.execution, jax.default_backend(), run.compaction.capacity)
    if dispatch != "host":
        step = jit_step(make_train_step(model, run, learning, ladder), shared.abstract)
        compiled = step.lower(shared.abstract, shared.batch).compile()
        return compiled, memory_of(compiled).total
    host_step = HostTrainStep(model, run, learning, ladder, shared.abstract)
    programs = host_step.prepare(abstract_batch(run.data, shared.mesh))
    return host_step, _host_memory(*programs, shared.sizes.kept)


def _host_memory(gradients: Programs, update: Any, rung: int) -> int:
    """Bytes of a step at a rung: the state, what crosses from the gate to the end, and the program that adds most to
    them."""
    whole, begin = memory_of(update), memory_of(gradients.begin)
    programs = (memory_of(gradients.bodies[rung]), memory_of(gradients.finish), whole)
    return whole.arguments + begin.outputs + max(begin.temporaries, *map(_added, programs))


def _added(memory: Memory) -> int:
    return memory.temporaries + memory.outputs - memory.aliased


class ForwardPasses:
    """A forward pass to the logits, compiled."""

    def __init__(self, shared: SharedModel, deletion: Deletion, length: int) -> None:
        self._shared, sizes = shared, shared.sizes
        setting = ForwardSetting(MrT5(sizes.model, sizes.execution), deletion, Ladder((sizes.kept, sizes.input_length)))
        params = shared.params
        start = time.perf_counter()
        self._run = jax.jit(forward, static_argnums=0).lower(setting, params, shared.batch).compile()
        self.compile_seconds: float | None = time.perf_counter() - start
        self.memory = memory_of(self._run).total
        outputs = self._run(params, shared.batch)
        _expect("ran at the length", int(outputs.rungs.max()), length)
        _expect("the logits are finite", bool(np.isfinite(outputs.logits).all()), True)

    def turn(self, calls: int) -> None:
        params, batch = self._shared.params, self._shared.batch
        outputs = [self._run(params, batch).logits for _ in range(calls)]
        jax.block_until_ready(outputs)


class Decoding:
    """Greedy decoding with a cache; the lengths after the gate are chosen by the host, as by default."""

    def __init__(self, shared: SharedModel, deletion: Deletion, length: int) -> None:
        self._shared, self._deletion = shared, deletion
        self._execution = dataclasses.replace(shared.sizes.execution, rungs=(shared.sizes.kept,))
        self.memory: int | None = None
        setting = ForwardSetting(MrT5(shared.sizes.model), deletion, Ladder((shared.sizes.input_length,)))
        begun = jax.jit(up_to_gate, static_argnums=0)(setting, shared.params, self._tokens, None)
        _expect("positions that stay", int(begun.kept_counts.max()), length)
        start = time.perf_counter()
        self.turn(1)
        self.compile_seconds: float | None = time.perf_counter() - start

    @property
    def _tokens(self) -> Any:
        return self._shared.batch["encoder_input_tokens"]

    def _engine(self) -> Engine:
        return Engine(self._shared.sizes.model, self._shared.params, self._deletion, self._execution)

    def turn(self, calls: int) -> None:
        engine, sizes = self._engine(), self._shared.sizes
        generated = [engine.generate(self._tokens, sizes.decoded) for _ in range(calls)]
        counts = np.concatenate([np.asarray(one.num_tokens) for one in jax.block_until_ready(generated)])
        _expect("tokens decoded of every row", (int(counts.min()), int(counts.max())), (sizes.decoded,) * 2)


def _expect(what: str, found: Any, expected: Any) -> None:
    """Raises where a contestant did other work than it is measured for."""
    if found != expected:
        raise UnableError(f"{what}: {found}, expected {expected}")


def our_contestants(shared: SharedModel) -> list[Contestant]:
    """In the order of what matters most."""
    sizes = shared.sizes
    rows, full, kept = sizes.rows, sizes.input_length, sizes.kept
    read = rows * full

    def training(name: str, deletion: TrainingDeletion, dispatch: Lengths, length: int) -> Contestant:
        def prepare() -> TrainingSteps:
            return TrainingSteps(shared, deletion, dispatch, length)

        count = training_multiply_adds(sizes.model, sizes.data, length)
        return Contestant(f"{TRAINING}, {name}", TRAINING, read, count, prepare)

    def of_rows(
        name: str, section: str, num_bytes: int, length: int, targets: int, prepare: Callable[[], Any]
    ) -> Contestant:
        data = sizes._replace(target_length=targets).data
        count = rows * forward_multiply_adds(sizes.model, data, length).total
        return Contestant(f"{section}, {name}", section, num_bytes, count, prepare)

    decoding, written = decoding_section(sizes), rows * sizes.decoded
    return [
        training("none", "none", "in_graph", full),
        training("saturated 50 %, in-graph", "saturated", "in_graph", kept),
        training("soft", "soft", "in_graph", full),
        training("saturated 50 %, host", "saturated", "host", kept),
        training("saturated 50 %, capacity", "saturated", "capacity", kept),
        of_rows("none", FORWARD, read, full, sizes.target_length, lambda: ForwardPasses(shared, "none", full)),
        of_rows("hard 50 %", FORWARD, read, kept, sizes.target_length, lambda: ForwardPasses(shared, "hard", kept)),
        of_rows("none", decoding, written, full, sizes.decoded, lambda: Decoding(shared, "none", full)),
        of_rows("hard 50 %", decoding, written, kept, sizes.decoded, lambda: Decoding(shared, "hard", kept)),
    ]


def decoding_section(sizes: Sizes) -> str:
    return f"decoding {sizes.decoded} tokens"
