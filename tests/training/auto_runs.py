"""A small run that leaves deletion and chunks to itself, whose gate begins to decide when a hook says so."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    MonitorConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.objectives.kept_lengths import BINS, KeptLengths
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.hooks import Hook
from mrt5_jax.training.platform_costs import PlatformCosts
from mrt5_jax.training.state import TrainState

from ..model.small import param_shapes
from .small_runs import make_run

FREE = PlatformCosts(0.0, 0.0, 0.0, 0.0, 0.0)
"""Nothing but products costs anything; else nothing would pay in models as small as these."""
LENGTH, ROWS, STEPS, INTERVAL = 32, 8, 9, 3
DECIDES, SWITCHES = 4, 7
"""Steps from which on the gate is sure of what it deletes, and from which on the run can know."""


class Gate(Hook):
    """Sets the gate before each step: it keeps everything, or from a step on decides for sure."""

    def __init__(self, decides: int = DECIDES) -> None:
        self._decides = decides

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        encoder = state.params["encoder"]
        gate = encoder["gate"]
        kernel = jnp.linspace(-1, 1, gate["kernel"].size).reshape(gate["kernel"].shape)
        scale = 1e3 if step >= self._decides else 0.0
        gate = {**gate, "kernel": (scale * kernel).astype(gate["kernel"].dtype), "bias": jnp.ones_like(gate["bias"])}
        return state._replace(params={**state.params, "encoder": {**encoder, "gate": gate}})


def auto_run(model_dir: Path, task: str, **changes: Any) -> RunConfig:
    run = make_run(model_dir, task)
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, dropout_rate=0.0),
        data=DataConfig(task, (task,), LENGTH, LENGTH, ROWS, ROWS),
        training=TrainingConfig(STEPS, "auto", eval_every=STEPS, eval_batches=1),
        execution=ExecutionConfig(rungs=(16,), chunks="auto", log_every=1),
        checkpoints=dataclasses.replace(run.checkpoints, every=2, keep=STEPS),
        monitor=MonitorConfig(interval=INTERVAL, tolerance=0.01),
        evaluation=EvaluationConfig(deletions=("soft",)),
        **changes,
    )


def choices_of(run: RunConfig, counts: list[float] | None = None) -> tuple[Choices, TrainState]:
    """With the state of a run that has seen such rows."""
    nothing = KeptLengths(jnp.zeros((1, BINS)), jnp.zeros(1, jnp.int32))
    seen = nothing if counts is None else nothing._replace(counts=jnp.asarray([counts]))
    state = TrainState(jnp.int32(0), param_shapes(run.model), (), (), None, {"hard": nothing, "saturated": seen})
    ladders = {LENGTH: Ladder(tuple(range(4, LENGTH + 1, 4)))}
    return Choices(run, make_mesh(run.execution.mesh), ladders, state), state


def kept(*shares: float) -> list[float]:
    counts = [0.0] * BINS
    for share in shares:
        counts[round(share * BINS) - 1] += 100
    return counts


def seen(state: TrainState, counts: list[float]) -> TrainState:
    assert state.kept is not None
    saturated = state.kept["saturated"]._replace(counts=jnp.asarray([counts]))
    return state._replace(kept={**state.kept, "saturated": saturated})
