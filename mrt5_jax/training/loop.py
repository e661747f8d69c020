"""The training loop: from a configuration to a MODEL_DIR, and on from where a MODEL_DIR stopped."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.compaction.ladder import ByLength, Ladder, make_ladders
from mrt5_jax.config import DataConfig, RunConfig, TrainingConfig, TrainingDeletion
from mrt5_jax.data.arrangements import Batch, input_lengths
from mrt5_jax.data.batches import check_evaluation, eval_batches, train_batches
from mrt5_jax.data.prefetch import Prefetched
from mrt5_jax.data.source_files import describe_files
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import Preempted, UserError
from mrt5_jax.evaluation.evaluate import collect_records, deletions_for
from mrt5_jax.evaluation.programs import Evaluator, make_evaluator
from mrt5_jax.evaluation.records import of_deletion, soft_hard_gap, summarize
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params
from mrt5_jax.model.precision import check_precision
from mrt5_jax.objectives.controller import ControllerState
from mrt5_jax.parallel.batches import (
    abstract_batch,
    abstract_eval_batch,
    check_batch_size,
    check_parts,
    put_batch,
    put_whole_batch,
    row_share,
)
from mrt5_jax.parallel.mesh import make_mesh, on_mesh, row_shards
from mrt5_jax.parallel.preemption import PreemptionNotice
from mrt5_jax.parallel.processes import from_first_process, say
from mrt5_jax.runs.beginning import check_beginning
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.runs.files import given_path
from mrt5_jax.runs.lock import run_lock
from mrt5_jax.runs.run_files import check_claim, claim, slots_of, under_saved_names
from mrt5_jax.selection.deletions import DELETIONS, MEASURE_OF_BEST, MIXED_IN
from mrt5_jax.training.clock import Clock, count_bytes
from mrt5_jax.training.compiling import Compilers
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.monitor import Check, is_due, make_check, monitor_metrics, switch_line
from mrt5_jax.training.outcomes import Outcomes
from mrt5_jax.training.profiling import StepTrace
from mrt5_jax.training.progress import ProgressDisplay
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import abstract_state, jit_check, jit_init, jit_step
from mrt5_jax.training.step import TrainStep, make_state, make_train_step
from mrt5_jax.training.warm_start import warm_start
from mrt5_jax.training.writers import Writers, open_writers


class Trained(NamedTuple):
    state: TrainState
    model_dir: str


def train(
    run: RunConfig,
    config_text: str = "",
    accepted: Callable[[], None] = lambda: None,
    *,
    start_over: bool = False,
) -> Trained:
    """Trains to `run.training.num_steps`, going on from the newest checkpoint in MODEL_DIR if there is one.

    Args:
        config_text: gin text that resolves to `run`; kept as MODEL_DIR/config.gin.
        accepted: called in the first process once devices, data and MODEL_DIR fit the run.
        start_over: where no checkpoint is whole any more, set aside what is left and begin at step 0.

    Raises:
        UserError: the devices, the data, or what lies in MODEL_DIR do not fit the run; or the loss is not finite, or
            too many steps in a row are refused since their gradients are not.
        Preempted: the run was asked to stop, and has saved its state.
    """
    check_precision(run.model)
    run = under_saved_names(dataclasses.replace(run, model_dir=given_path(run.model_dir)))
    mesh = make_mesh(run.execution.mesh)
    check_batch_size(run.data.batch_size, mesh, "batch_size")
    check_batch_size(run.data.eval_batch_size, mesh, "eval_batch_size")
    model = MrT5(run.model, run.execution)
    backend, lengths = jax.default_backend(), input_lengths(run.data)
    ladders, slots = make_ladders(lengths, run.execution, backend), slots_of(run)
    train_ladders = {length: Ladder((slots[length],), length) for length in lengths} if slots else ladders
    shards = row_shards(mesh)
    check_parts(run, mesh)
    learning = make_learning(run)
    seed = run.training.seed
    share = row_share(mesh)
    bound = _examples_bound(run, train_ladders)
    own = train_batches(run.data, seed=seed, shard_index=share.index, num_shards=share.count, **bound)
    batches = Prefetched(own, lambda rows: _Placed(rows, put_batch(rows, mesh)))
    check_evaluation(run.data)
    key = jax.random.key(seed)

    def new_state(key: Array) -> TrainState:
        return make_state(model, run, learning, key)

    # In this order, so that nothing is touched in a MODEL_DIR that is another run's.
    with ExitStack() as opened:
        opened.enter_context(_own(run, own.files, start_over))
        if jax.process_index() == 0:
            accepted()
        opened.enter_context(on_mesh(mesh, run.execution.mesh))
        checkpoints = opened.enter_context(Checkpoints(run.model_dir, run.checkpoints, seed, start_over=start_over))
        compilers = opened.enter_context(Compilers())
        abstract = abstract_state(new_state, mesh, key)

        def initialize() -> TrainState:
            return compilers.program(jit_init(new_state, abstract), key)(key)

        def step_under(deletion: TrainingDeletion, ladder: Ladder) -> TrainStep:
            under = _under(run, deletion)
            if run.execution.dispatch == "host":
                return HostTrainStep(model, under, learning, ladder, abstract)
            step = jit_step(make_train_step(model, under, learning, ladder, shards), abstract)
            if deletion == DELETIONS[run.training.deletion].stand_in:
                return step  # compiled if the monitor ever asks for it
            return compilers.program(step, abstract, abstract_batch(_of_length(run.data, ladder), mesh))

        def check_at(ladder: Ladder) -> Check:
            check = jit_check(make_check(model, run, ladder, shards), abstract)
            return compilers.program(check, abstract, abstract_batch(_of_length(run.data, ladder), mesh))

        def evaluator_at(ladder: Ladder) -> Evaluator:
            evaluator = make_evaluator(model, ladder, run.evaluation.seed)
            batch = abstract_eval_batch(_of_length(run.data, ladder), mesh)
            programs = {
                deletion: compilers.program(evaluator, abstract.params, batch, deletion)
                for deletion in deletions_for(run.model, run.evaluation.deletions)
            }
            return lambda params, batch, deletion: programs[deletion](params, batch)

        # In the order in which they are needed, as far as that is known.
        check = ByLength(train_ladders if abstract.monitor is not None else {}, check_at)
        first = deletion_of_step(run.training, (checkpoints.latest_step or 0) + 1)
        steps: dict[TrainingDeletion, ByLength] = {
            deletion: ByLength(train_ladders, functools.partial(step_under, deletion))
            for deletion in sorted(deletions_of(run.training), key=lambda deletion: (deletion != first, deletion))
        }
        evaluation = _Evaluation(run, mesh, ByLength(ladders, evaluator_at))
        restored = checkpoints.restore_or_init(abstract, initialize)
        if restored.data_state is not None:
            batches.restore(restored.data_state)
        elif run.warm_start is not None:
            restored = dataclasses.replace(restored, state=_warm(restored.state, run.warm_start))
        _in_first_process(lambda: claim(run, config_text, own.files))
        display = ProgressDisplay(run.training.num_steps, restored.step or 0)
        writers = opened.enter_context(open_writers(run.model_dir, restored.step, [display]))
        notice = opened.enter_context(PreemptionNotice())
        clock = opened.enter_context(Clock(run, mesh, share.count))
        if run.execution.dispatch == "host" and int(restored.state.step) < run.training.num_steps:
            for step in steps.values():
                _prepare(step, run, mesh)
        trace = opened.enter_context(StepTrace(run.model_dir, run.training.profile_steps))
        loop = _Loop(run, batches, writers, checkpoints, evaluation, notice, clock, trace, check)
        state = loop.go(steps, restored.state)
    return Trained(state, run.model_dir)


def _examples_bound(run: RunConfig, ladders: Mapping[int, Ladder]) -> dict[str, int]:
    """The most examples of a packed row: under a capacity as many as it has slots, so that each can have one."""
    if run.data.rows != "packed" or run.compaction.capacity is None:
        return {}
    return {"most_examples": ladders[run.data.input_length].rungs[-1]}


def deletions_of(training: TrainingConfig) -> set[TrainingDeletion]:
    """All that steps may delete by."""
    deletions: set[TrainingDeletion] = {training.deletion}
    if training.hard_probability > 0:
        deletions.add(MIXED_IN)
    if (stand_in := DELETIONS[training.deletion].stand_in) is not None:
        deletions.add(stand_in)
    return deletions


def deletion_of_step(training: TrainingConfig, step: int, saturated: bool = True) -> TrainingDeletion:
    """`training.deletion` or, with probability `training.hard_probability`, hard: a function of (seed, step) alone.

    Args:
        saturated: whether the monitor lets saturated deletion go on; if not, its stand-in takes its place.
    """
    if np.random.default_rng((training.seed, step)).random() < training.hard_probability:
        return MIXED_IN
    stand_in = None if saturated else DELETIONS[training.deletion].stand_in
    return stand_in or training.deletion


def _prepare(step: ByLength, run: RunConfig, mesh: Mesh) -> None:
    """Compiles the programs of all input lengths, so that no later step waits for a compiler."""
    for length, program in step.programs.items():
        program.prepare(abstract_batch(dataclasses.replace(run.data, input_length=length), mesh))


def _of_length(data: DataConfig, ladder: Ladder) -> DataConfig:
    """The data of one of a run's input lengths."""
    return dataclasses.replace(data, input_length=ladder.full_length)


