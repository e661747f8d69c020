"""What a run of training compiles: initialization, a step for each deletion, the monitor's check, evaluations."""

import dataclasses
from collections.abc import Mapping

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.compaction.ladder import ByLength, Ladder, make_ladders
from mrt5_jax.config import DataConfig, Dispatch, RunConfig, TrainingDeletion
from mrt5_jax.data.arrangements import input_lengths
from mrt5_jax.evaluation.evaluate import deletions_for
from mrt5_jax.evaluation.programs import BatchByBatch, EvaluationProgram, evaluation_program
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.parallel.batches import abstract_batch, abstract_eval_batch
from mrt5_jax.parallel.mesh import row_shards
from mrt5_jax.runs.run_files import slots_of
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.compiling import Compilers
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.monitor import Check, make_check
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, jit_check, jit_init, jit_step
from mrt5_jax.training.step import Learning, TrainStep, make_state, make_train_step, under


class RunPrograms:
    """The programs of a run, each compiled by the time it is called; to be made and used on the run's mesh.

    They are made in the order in which they are needed, as far as that is known: `Compilers` starts them in it.

    Args:
        ladders: `training_ladders` of the run.
        first_step: the step that comes first; the program of its deletion is made before the others.
        num_features: of rows that are dealt; 0 where they are not.
    """

    def __init__(
        self,
        run: RunConfig,
        mesh: Mesh,
        learning: Learning,
        ladders: Mapping[int, Ladder],
        compilers: Compilers,
        first_step: int,
        num_features: int = 0,
    ) -> None:
        self._run, self._mesh, self._learning, self._compilers = run, mesh, learning, compilers
        self._num_features = num_features
        self._model, self._shards = MrT5(run.model, run.execution), row_shards(mesh)
        self._key = jax.random.key(run.training.seed)
        self.abstract = abstract_state(self._new_state, mesh, self._key)
        """Shapes, types and shardings of the state."""
        deletions = step_deletions(run)
        self.check = ByLength(ladders if self.abstract.monitor is not None else {}, self._check_at)
        """The monitor's check; has no programs in a run without a monitor."""
        self._ladders, self._steps = ladders, dict[tuple[TrainingDeletion, int, int], TrainStep]()
        if run.execution.dispatch == "in_graph":
            first = deletions.of_step(first_step, preferred=not deletions.if_it_saves)
            for deletion in sorted(deletions.begins_with, key=lambda deletion: (deletion != first, deletion)):
                for length, ladder in ladders.items():
                    step = self.step(deletion, fixed_chunks(run.execution), length)
                    batch = self._batch(ladder)
                    ahead = compilers.program(step, self.abstract, batch)
                    self._steps[deletion, fixed_chunks(run.execution), length] = ahead
        self.evaluator = BatchByBatch(ByLength(evaluation_ladders(run), self._evaluation_at))

    def initialize(self) -> TrainState:
        """Makes the state before the first step."""
        return self._compilers.program(jit_init(self._new_state, self.abstract), self._key)(self._key)

    def step(self, deletion: TrainingDeletion, num_chunks: int, length: int) -> TrainStep:
        """Returns the step under a deletion, in so many chunks, for batches of an input length.

        A program that the run did not begin with is compiled when it is called; afterwards it stays.
        """
        key = deletion, num_chunks, length
        if key not in self._steps:
            run, ladder = under(self._run, deletion, num_chunks), self._ladders[length]
            if run.execution.dispatch == "host":
                self._steps[key] = HostTrainStep(self._model, run, self._learning, ladder, self.abstract)
            else:
                step = make_train_step(self._model, run, self._learning, ladder, self._shards)
                self._steps[key] = jit_step(step, self.abstract)
        return self._steps[key]

    def prepare_steps(self, choices: Choices) -> None:
        """Compiles all of the host's programs that may be chosen, so that no later step waits for a compiler."""
        for length, ladder in self._ladders.items():
            batch = self._batch(ladder)
            for deletion in step_deletions(self._run).all:
                for num_chunks in choices.possible_chunks(deletion, length):
                    program = self.step(deletion, num_chunks, length)
                    assert isinstance(program, HostTrainStep)
                    program.prepare(batch)

    def _new_state(self, key: Array) -> TrainState:
        return make_state(self._model, self._run, self._learning, key)

    def _check_at(self, ladder: Ladder) -> Check:
        deletions = step_deletions(self._run)
        run = under(self._run, deletions.preferred, fixed_chunks(self._run.execution))
        check = jit_check(make_check(self._model, run, ladder, self._shards), self.abstract)
        if deletions.if_it_saves:
            return check  # compiled if it ever saves
        return self._compilers.program(check, self.abstract, self._batch(ladder))

    def _batch(self, ladder: Ladder) -> dict[str, jax.ShapeDtypeStruct]:
        """A training batch of the ladder's input length."""
        run = self._run
        return abstract_batch(_of_length(run.data, ladder), self._mesh, self._num_features, run.controller)

    def _evaluation_at(self, ladder: Ladder) -> EvaluationProgram:
        run = self._run
        evaluation = evaluation_program(self._model, ladder, run.evaluation.seed)
        batch = abstract_eval_batch(_of_length(run.data, ladder), self._mesh)
        programs = {
            deletion: self._compilers.program(evaluation, self.abstract.params, batch, deletion)
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
