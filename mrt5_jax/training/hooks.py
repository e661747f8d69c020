"""What happens beside the steps of a run: hooks. Those of every run are here; a user gives others to `train`.

After a step the hooks are called in order: traces, reports, evaluations, checkpoints, then the user's. Before a step
they are called the other way round, so that the monitor of saturated deletion comes last, and a user's hook that fails
there leaves the state as the step before has made it.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.config import MonitorConfig, RunConfig
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.data.expectation import EXPECTATION, Expectation
from mrt5_jax.errors import HookError, UserError
from mrt5_jax.evaluation.evaluate import collect_records, deletions_for
from mrt5_jax.evaluation.programs import Evaluator
from mrt5_jax.evaluation.records import of_deletion, soft_hard_gap, summarize
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.batches import put_whole_batch
from mrt5_jax.parallel.processes import in_any_process, say
from mrt5_jax.runs.checkpoints import Checkpoints, DataState
from mrt5_jax.selection.deletions import MEASURE_OF_BEST
from mrt5_jax.training.clock import Clock
from mrt5_jax.training.monitor import Check, is_due, monitor_metrics, switch_line
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.steering import controller_terms
from mrt5_jax.training.step import Metrics
from mrt5_jax.training.writers import Scalars, Writers, on_host, with_timing


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where a run stands after a step.

    Examples:
        >>> hook = Every(100, lambda moment: print(moment.step, moment.reported.get("loss")))
    """

    step: int
    """How many steps were made, in all starts of the run together."""
    last: bool
    """Whether it was the last step of the run."""
    stopping: bool
    """Whether the run was asked to stop: it ends after this step, and goes on when it is started again."""
    state: TrainState
    """The state after the step. The next step takes over its memory: copy what shall outlive the hook's call."""
    metrics: Metrics
    """The step's metrics, still on the devices."""
    batch: Mapping[str, Array]
    """The step's batch."""
    data_state: DataState
    """Where the data stand after the step's batch."""
    writers: Writers
    """Where the run's numbers go."""
    reported: dict[str, int | float] = dataclasses.field(default_factory=dict)
    """What hooks have reported after this step so far, on the host; clocked numbers as timing/NAME."""

    def report(self, metrics: Scalars, timing: Scalars | None = None) -> None:
        """Writes numbers of this step into metrics.jsonl, timing.jsonl and wherever else the run's numbers go.

        Args:
            metrics: numbers that every run of this configuration computes alike.
            timing: numbers that are clocked.
        """
        computed, clocked = on_host(metrics), on_host(timing or {})
        self.writers.write(self.step, computed, clocked)
        self.reported.update(with_timing(computed, clocked))


class Hook:
    """Something that happens beside the steps of a run: subclass it, and override what you need.

    Of several processes each calls its own hooks. `due` has to say the same in all of them, since all have to take part
    wherever a hook computes with the state.

    Examples:
        >>> class Losses(Hook):
        ...     def due(self, moment):
        ...         return "loss" in moment.reported
        ...
        ...     def __call__(self, moment):
        ...         print(moment.step, moment.reported["loss"])
        >>> mrt5_jax.train(run, hooks=[Losses()])  # doctest: +SKIP
    """

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        """Is called before a step, the first being 1, with the step's batch; returns the state that it starts from."""
        return state

    def due(self, moment: Moment) -> bool:
        """Says whether the hook is to be called after a step.

        A run waits for its steps to be computed, and ends where one is not finite, before a hook is called: a hook that
        is due after every step costs speed.
        """
        return True

    def __call__(self, moment: Moment) -> None:
        """Is called after a step for which it is due."""

    def close(self) -> None:
        """Is called once when the run ends, however it ends."""


@dataclasses.dataclass(frozen=True)
class Every(Hook):
    """A hook that calls a function after every so many steps, and after the last one.

    Examples:
        >>> mrt5_jax.train(run, hooks=[Every(100, print_samples)])  # doctest: +SKIP
    """

    steps: int
    action: Callable[[Moment], None]

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return moment.last or moment.step % self.steps == 0

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        self.action(moment)