def _under(run: RunConfig, deletion: TrainingDeletion) -> RunConfig:
    return dataclasses.replace(run, training=dataclasses.replace(run.training, deletion=deletion))


@contextmanager
def _own(run: RunConfig, files: Sequence[SourceFile], start_over: bool) -> Iterator[None]:
    """MODEL_DIR is this run's while the context lasts. What it says of the run is written when nothing is refused.

    Raises:
        UserError: it is another run's; in all processes, so that none waits for one that has left.
    """
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(run_lock(run.model_dir))
            before = check_claim(run, files)
            check_beginning(run.model_dir, before, start_over=start_over)
            for line in describe_files(files):
                say(line)

        _in_first_process(begin)
        yield


def _in_first_process(act: Callable[[], None]) -> None:
    """Acts in the first process; what it refuses is refused in all, so that none waits for one that has left."""
    problem = ""
    if jax.process_index() == 0:
        try:
            act()
        except UserError as error:
            problem = str(error)
    if problem := from_first_process(problem):
        raise UserError(problem)


def _warm(state: TrainState, model_dir: str) -> TrainState:
    """The state with the parameters of another MODEL_DIR, as far as they fit; prints what came from where."""
    warm = warm_start(state.params, model_dir)
    say(warm.table())
    return state._replace(params=warm.params)


