"""A user's hooks: when they are called, with what; and a run that saves before it ends with what one has raised."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from mrt5_jax.config import ExecutionConfig, RunConfig, TrainingConfig
from mrt5_jax.errors import HookError, UserError
from mrt5_jax.training.hooks import Every, Hook, Moment, check_hooks
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.writers import Writers

from .small_runs import checkpoints_of, make_run, metrics_of, pretended

pytestmark = pytest.mark.usefixtures("kept_programs")


class Failing(Hook):
    """Raises in one of its methods at a step."""

    def __init__(self, method: str, step: int) -> None:
        self.method, self.step = method, step

    def before(self, step: int, state: Any, batch: Any) -> Any:
        self.fail("before", step)
        return state

    def due(self, moment: Moment) -> bool:
        self.fail("due", moment.step)
        return True

    def __call__(self, moment: Moment) -> None:
        self.fail("call", moment.step)

    def close(self) -> None:
        raise ConnectionError("gone")

    def fail(self, method: str, step: int) -> None:
        if (method, step) == (self.method, self.step):
            raise ValueError("the tracker's host is away\nsecond line")


@pytest.fixture
def run(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Steps compute nothing, and the last one, which would be evaluated, is not reached."""
    pretended(monkeypatch)
    training = TrainingConfig(num_steps=100, eval_every=100)
    return make_run(tmp_path, task, training=training, execution=ExecutionConfig(max_rungs=1, log_every=1))


class EnoughError(BaseException):
    """Ends a run as a kill does."""


def end_at(step: int) -> Hook:
    def end(moment: Moment) -> None:
        raise EnoughError

    return Every(step, end)


@pytest.mark.parametrize(
    ("method", "step", "saved", "when"),
    [("call", 4, 4, "after step 4"), ("due", 4, 4, "after step 4"), ("before", 2, 1, "before step 2")],
)
def test_a_run_saves_before_it_ends_with_what_a_hook_raised(
    run: RunConfig, capsys: pytest.CaptureFixture[str], method: str, step: int, saved: int, when: str
) -> None:
    """One line names the hook, what it raised and where the run is saved; another what closing it has raised."""
    with pytest.raises(HookError) as failure:
        train(run, writers=(), hooks=[Failing(method, step)])
    blame = "the hook Failing raised ValueError (the tracker's host is away)"
    assert str(failure.value).startswith(f"{blame} {when}: {run.model_dir} is saved at step {saved}; ")
    assert "\n" not in str(failure.value)
    assert isinstance(failure.value.__cause__, ValueError)
    assert "the hook Failing failed when it was closed: ConnectionError (gone)" in capsys.readouterr().err
    assert max(checkpoints_of(run.model_dir)) == saved
    assert [line["step"] for line in metrics_of(run.model_dir)] == list(range(1, saved + 1))


def test_a_run_goes_on_where_a_hook_has_ended_it(run: RunConfig) -> None:
    """Before its first step too, where there is nothing to save."""
    steps: list[int] = []
    with pytest.raises(HookError, match=r"before step 1: .* is saved at step 0"):
        train(run, writers=(), hooks=[Failing("before", 1)])
    with pytest.raises(EnoughError):
        train(run, writers=(), hooks=[Every(1, lambda moment: steps.append(moment.step)), end_at(2)])
    assert steps == [1, 2]


def test_hooks_are_called_in_their_order_after_the_runs_own(run: RunConfig) -> None:
    """With the step's state and batch; before a step the other way round. What they report is written with the rest."""
    calls: list[tuple[str, int]] = []

    class Watching(Hook):
        def __init__(self, name: str, due: Callable[[int], bool]) -> None:
            self.name, self.steps = name, due

        def before(self, step: int, state: Any, batch: Any) -> Any:
            assert int(state.step) == step - 1
            calls.append((f"before {self.name}", step))
            return state

        def due(self, moment: Moment) -> bool:
            return self.steps(moment.step)

        def __call__(self, moment: Moment) -> None:
            assert int(moment.state.step) == moment.step
            assert moment.batch["encoder_input_tokens"].shape == (4, 8)
            assert moment.reported["total_loss"] == 1
            assert moment.reported["timing/seconds_per_step"] > 0
            moment.report({f"count_{self.name}": moment.step})
            calls.append((self.name, moment.step))

    hooks = [Watching("one", lambda step: True), Watching("two", lambda step: step == 2), end_at(2)]
    with pytest.raises(EnoughError):
        train(run, writers=(), hooks=hooks)
    before = ["before two", "before one"]
    assert calls == [(name, 1) for name in (*before, "one")] + [(name, 2) for name in (*before, "one", "two")]
    lines = metrics_of(run.model_dir)
    assert [(line["step"], line.get("count_one"), line.get("count_two")) for line in lines] == [
        (1, None, None),
        (1, 1, None),
        (2, None, None),
        (2, 2, None),
        (2, None, 2),
    ]


def test_a_hook_is_called_every_so_many_steps_and_after_the_last() -> None:
    def moment(step: int) -> Moment:
        state = TrainState(jnp.asarray(step), {}, (), ())
        return Moment(step, step == 8, False, state, {}, {}, {}, Writers(()))

    hook = Every(3, print)
    assert [step for step in range(1, 9) if hook.due(moment(step))] == [3, 6, 8]


def test_what_is_no_hook_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("is no Hook: subclass mrt5_jax.training.hooks.Hook, or give")):
        check_hooks([Hook(), print])
