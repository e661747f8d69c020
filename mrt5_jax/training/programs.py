"""What a run of training compiles: initialization, a step for each deletion, the monitor's check, evaluations."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.compaction.ladder import ByLength, Ladder, make_ladders
from mrt5_jax.config import DataConfig, Dispatch, RunConfig, TrainingConfig, TrainingDeletion
from mrt5_jax.data.arrangements import input_lengths
from mrt5_jax.evaluation.evaluate import deletions_for
from mrt5_jax.evaluation.programs import Evaluator, make_evaluator
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.parallel.batches import abstract_batch, abstract_eval_batch
from mrt5_jax.parallel.mesh import row_shards
from mrt5_jax.runs.run_files import slots_of
from mrt5_jax.selection.deletions import DELETIONS, MIXED_IN
from mrt5_jax.training.compiling import Compilers
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.monitor import Check, make_check
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, jit_check, jit_init, jit_step
from mrt5_jax.training.step import Learning, TrainStep, make_state, make_train_step


class RunPrograms:
    """The programs of a run, each compiled by the time it is called; to be made and used on the run's mesh.

    They are made in the order in which they are needed, as far as that is known: `Compilers` starts them in it.

    Args:
        ladders: `training_ladders` of the run.
        first_step: the step that comes first; the program of its deletion is made before the others.
    """

    def __init__(
        self,
        run: RunConfig,
        mesh: Mesh,
        learning: Learning,
        ladders: Mapping[int, Ladder],
        compilers: Compilers,
        first_step: int,
    ) -> None:
        self._run, self._mesh, self._learning, self._compilers = run, mesh, learning, compilers
        self._model, self._shards = MrT5(run.model, run.execution), row_shards(mesh)
        self._key = jax.random.key(run.training.seed)
        self.abstract = abstract_state(self._new_state, mesh, self._key)
        """Shapes, types and shardings of the state."""
        self.check = ByLength(ladders if self.abstract.monitor is not None else {}, self._check_at)
        """The monitor's check; has no programs in a run without a monitor."""
        first = deletion_of_step(run.training, first_step)
        self.steps: dict[TrainingDeletion, ByLength] = {
            deletion: ByLength(ladders, functools.partial(self._step_under, deletion))
            for deletion in sorted(deletions_of(run.training), key=lambda deletion: (deletion != first, deletion))
        }
        """A step for each deletion that steps may delete by."""
        self.evaluator = ByLength(evaluation_ladders(run), self._evaluator_at)
        """(parameters, batch, deletion) -> results."""

    def initialize(self) -> TrainState:
        """Makes the state before the first step."""
        return self._compilers.program(jit_init(self._new_state, self.abstract), self._key)(self._key)

    def prepare_steps(self) -> None:
        """Compiles the host's programs of all input lengths, so that no later step waits for a compiler."""
        for step in self.steps.values():
            for length, program in step.programs.items():
                data = dataclasses.replace(self._run.data, input_length=length)
                program.prepare(abstract_batch(data, self._mesh))

    def _new_state(self, key: Array) -> TrainState:
        return make_state(self._model, self._run, self._learning, key)

    def _step_under(self, deletion: TrainingDeletion, ladder: Ladder) -> TrainStep:
        run, abstract = self._run, self.abstract
        under = dataclasses.replace(run, training=dataclasses.replace(run.training, deletion=deletion))
        if run.execution.dispatch == "host":
            return HostTrainStep(self._model, under, self._learning, ladder, abstract)
        step = jit_step(make_train_step(self._model, under, self._learning, ladder, self._shards), abstract)
        if deletion == DELETIONS[run.training.deletion].stand_in:
            return step  # compiled if the monitor ever asks for it
        return self._compilers.program(step, abstract, abstract_batch(_of_length(run.data, ladder), self._mesh))

    def _check_at(self, ladder: Ladder) -> Check:
        check = jit_check(make_check(self._model, self._run, ladder, self._shards), self.abstract)
        batch = abstract_batch(_of_length(self._run.data, ladder), self._mesh)
        return self._compilers.program(check, self.abstract, batch)

    def _evaluator_at(self, ladder: Ladder) -> Evaluator:
        run = self._run
        evaluator = make_evaluator(self._model, ladder, run.evaluation.seed)
        batch = abstract_eval_batch(_of_length(run.data, ladder), self._mesh)
        programs = {
            deletion: self._compilers.program(evaluator, self.abstract.params, batch, deletion)
            for deletion in deletions_for(run.model, run.evaluation.deletions)
        }
        return lambda params, batch, deletion: programs[deletion](params, batch)


def evaluation_ladders(run: RunConfig) -> dict[int, Ladder]:
    """Returns the ladders that a run evaluates at, by input length."""
    return _ladders(run, "in_graph")


def training_ladders(run: RunConfig) -> dict[int, Ladder]:
    """Returns the ladders that steps delete at, by input length: under a capacity its slots are the only rung."""
    if slots := slots_of(run):
        return {length: Ladder((slots[length],), length) for length in input_lengths(run.data)}
    return _ladders(run, run.execution.dispatch)


def _ladders(run: RunConfig, dispatch: Dispatch) -> dict[int, Ladder]:
    cost = body_multiply_adds(run.model, run.data.target_length)
    lengths = input_lengths(run.data)
    return make_ladders(lengths, run.execution, jax.default_backend(), body_cost=cost, dispatch=dispatch)


def _of_length(data: DataConfig, ladder: Ladder) -> DataConfig:
    """The data of one of a run's input lengths."""
    return dataclasses.replace(data, input_length=ladder.full_length)


def deletions_of(training: TrainingConfig) -> set[TrainingDeletion]:
    """Returns all that steps may delete by."""
    deletions: set[TrainingDeletion] = {training.deletion}
    if training.hard_probability > 0:
        deletions.add(MIXED_IN)
    if (stand_in := DELETIONS[training.deletion].stand_in) is not None:
        deletions.add(stand_in)
    return deletions


def deletion_of_step(training: TrainingConfig, step: int, saturated: bool = True) -> TrainingDeletion:
    """Returns `training.deletion` or, with probability `training.hard_probability`, hard: it follows from (seed, step).

    Args:
        saturated: whether the monitor lets saturated deletion go on; if not, its stand-in takes its place.
    """
    if np.random.default_rng((training.seed, step)).random() < training.hard_probability:
        return MIXED_IN
    stand_in = None if saturated else DELETIONS[training.deletion].stand_in
    return stand_in or training.deletion
