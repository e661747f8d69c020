"""What a run says and does where its numbers are not finite, and where its monitor switches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import (
    ExecutionConfig,
    MonitorConfig,
    OptimizerConfig,
    TrainingConfig,
)
from mrt5_jax.data.batches import train_batches
from mrt5_jax.errors import UserError
from mrt5_jax.training import programs
from mrt5_jax.training.loop import train
from mrt5_jax.training.monitor import Check, Checked
from mrt5_jax.training.state import MonitorState, TrainState
from mrt5_jax.training.step import StepResult

from .small_runs import STEPS, checkpoints_of, make_run, metrics_of, pretended

pytestmark = pytest.mark.usefixtures("kept_programs")


def test_a_loss_that_is_not_finite_stops_training_before_it_is_saved(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the step, though it was not to be reported, and the checkpoint to go back to."""

    def pretend(*_: Any) -> Callable[[TrainState, Any], StepResult]:
        def step_function(state: TrainState, batch: Any) -> StepResult:
            step = state.step + 1
            return StepResult(state._replace(step=step), {"total_loss": jnp.where(step == 5, jnp.nan, 1.0)})

        return step_function

    monkeypatch.setattr(programs, "make_train_step", pretend)
    training = TrainingConfig(num_steps=STEPS, eval_every=100)
    with pytest.raises(
        UserError, match=r"loss of step 5 is not finite.* the last good checkpoint is that of step 3.*npz"
    ):
        train(make_run(tmp_path, task, training=training))
    batches = train_batches(make_run(tmp_path, task).data, seed=0)
    fifth = [next(batches) for _ in range(5)][-1]
    saved = np.load(tmp_path / "non_finite_batch_5.npz")
    assert set(saved) == set(fifth)
    assert all((saved[name] == rows).all() for name, rows in fifth.items())
    assert checkpoints_of(tmp_path) == {3}
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4]


def test_refused_steps_are_told_and_too_many_in_a_row_end_the_run(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its line of metrics, also where none was due; the run stops where a setting says, and counts anew when
    it is started again."""
    training = TrainingConfig(num_steps=STEPS, eval_every=100, max_refused_steps=2)
    run = make_run(tmp_path, task, training=training, execution=ExecutionConfig(max_rungs=1, log_every=5))
    pretended(monkeypatch, refused=(1, 3, 4))
    with pytest.raises(UserError, match=r"2 steps in a row, up to step 4, is finite.* that of step 3.*batch_4\.npz"):
        train(run)
    told = [line for line in capsys.readouterr().err.splitlines() if "the gradient is not finite" in line]
    assert [line.partition(":")[0] for line in told] == ["step 1", "step 3", "step 4"]
    assert ["2 in a row" in line for line in told] == [False, False, True]
    assert [(line["step"], line["refused"]) for line in metrics_of(tmp_path)] == [(1, 1), (3, 1), (4, 1)]
    assert checkpoints_of(tmp_path) == {3}
    pretended(monkeypatch, refused=(1, 3, 4), not_finite=(6,))
    with pytest.raises(UserError, match="loss of step 6 is not finite"):
        train(run)
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 3, 4, 5]


def test_the_monitor_says_once_that_it_switched(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both losses, either way; a resume in between says nothing."""

    def pretend(*_: Any) -> Check:
        def check(state: TrainState, batch: Any) -> Checked:
            on = (state.step < 2) | (state.step > 3)
            gap = jnp.where(on, 1e-7, 0.25).astype(jnp.float32)
            monitor = MonitorState(on, gap)
            return Checked(state._replace(monitor=monitor), 2 * (1 + gap), jnp.float32(2))

        return check

    monkeypatch.setattr(programs, "make_check", pretend)
    training = TrainingConfig(num_steps=STEPS, deletion="saturated", eval_every=100)
    execution = ExecutionConfig(max_rungs=1, log_every=1)
    run = make_run(tmp_path, task, training=training, execution=execution, monitor=MonitorConfig(interval=1))
    lines = []
    for last in (4, 6):
        pretended(monkeypatch, not_finite=(last,))
        with pytest.raises(UserError, match=f"loss of step {last}"):
            train(run)
        lines += [line for line in capsys.readouterr().err.splitlines() if "saturated" in line]
    assert len(lines) == 2
    assert lines[0] == (
        "step 3: saturated deletion's loss is 2.5, soft deletion's 2, a relative difference of 0.25, above the "
        "tolerance 0.0001: steps delete softly until it is at most 5e-05"
    )
    assert lines[1] == (
        "step 5: saturated deletion's loss is 2, soft deletion's 2, a relative difference of 1e-07, at most 5e-05: "
        "steps delete by saturation again"
    )


@pytest.mark.slow
def test_a_learning_rate_without_measure_is_stopped(tmp_path, task: str) -> None:
    """The real thing: parameters explode in the first step, and the second's loss says so."""
    with pytest.raises(UserError, match=r"loss of step [23] is not finite.*the last good checkpoint is none") as error:
        train(make_run(tmp_path, task, optimizer=OptimizerConfig(learning_rate=1e30)))
    assert "\n" not in str(error.value)
    assert checkpoints_of(tmp_path) == set()
