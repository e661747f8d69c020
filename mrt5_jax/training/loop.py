"""The training loop: from a configuration to a MODEL_DIR, and on from where a MODEL_DIR stopped."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.compaction.ladder import ByLength, Ladder
from mrt5_jax.config import RunConfig, TrainingDeletion
from mrt5_jax.data.arrangements import Batch
from mrt5_jax.data.batches import check_evaluation, eval_batches, train_batches
from mrt5_jax.data.prefetch import Prefetched
from mrt5_jax.data.source_files import describe_files
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import Preempted, UserError
from mrt5_jax.evaluation.evaluate import collect_records, deletions_for
from mrt5_jax.evaluation.programs import Evaluator
from mrt5_jax.evaluation.records import of_deletion, soft_hard_gap, summarize
from mrt5_jax.model.parameters import Params
from mrt5_jax.model.precision import check_precision
from mrt5_jax.objectives.controller import ControllerState
from mrt5_jax.parallel.batches import (
    check_batch_size,
    check_parts,
    put_batch,
    put_whole_batch,
    row_share,
)
from mrt5_jax.parallel.mesh import make_mesh, on_mesh
from mrt5_jax.parallel.preemption import PreemptionNotice
from mrt5_jax.parallel.processes import from_first_process, say
from mrt5_jax.runs.beginning import check_beginning
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.runs.files import given_path
from mrt5_jax.runs.lock import run_lock
from mrt5_jax.runs.run_files import check_claim, claim, under_saved_names
from mrt5_jax.training.clock import Clock, count_bytes
from mrt5_jax.training.compiling import Compilers
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.monitor import Check, is_due, monitor_metrics, switch_line
from mrt5_jax.training.outcomes import Outcomes
from mrt5_jax.training.profiling import StepTrace
from mrt5_jax.training.programs import RunPrograms, deletion_of_step, training_ladders
from mrt5_jax.training.progress import ProgressDisplay
from mrt5_jax.training.state import TrainState
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
    ladders = training_ladders(run)
    check_parts(run, mesh)
    learning = make_learning(run)
    seed = run.training.seed
    share = row_share(mesh)
    bound = _examples_bound(run, ladders)
    own = train_batches(run.data, seed=seed, shard_index=share.index, num_shards=share.count, **bound)
    batches = Prefetched(own, lambda rows: _Placed(rows, put_batch(rows, mesh)))
    check_evaluation(run.data)
    # In this order, so that nothing is touched in a MODEL_DIR that is another run's.
    with ExitStack() as opened:
        opened.enter_context(_own(run, own.files, start_over))
        if jax.process_index() == 0:
            accepted()
        opened.enter_context(on_mesh(mesh, run.execution.mesh))
        checkpoints = opened.enter_context(Checkpoints(run.model_dir, run.checkpoints, seed, start_over=start_over))
        compilers = opened.enter_context(Compilers())
        first_step = (checkpoints.latest_step or 0) + 1
        programs = RunPrograms(run, mesh, learning, ladders, compilers, first_step)
        evaluation = _Evaluation(run, mesh, programs.evaluator)
        restored = checkpoints.restore_or_init(programs.abstract, programs.initialize)
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
            programs.prepare_steps()
        trace = opened.enter_context(StepTrace(run.model_dir, run.training.profile_steps))
        loop = _Loop(run, batches, writers, checkpoints, evaluation, notice, clock, trace, programs.check)
        state = loop.go(programs.steps, restored.state)
    return Trained(state, run.model_dir)


def _examples_bound(run: RunConfig, ladders: Mapping[int, Ladder]) -> dict[str, int]:
    """The most examples of a packed row: under a capacity as many as it has slots, so that each can have one."""
    if run.data.rows != "packed" or run.compaction.capacity is None:
        return {}
    return {"most_examples": ladders[run.data.input_length].rungs[-1]}


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
        losses = [value for name, value in metrics.items() if name.endswith("/hard/loss")]
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
