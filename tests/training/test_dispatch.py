"""Whoever chooses the lengths, and in however many parts a batch is computed, a training step is the same."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    ControllerConfig,
    DataConfig,
    Dispatch,
    ExecutionConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import split_stages
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.gradients import target_loss
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState, initial_monitor
from mrt5_jax.training.step import make_setting, make_state, make_train_step, step_inputs

from ..model.small import LENGTH, TARGET, by_path, in_double, make_batch, make_config, make_params

ROWS = 8
LADDER = Ladder((6, LENGTH))


def make_run(deletion: TrainingDeletion, **changes: Any) -> RunConfig:
    return RunConfig(
        model_dir="",
        model=in_double(dataclasses.replace(make_config(), dropout_rate=0.25)),
        data=DataConfig("", (), LENGTH, TARGET, ROWS, ROWS),
        training=TrainingConfig(num_steps=10, deletion=deletion, seed=3),
        loss=LossConfig(score_penalty=0.7),
        controller=ControllerConfig(target_deletion_rate=0.9),
        optimizer=OptimizerConfig(learning_rate=0.02, eps=1e-6),
        execution=ExecutionConfig(**changes),
    )


def two_batches() -> list[dict[str, np.ndarray]]:
    """Rows that keep very different shares; a filler row in each."""
    pairs = [(make_batch(seed), make_batch(seed + 10, (12, 3, 0, 7))) for seed in (0, 4)]
    return [{name: np.concatenate([one[name], other[name]]) for name in one} for one, other in pairs]


def run_steps(run: RunConfig, dispatch: Dispatch, ladder: Ladder = LADDER) -> tuple[list[dict[str, float]], Any]:
    """Metrics of two steps, and the parameters after them."""
    with jax.enable_x64(True):
        model, learning = MrT5(run.model, run.execution), make_learning(run)
        params = jax.tree.map(jnp.asarray, make_params(run.model, 1))
        monitor = initial_monitor() if run.training.deletion == "saturated" else None
        controller = learning.controller.init()
        state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), controller, monitor)
        mesh = make_mesh(run.execution.mesh)
        state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))  # no buffer twice: it is donated
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        if dispatch == "host":
            step = HostTrainStep(model, run, learning, ladder, abstract)
        else:
            step = jax.jit(make_train_step(model, run, learning, ladder))
        metrics = []
        for batch in two_batches():
            state, measured, _ = step(state, jax.device_put(batch, replicated(mesh)))
            metrics.append({name: float(value) for name, value in measured.items()})
        return metrics, by_path(jax.device_get(state.params))


@functools.cache
def plain(deletion: TrainingDeletion) -> Any:
    """One program, one chunk, one part."""
    return run_steps(make_run(deletion), "in_graph")


QUICK_WAY = ("hard", "host", {"chunks": 4})
"""The host chooses, and for every chunk: compared with one program for the whole batch."""
WAYS = [
    ("hard", "in_graph", {"chunks": 2}),
    ("saturated", "host", {"microbatches": 2, "chunks": 2}),
    ("hard", "host", {"microbatches": 2, "chunks": 2}),
    ("saturated", "in_graph", {"microbatches": 4, "chunks": 2}),
    ("saturated", "in_graph", {"microbatches": 4, "microbatch_rows": "sorted"}),
    ("hard", "host", {"microbatches": 2, "chunks": 2, "microbatch_rows": "sorted"}),
    ("saturated", "host", {}),
    ("soft", "host", {"microbatches": 2}),
    ("soft", "in_graph", {"microbatches": 4}),
]


@pytest.mark.parametrize(
    ("deletion", "dispatch", "changes"), [QUICK_WAY, *(pytest.param(*way, marks=pytest.mark.slow) for way in WAYS)]
)
def test_every_way_takes_the_same_steps(deletion: TrainingDeletion, dispatch: Dispatch, changes: dict) -> None:
    """Losses, norms, rates and all parameters, to rounding in float64. Only the lengths that ran are others."""
    metrics, params = run_steps(make_run(deletion, **changes), dispatch)
    expected_metrics, expected_params = plain(deletion)
    for ours, expected in zip(metrics, expected_metrics, strict=True):
        same = [name for name in expected if not name.startswith(("rung", "saved"))]
        assert ours == pytest.approx({**ours, **{name: expected[name] for name in same}}, rel=1e-9, abs=1e-12)
    for path, array in expected_params.items():
        np.testing.assert_allclose(params[path], array, rtol=1e-8, atol=1e-10, err_msg=path)
    if "chunks" in changes and deletion == "hard":
        assert metrics[0]["rung"] < expected_metrics[0]["rung"], "short rows run at short lengths"


def test_the_host_zeroes_its_totals_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many microbatches and chunks: programs that take nothing make one number for each that has a gradient."""
    made = []
    call = jax.stages.Compiled.__call__

    def counting_call(program: jax.stages.Compiled, *arguments: Any) -> Any:
        result = call(program, *arguments)
        if not jax.tree.leaves(arguments):
            made.append(sum(leaf.size for leaf in jax.tree.leaves(result)))
        return result

    monkeypatch.setattr(jax.stages.Compiled, "__call__", counting_call)
    run_steps(make_run("hard", microbatches=4, chunks=2), "host", Ladder((LENGTH,)))
    parts = split_stages(make_params(in_double(make_config()), 1))
    gradients, losses = sum(leaf.size for leaf in jax.tree.leaves(parts)), 4
    assert sum(made) == len(two_batches()) * (gradients + losses)


