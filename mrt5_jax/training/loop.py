"""The training loop: from a configuration to a MODEL_DIR, and on from where a MODEL_DIR stopped."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import jax
from jaxtyping import Array

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import RunConfig
from mrt5_jax.data.arrangements import Batch
from mrt5_jax.data.batches import check_evaluation, train_batches
from mrt5_jax.data.expectation import EXPECTATION, Expectation
from mrt5_jax.data.prefetch import Prefetched
from mrt5_jax.data.source_files import describe_files
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import HookError, Preempted
from mrt5_jax.model.precision import check_precision
from mrt5_jax.parallel.batches import check_batch_size, check_parts, put_batch, row_share
from mrt5_jax.parallel.mesh import make_mesh, on_mesh
from mrt5_jax.parallel.preemption import PreemptionNotice
from mrt5_jax.parallel.processes import in_first_process, say
from mrt5_jax.runs.beginning import check_beginning
from mrt5_jax.runs.checkpoints import Checkpoints, DataState
from mrt5_jax.runs.files import given_path
from mrt5_jax.runs.lock import run_lock
from mrt5_jax.runs.run_files import check_claim, claim, under_saved_names, with_saved_choices
from mrt5_jax.selection.held_targets import with_held_target
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.clock import Clock, count_bytes
from mrt5_jax.training.compiling import Compilers
from mrt5_jax.training.dealing import dealing_line, dealing_of
from mrt5_jax.training.event_files import TensorBoardWriter
from mrt5_jax.training.first_batches import check_first_batches
from mrt5_jax.training.hooks import Evaluate, Hook, Moment, Monitor, Report, Save, UsersHook, check_hooks
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.outcomes import Outcomes
from mrt5_jax.training.profiling import StepTrace
from mrt5_jax.training.programs import RunPrograms, training_ladders
from mrt5_jax.training.progress import ProgressDisplay
from mrt5_jax.training.saving_hint import SavingHint
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.steering import row_controllers
from mrt5_jax.training.step import TrainStep
from mrt5_jax.training.unreached import UnreachedTarget
from mrt5_jax.training.warm_start import warm_start
from mrt5_jax.training.writers import JsonLinesWriter, Writer, Writers


@dataclasses.dataclass(frozen=True)
class PlacedBatch:
    """A batch that lies ready for a step."""

    rows: Batch
    """The rows that this process has read."""
    arrays: dict[str, Array]
    """All rows, on the devices."""


def train(
    run: RunConfig,
    config_text: str = "",
    *,
    writers: Sequence[Writer] | None = None,
    hooks: Sequence[Hook] = (),
    accepted: Callable[[], None] = lambda: None,
    start_over: bool = False,
) -> TrainState:
    """Trains to `run.training.num_steps`, going on from the newest checkpoint in MODEL_DIR if there is one.

    Args:
        config_text: gin text that resolves to `run`; kept as MODEL_DIR/config.gin.
        writers: what takes the numbers beside metrics.jsonl and timing.jsonl, in the first process; None: TensorBoard's
            events and the progress display.
        hooks: what happens after the run's own reports, evaluations and checkpoints; see `Hook`.
        accepted: called in the first process once devices, data and MODEL_DIR fit the run.
        start_over: where no checkpoint is whole any more, set aside what is left and begin at step 0.

    Returns:
        The state after the last step, which is also saved.

    Raises:
        UserError: the devices, the data, or what lies in MODEL_DIR do not fit the run; or the loss is not finite, or
            too many steps in a row are refused since their gradients are not.
        Preempted: the run was asked to stop, and has saved its state.
        HookError: one of `hooks` has raised; the run has saved its state first.

    Examples:
        >>> train(run, hooks=[Every(100, lambda moment: print(moment.step))])  # doctest: +SKIP
    """
    check_hooks(hooks)
    check_precision(run.model)
    run = with_held_target(run)
    run = with_saved_choices(under_saved_names(dataclasses.replace(run, model_dir=given_path(run.model_dir))))
    mesh = make_mesh(run.execution.mesh)
    check_batch_size(run.data.batch_size, mesh, "batch_size")
    check_batch_size(run.data.eval_batch_size, mesh, "eval_batch_size")
    ladders = training_ladders(run)
    check_parts(run, mesh)
    learning = make_learning(run)
    seed = run.training.seed
    share, dealing = row_share(mesh), dealing_of(run, mesh, ladders)
    bound = _examples_bound(run, ladders)
    own = train_batches(run.data, seed=seed, shard_index=share.index, num_shards=share.count, dealing=dealing, **bound)
    with_controllers = row_controllers(run, own.languages)
    batches = Prefetched(own, lambda rows: PlacedBatch(rows, put_batch(with_controllers(rows), mesh)))
    check_evaluation(run.data)
    check_first_batches(run, own)

    # In this order, so that nothing is touched in a MODEL_DIR that is another run's.
    with ExitStack() as opened:
        opened.enter_context(_owned(run, own.files, start_over))
        if jax.process_index() == 0:
            accepted()
        opened.enter_context(on_mesh(mesh, run.execution.mesh))
        checkpoints = opened.enter_context(Checkpoints(run.model_dir, run.checkpoints, seed, start_over=start_over))
        compilers = opened.enter_context(Compilers())
        first_step = (checkpoints.latest_step or 0) + 1
        expectation = dealing and dealing.expectation
        num_features = len(expectation.features) if expectation else 0
        programs = RunPrograms(run, mesh, learning, ladders, compilers, first_step, num_features)
        restored = checkpoints.restore_or_init(programs.abstract, programs.initialize)
        state = restored.state
        if restored.data_state is not None:
            batches.restore(restored.data_state)
            if expectation is not None and (line := expectation.restore(restored.data_state.get(EXPECTATION))):
                say(line)
        elif run.warm_start is not None:
            state = _warm(state, run.warm_start)
        in_first_process(lambda: claim(run, config_text, own.files))
        all_writers = opened.enter_context(open_writers(run, restored.step, writers))
        if dealing is not None:
            say(dealing_line(dealing, own))
        notice = opened.enter_context(PreemptionNotice())
        clock = opened.enter_context(Clock(run, mesh, share.count))
        choices = Choices(run, mesh, ladders, state, expectation)
        if run.execution.dispatch == "host" and int(state.step) < run.training.num_steps:
            programs.prepare_steps(choices)
        monitor = Monitor(run.monitor, programs.check, state, lambda: choices.removes_anywhere)
        evaluate = Evaluate(run, mesh, programs.evaluator, clock)
        save = Save(run.checkpoints.every, checkpoints, all_writers, clock, evaluate.hard_loss, expectation)
        trace = StepTrace(run.model_dir, run.training.profile_steps)
        hint = SavingHint(run, choices, lambda: monitor.saturated)
        unreached = UnreachedTarget(run)
        own_hooks = [monitor, choices, trace, Report(run, clock), hint, unreached, evaluate, save]
        in_order = [*own_hooks, *map(UsersHook, hooks)]
        for hook in in_order:
            opened.callback(hook.close)

        deletions = step_deletions(run)

        def step_of(step: int, length: int) -> TrainStep:
            deletion = deletions.of_step(step, monitor.saturated and choices.removes(length))
            return programs.step(deletion, choices.num_chunks(deletion, length), length)

        outcomes = Outcomes(run, batches, all_writers, checkpoints)
        loop = _Loop(run, batches, all_writers, checkpoints, notice, clock, outcomes, save, in_order, expectation)
        return loop.go(step_of, state)


def open_writers(run: RunConfig, step: int | None, others: Sequence[Writer] | None) -> Writers:
    """Opens the writers of a run that begins, or goes on, at `step`; of several processes only the first writes.

    Args:
        step: of the checkpoint that was restored, None where training begins; what the files have beyond it is cut.
        others: see `train`.
    """
    if jax.process_index() != 0:
        return Writers(())
    lines = JsonLinesWriter(run.model_dir, step)
    if others is None:
        others = TensorBoardWriter(run.model_dir), ProgressDisplay(run.training.num_steps, step or 0)
    return Writers((lines, *others))


def _examples_bound(run: RunConfig, ladders: Mapping[int, Ladder]) -> dict[str, int]:
    """The most examples of a packed row: under a capacity as many as it has slots, so that each can have one."""
    if run.data.rows != "packed" or run.compaction.capacity is None:
        return {}
    return {"most_examples": ladders[run.data.input_length].rungs[-1]}


@contextmanager
def _owned(run: RunConfig, files: Sequence[SourceFile], start_over: bool) -> Iterator[None]:
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

        in_first_process(begin)
        yield


def _warm(state: TrainState, model_dir: str) -> TrainState:
    """The state with the parameters of another MODEL_DIR, as far as they fit; prints what came from where."""
    warm = warm_start(state.params, model_dir)
    say(warm.table())
    return state._replace(params=warm.params)


class _Loop:
    """Makes the steps of a run, and calls its hooks around each."""

    def __init__(
        self,
        run: RunConfig,
        batches: Prefetched,
        writers: Writers,
        checkpoints: Checkpoints,
        notice: PreemptionNotice,
        clock: Clock,
        outcomes: Outcomes,
        save: Save,
        hooks: Sequence[Hook],
        expectation: Expectation | None,
    ) -> None:
        self._expectation = expectation
        self._run, self._batches, self._writers, self._checkpoints = run, batches, writers, checkpoints
        self._notice, self._clock, self._outcomes, self._save, self._hooks = notice, clock, outcomes, save, hooks

    def go(self, step_of: Callable[[int, int], TrainStep], state: TrainState) -> TrainState:
        """Makes the steps that are left; `step_of` is asked for each when its turn comes, and for which length."""
        num_steps, first = self._run.training.num_steps, int(state.step) + 1
        if first > num_steps:
            return state
        data_state, batch = self._next_batch()
        for step in range(first, num_steps + 1):
            with self._saved_if_a_hook_fails(step - 1, state, data_state):
                for hook in reversed(self._hooks):
                    state = hook.before(step, state, batch.arrays)
            input_length = batch.arrays["encoder_input_tokens"].shape[1]
            state, metrics, moments = step_of(step, input_length)(state, batch.arrays)
            if self._expectation is not None and moments is not None:
                self._expectation.add(moments)
            self._clock.step(metrics, count_bytes(batch.rows), input_length)
            self._outcomes.add(metrics, data_state)
            data_state = self._batches.state()
            last = step == num_steps
            stopping = not last and self._notice.reached(step)
            moment = Moment(step, last, stopping, state, metrics, batch.arrays, data_state, self._writers)
            if not last:
                data_state, batch = self._next_batch()  # while the devices are busy
            if step == first:
                self._outcomes.read(step)
            self._call_hooks(moment)
            if stopping:
                self._checkpoints.wait()
                raise Preempted(
                    f"asked to stop: {self._run.model_dir} is saved at step {step}; start it again to go on"
                )
        return state

    def _call_hooks(self, moment: Moment) -> None:
        with self._saved_if_a_hook_fails(moment.step, moment.state, moment.data_state):
            for hook in self._hooks:
                if hook.due(moment):
                    self._outcomes.read(moment.step)
                    hook(moment)

    @contextmanager
    def _saved_if_a_hook_fails(self, step: int, state: TrainState, data_state: DataState) -> Iterator[None]:
        """Saves the state after a step where a user's hook fails, before the run ends with that."""
        try:
            yield
        except HookError as failure:
            self._outcomes.read(step)
            self._save.save(step, state, data_state)
            self._checkpoints.wait()
            raise HookError(
                f"{failure}: {self._run.model_dir} is saved at step {step}; fix the hook and start the run again"
            ) from failure.__cause__

    def _next_batch(self) -> tuple[DataState, PlacedBatch]:
        """The next batch, and where the data stood before it was read."""
        start = time.perf_counter()
        before = self._batches.state()
        batch = next(self._batches)
        self._clock.waited(time.perf_counter() - start)
        return before, batch
