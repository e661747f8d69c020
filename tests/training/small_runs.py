"""A small run of training, and what it leaves in its MODEL_DIR."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import (
    CheckpointConfig,
    ControllerConfig,
    DataConfig,
    ExecutionConfig,
    GateConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.training import programs
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import StepResult

STEPS, EVERY = 6, 3


class Trained(NamedTuple):
    """What a run has ended with."""

    state: TrainState
    model_dir: str


def trained(run: RunConfig, **how: Any) -> Trained:
    return Trained(train(run, **how), run.model_dir)


def make_run(model_dir: Path, task: str, **changes: Any) -> RunConfig:
    run = RunConfig(
        model_dir=str(model_dir),
        model=ModelConfig(8, 2, 4, 8, 2, 1, gate=GateConfig(layer=1), dropout_rate=0.2),
        data=DataConfig(task, (task,), input_length=8, target_length=8, batch_size=4, eval_batch_size=4),
        training=TrainingConfig(num_steps=STEPS, eval_every=EVERY, eval_batches=2),
        loss=LossConfig(regularizer_delay=1),
        controller=ControllerConfig(target_deletion_rate=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        execution=ExecutionConfig(max_rungs=1, log_every=2),
        checkpoints=CheckpointConfig(every=EVERY),
    )
    return dataclasses.replace(run, **changes)


def metrics_of(model_dir: Path | str) -> list[dict[str, Any]]:
    return lines_of(model_dir, "metrics.jsonl")


def lines_of(model_dir: Path | str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(model_dir) / name).read_text().splitlines()]


def checkpoints_of(model_dir: Path | str) -> set[int]:
    return {int(path.name) for path in (Path(model_dir) / "checkpoints").iterdir()}


def same_bits(one: Any, other: Any) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in leaves)


def pretended(monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...] = (), not_finite: tuple[int, ...] = ()) -> None:
    """Steps that compute nothing; those of these numbers are refused, or have a loss that is not finite.

    Nor is there a program to evaluate with: such a run ends before its last step.
    """

    def pretend(*_: Any) -> Callable[[TrainState, Any], StepResult]:
        def step_function(state: TrainState, batch: Any) -> StepResult:
            step = state.step + 1
            loss = jnp.where(jnp.isin(step, jnp.asarray(not_finite, int)), jnp.nan, 1.0)
            metrics = {"total_loss": loss, "refused": jnp.isin(step, jnp.asarray(refused, int)).astype(jnp.float32)}
            return StepResult(state._replace(step=step), metrics)

        return step_function

    monkeypatch.setattr(programs, "make_train_step", pretend)
    monkeypatch.setattr(programs, "evaluation_program", lambda *_: jax.jit(lambda *_: 0, static_argnums=2))