@pytest.mark.parametrize("deletion", ["saturated", "hard"])
def test_all_state_of_a_float64_run_is_float64(deletion: TrainingDeletion) -> None:
    """Parameters, moments, controller and monitor; alpha follows the target as float64 does, not as float32."""
    run = make_run(deletion)
    with jax.enable_x64(True):
        learning = make_learning(run)
        state = jax.eval_shape(lambda key: make_state(MrT5(run.model), run, learning, key), jax.random.key(0))
        floats = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert len(floats) > 20
        assert set(floats) == {jnp.dtype("float64")}
        controller = learning.controller.update(jnp.asarray(1 / 3), learning.controller.init())
        assert float(controller.alpha) == pytest.approx((0.1 * 0.5 + 1e-5) * (0.9 - 1 / 3), rel=1e-14)


@pytest.mark.slow
def test_a_capacity_that_suffices_changes_nothing_and_one_that_does_not_counts_what_it_drops() -> None:
    run = make_run("hard")
    wide, _ = run_steps(run, "in_graph", Ladder((LENGTH - 1,), LENGTH))
    assert wide[0]["total_loss"] == pytest.approx(plain("hard")[0][0]["total_loss"], rel=1e-9)
    assert wide[0]["dropped"] == 0
    narrow, _ = run_steps(run, "in_graph", Ladder((2,), LENGTH))
    free = plain("hard")[0][0]
    assert narrow[0]["dropped"] > 0
    assert narrow[0]["kept_length"] <= 2
    assert narrow[0]["kept_length"] + narrow[0]["dropped"] == pytest.approx(free["kept_length"])
    assert narrow[0]["deletion_rate"] == free["deletion_rate"]


@pytest.mark.slow
def test_the_targets_loss_is_the_loss_that_is_differentiated_without_its_other_terms() -> None:
    run = dataclasses.replace(make_run("saturated", chunks=2), loss=LossConfig(score_penalty=0.7, z_loss=0.1))
    with jax.enable_x64(True):
        model, learning = MrT5(run.model, run.execution), make_learning(run)
        params = jax.tree.map(jnp.asarray, make_params(run.model, 1))
        state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
        batch = jax.tree.map(jnp.asarray, two_batches()[0])
        objective, row_keys = step_inputs(run, state, batch)
        loss = target_loss(make_setting(model, run, LADDER), params, batch, objective, row_keys)
    whole = run_steps(run, "in_graph")[0][0]
    terms = 0.7 * whole["score_penalty"] + whole["alpha"] * whole["gate_mean"]
    assert float(loss) == pytest.approx(whole["total_loss"] - terms, rel=1e-10)
    assert float(loss) > whole["loss"], "the z-loss is in it"