class Monitor(Hook):
    """Compares saturated with soft deletion before the steps for which that is due; see monitor.py.

    Args:
        wanted: whether steps are to delete by saturation, if the monitor lets them; nothing is compared otherwise.
    """

    def __init__(
        self, config: MonitorConfig, check: Check, state: TrainState, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Goes on from the state's findings; in a run without a monitor it does nothing."""
        self._config, self._check, self._wanted = config, check, wanted
        self.saturated = state.monitor is None or bool(state.monitor.saturated)
        """Whether steps may delete by saturation."""

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        """See `Hook`; says so when it switches."""
        if state.monitor is None or not is_due(self._config, step) or not self._wanted():
            return state
        checked = self._check(state, dict(batch))
        assert checked.state.monitor is not None
        if self.saturated != bool(checked.state.monitor.saturated):
            self.saturated = not self.saturated
            say(switch_line(self._config, step, checked))
        return checked.state

    def due(self, moment: Moment) -> bool:
        """Returns False: it acts before steps alone."""
        return False


class Report(Hook):
    """Reports a step's metrics, and the time since the last report, every `log_every` steps."""

    def __init__(self, run: RunConfig, clock: Clock) -> None:
        self._run, self._clock = run, clock

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return is_reported(self._run, moment.step)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        state, timing = moment.state, self._clock.lap()
        with self._clock.storing():
            terms = controller_terms(self._run, state.controller)
            moment.report(moment.metrics | terms | monitor_metrics(state), timing)


def is_reported(run: RunConfig, step: int) -> bool:
    """Says whether a step has its line of metrics, whatever happens in it."""
    return step == run.training.num_steps or step % run.execution.log_every == 0


class Evaluate(Hook):
    """Evaluates every task of the configuration under every deletion, every `eval_every` steps."""

    def __init__(self, run: RunConfig, mesh: Mesh, evaluator: Evaluator, clock: Clock) -> None:
        self._run, self._mesh, self._evaluator, self._clock = run, mesh, evaluator, clock
        self._deletions = deletions_for(run.model, run.evaluation.deletions)
        self._hard_losses: dict[int, float] = {}

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return moment.last or moment.step % self._run.training.eval_every == 0

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        start = time.perf_counter()
        metrics = self._evaluate(moment.state.params)
        seconds = time.perf_counter() - start
        self._clock.pause(seconds)
        moment.report(metrics, {"evaluation_seconds": seconds})
        losses = [value for name, value in metrics.items() if name.endswith(f"/{MEASURE_OF_BEST}/loss")]
        self._hard_losses = {moment.step: math.fsum(losses) / len(losses)} if losses else {}

    def hard_loss(self, step: int) -> float | None:
        """Returns the mean loss over the tasks under hard deletion; None where it was not measured after this step."""
        return self._hard_losses.get(step)

    def _evaluate(self, params: Params) -> dict[str, float]:
        """Metrics named eval/TASK/DELETION/METRIC, and the gap between hard and soft deletion's losses."""
        data = self._run.data
        num_examples = self._run.training.eval_batches * data.eval_batch_size
        model, metrics = self._run.model, {}
        body = None if model.gate is None else body_multiply_adds(model, data.target_length)
        for task in data.eval_tasks:
            batches = eval_batches(task, data, split="validation", num_examples=num_examples)
            records = collect_records(
                self._evaluator, params, batches, self._deletions, lambda batch: put_whole_batch(batch, self._mesh)
            )
            for deletion in self._deletions:
                summary = summarize(of_deletion(records, deletion), body)
                metrics |= {f"eval/{task}/{deletion}/{name}": value for name, value in summary.items()}
            if (gap := soft_hard_gap(records)) is not None:
                metrics[f"eval/{task}/soft_hard_gap"] = gap
        return metrics


class Save(Hook):
    """Saves a checkpoint every so many steps, and when the run ends or is asked to stop.

    Args:
        hard_loss: the loss under hard deletion that was measured after a step, if it was: the best are kept by it.
        expectation: by which rows are dealt; None where they are not.
    """

    def __init__(
        self,
        every: int,
        checkpoints: Checkpoints,
        writers: Writers,
        clock: Clock,
        hard_loss: Callable[[int], float | None],
        expectation: Expectation | None = None,
    ) -> None:
        self._expectation = expectation
        self._every, self._checkpoints, self._writers = every, checkpoints, writers
        self._clock, self._hard_loss = clock, hard_loss

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return moment.last or moment.stopping or moment.step % self._every == 0

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        self.save(moment.step, moment.state, moment.data_state)

    def save(self, step: int, state: TrainState, data_state: DataState) -> None:
        """Saves the state after a step, once what has been reported up to it cannot be lost."""
        with self._clock.storing():
            self._writers.flush()
            if self._expectation is not None:
                data_state = {**data_state, EXPECTATION: self._expectation.state()}
            self._checkpoints.save(state, data_state, self._hard_loss(step))


class UsersHook(Hook):
    """A user's hook, whose exceptions become HookErrors in all processes, so that none waits for one that has left."""

    def __init__(self, hook: Hook) -> None:
        self._hook, self._name = hook, type(hook).__name__
        self._acts_before = type(hook).before is not Hook.before
        self._trouble: Exception | None = None
        """What `due` has raised: told by the call that follows, in which all processes take part."""

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        """See `Hook`."""
        if not self._acts_before:
            return state
        problem = None
        try:
            state = self._hook.before(step, state, batch)
        except Exception as error:
            problem = error
        self._refuse(problem, f"before step {step}")
        return state

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        try:
            return self._hook.due(moment)
        except Exception as error:
            self._trouble = error
            return True

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        if self._trouble is None:
            try:
                self._hook(moment)
            except Exception as error:
                self._trouble = error
        self._refuse(self._trouble, f"after step {moment.step}")

    def close(self) -> None:
        """See `Hook`. What it raises is told in one line: the run has ended, and is saved or not as it is."""
        try:
            self._hook.close()
        except Exception as error:
            say(f"the hook {self._name} failed when it was closed: {_described(error)}")

    def _refuse(self, problem: Exception | None, when: str) -> None:
        if in_any_process(problem is not None):
            what = "failed in another process" if problem is None else f"raised {_described(problem)}"
            raise HookError(f"the hook {self._name} {what} {when}") from problem


def check_hooks(hooks: Sequence[Hook | Callable[[Moment], None]]) -> None:
    """Refuses what is no hook, such as a function that does not say when it is to be called.

    Raises:
        UserError: naming it, and how to make a hook of it.
    """
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise UserError(
                f"train(hooks=...): {hook!r} is no Hook: subclass mrt5_jax.training.hooks.Hook, or give a function as "
                "Every(100, function)"
            )


def _described(error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__} ({first_line})" if first_line else type(error).__name__