class _Evaluation:
    """The evaluations of a training run: every evaluation task under every deletion of the configuration."""

    def __init__(self, run: RunConfig, mesh: Mesh, evaluator: Evaluator) -> None:
        self._run, self._mesh, self._evaluator = run, mesh, evaluator
        self._deletions = deletions_for(run.model, run.evaluation.deletions)

    def __call__(self, params: Params) -> dict[str, float]:
        """Metrics named eval/TASK/DELETION/METRIC, and the gap between hard and soft deletion's losses."""
        data = self._run.data
        num_examples = self._run.training.eval_batches * data.eval_batch_size
        metrics = {}
        for task in data.eval_tasks:
            batches = eval_batches(task, data, split="validation", num_examples=num_examples)
            records = collect_records(
                self._evaluator, params, batches, self._deletions, lambda batch: put_whole_batch(batch, self._mesh)
            )
            for deletion in self._deletions:
                summary = summarize(of_deletion(records, deletion))
                metrics |= {f"eval/{task}/{deletion}/{name}": value for name, value in summary.items()}
            if (gap := soft_hard_gap(records)) is not None:
                metrics[f"eval/{task}/soft_hard_gap"] = gap
        return metrics


class _Loop:
    """Steps, reports, evaluations and checkpoints, each in its rhythm."""

    def __init__(
        self,
        run: RunConfig,
        batches: Prefetched,
        writers: Writers,
        checkpoints: Checkpoints,
        evaluation: _Evaluation,
        notice: PreemptionNotice,
        clock: Clock,
        trace: StepTrace,
        check: Check,
    ) -> None:
        self._run, self._batches = run, batches
        self._writers, self._checkpoints, self._evaluation = writers, checkpoints, evaluation
        self._notice, self._clock, self._trace, self._check = notice, clock, trace, check
        self._outcomes = Outcomes(run, batches, writers, checkpoints)

    def go(self, steps: dict[TrainingDeletion, ByLength], state: TrainState) -> TrainState:
        training, every = self._run.training, self._run.checkpoints.every
        first = int(state.step)
        saturated = state.monitor is None or bool(state.monitor.saturated)
        batch = None if first >= training.num_steps else self._next_batch()
        for step in range(first + 1, training.num_steps + 1):
            assert batch is not None
            self._trace.before(step)
            if state.monitor is not None and is_due(self._run.monitor, step):
                checked = self._check(state, batch.arrays)
                state = checked.state
                assert state.monitor is not None
                if saturated != bool(state.monitor.saturated):
                    saturated = not saturated
                    say(switch_line(self._run.monitor, step, checked))
            state, metrics = steps[deletion_of_step(training, step, saturated)](state, batch.arrays)
            self._trace.after(step, metrics)
            input_length = batch.arrays["encoder_input_tokens"].shape[1]
            self._clock.step(metrics, batch.num_bytes, input_length)
            self._outcomes.add(metrics, batch.data_state)
            data_state = self._batches.state()
            last = step == training.num_steps
            evaluating = last or step % training.eval_every == 0
            stopping = not last and self._notice.reached(step)
            saving = last or stopping or step % every == 0
            if not last:
                batch = self._next_batch()  # while the devices are busy
            reporting = last or step % self._run.execution.log_every == 0
            if reporting or step == first + 1 or evaluating or saving:
                self._outcomes.read(step, reporting)
            if reporting:
                self._writers.write(
                    step, metrics | _controller_terms(state) | monitor_metrics(state), self._clock.lap()
                )
            hard_loss = self._evaluate(step, state.params) if evaluating else None
            if saving:
                self._writers.flush()
                self._checkpoints.save(state, data_state, hard_loss)
            if stopping:
                self._checkpoints.wait()
                raise Preempted(
                    f"asked to stop: {self._run.model_dir} is saved at step {step}; start it again to go on"
                )
        return state

    def _next_batch(self) -> "_TrainBatch":
        start = time.perf_counter()
        before = self._batches.state()
        rows, arrays = next(self._batches)
        self._clock.waited(time.perf_counter() - start)
        return _TrainBatch(arrays, count_bytes(rows), before)

    def _evaluate(self, step: int, params: Params) -> float | None:
        """Reports an evaluation; returns the mean loss over the tasks under hard deletion."""
        start = time.perf_counter()
        metrics = self._evaluation(params)
        seconds = time.perf_counter() - start
        self._clock.pause(seconds)
        self._writers.write(step, metrics, {"evaluation_seconds": seconds})
        losses = [value for name, value in metrics.items() if name.endswith(f"/{MEASURE_OF_BEST}/loss")]
        return math.fsum(losses) / len(losses) if losses else None


class _Placed(NamedTuple):
    """A batch that lies ready."""

    rows: Batch
    """This process's."""
    arrays: dict[str, Array]


class _TrainBatch(NamedTuple):
    arrays: dict[str, Array]
    num_bytes: int
    """In this process's rows."""
    data_state: dict[str, Any]
    """Where the data stood before it was read."""


def _controller_terms(state: TrainState) -> dict[str, Array]:
    """What alpha is made of, after the step; alpha itself is reported as the step used it."""
    if not isinstance(state.controller, ControllerState):
        return {}
    return {
        "controller_proportional": state.controller.proportional,
        "controller_integral": state.controller.integral,
    }
