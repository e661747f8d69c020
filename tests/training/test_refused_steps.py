"""A step whose gradient is not finite changes nothing but its number, wherever it is computed.

The gradient of RMSNorm at zero is epsilon^-1/2: a row of nothing but a token whose embedding is zero stays zero through
all layers, and with a tiny epsilon its gradient overflows, while its loss is as finite as any.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.staged import Part
from mrt5_jax.config import (
    CompactionConfig,
    ControllerConfig,
    DataConfig,
    Dispatch,
    ExecutionConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.gradients import loss_and_gradients
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.optimizers import updates_made
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import (
    MoveIf,
    choose_by_branch,
    choose_leaf_by_leaf,
    make_setting,
    make_train_step,
    step_inputs,
    update,
)

from ..model.small import LENGTH, LENGTHS, TARGET, make_batch, make_config, make_params

POISON = 5
CAPACITY = LENGTH // 2
RUN = RunConfig(
    model_dir="",
    model=dataclasses.replace(make_config(), layer_norm_epsilon=1e-30),
    data=DataConfig("", (), LENGTH, TARGET, 4, 4),
    training=TrainingConfig(num_steps=10, deletion="hard"),
    loss=LossConfig(),
    controller=ControllerConfig(target_deletion_rate=0.5),
    optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=2, clip_norm=1.0),
    compaction=CompactionConfig(capacity=0.5),
    execution=ExecutionConfig(microbatches=2),
)


def params_of(run: RunConfig) -> Any:
    """A gate that keeps everything, and a token whose embedding is zero."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_params(run.model, 1))
    params["token_embedder"]["embedding"][POISON] = 0
    params["encoder"]["gate"]["bias"][:] = 100
    return params


def good(seed: int) -> dict[str, np.ndarray]:
    """Without that token, in inputs and targets."""
    return {
        name: np.where(array == POISON, POISON + 1, array) if name.endswith("tokens") else array
        for name, array in make_batch(seed).items()
    }


def poisoned(seed: int) -> dict[str, np.ndarray]:
    """In its last row, so in one of two microbatches."""
    batch = good(seed)
    tokens = batch["encoder_input_tokens"].copy()
    tokens[-1] = np.where(tokens[-1] > 0, POISON, 0)
    return batch | {"encoder_input_tokens": tokens}


def start(run: RunConfig) -> TrainState:
    learning, mesh = make_learning(run), make_mesh(run.execution.mesh)
    params = jax.tree.map(jnp.asarray, params_of(run))
    state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
    return jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))


@functools.cache
def step_of(dispatch: Dispatch) -> Any:
    """Compiled once; the rest of the model runs at `CAPACITY` slots."""
    model, learning = MrT5(RUN.model), make_learning(RUN)
    if dispatch == "host":
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), start(RUN)
        )
        return HostTrainStep(model, RUN, learning, Ladder((CAPACITY,), LENGTH), abstract)
    return jax.jit(make_train_step(model, RUN, learning, Ladder((CAPACITY,), LENGTH)))


def run_steps(dispatch: Dispatch, batches: list[dict[str, np.ndarray]]) -> tuple[list[TrainState], list[dict]]:
    """States after the steps, and their metrics."""
    state, states, metrics = start(RUN), [], []
    for batch in batches:
        state, measured, _ = step_of(dispatch)(state, jax.device_put(batch, replicated(make_mesh(RUN.execution.mesh))))
        states.append(jax.device_get(state))
        metrics.append({name: float(value) for name, value in measured.items()})
    return states, metrics


def same_bits(one: Any, other: Any) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in leaves)


@pytest.mark.parametrize("dispatch", ["in_graph", "host"])
def test_a_step_with_a_gradient_that_is_not_finite_is_as_if_it_had_not_been(dispatch: Dispatch) -> None:
    """All but the number of the step; the steps after it, their learning rates included, are those without it."""
    states, metrics = run_steps(dispatch, [good(0), poisoned(1), good(2)])
    assert [line["refused"] for line in metrics] == [0, 1, 0]
    assert np.isfinite(metrics[1]["total_loss"])
    assert not np.isfinite(metrics[1]["gradient_norm"])
    assert int(states[1].step) == 2
    assert same_bits(states[1]._replace(step=1), states[0]._replace(step=1))
    without, lines = run_steps(dispatch, [good(0), good(2)])
    assert not same_bits(without[1].params, without[0].params), "good steps move something"
    assert same_bits(states[2]._replace(step=0), without[1]._replace(step=0))
    assert [line["learning_rate"] for line in metrics] == pytest.approx([0.0, 0.01, 0.01])
    assert metrics[2] == lines[1]


def test_a_capacity_does_not_blind_the_controller() -> None:
    """A gate that keeps everything, where half of the positions have slots: nothing counts as deleted, so alpha rises;
    what was dropped is its own figure."""
    _, metrics = run_steps("in_graph", [good(0), good(0)])
    dropped = sum(max(length - CAPACITY, 0) for length in LENGTHS) / 3  # one of the rows is filler
    assert metrics[0]["deletion_rate"] == 0
    assert metrics[0]["dropped"] == pytest.approx(dropped)
    assert metrics[0]["kept_length"] == pytest.approx(sum(LENGTHS) / 3 - dropped)
    assert metrics[1]["alpha"] == pytest.approx(0.1 * 0.5 * 0.5 + 1e-5 * 0.5, rel=1e-5)


@functools.cache
def gradient_of_a_good_batch() -> Part:
    run = dataclasses.replace(RUN, execution=ExecutionConfig())
    batch = jax.tree.map(jnp.asarray, good(0))
    state = start(run)
    objective, _ = step_inputs(run, state, batch)
    setting = make_setting(MrT5(run.model), run, Ladder((LENGTH,)))
    return jax.jit(loss_and_gradients, static_argnums=0)(setting, state.params, batch, objective)


@pytest.mark.parametrize(
    ("changes", "value", "move_if"),
    [
        ({"clip_norm": 1.0}, np.nan, choose_leaf_by_leaf),
        ({"clip_norm": None, "name": "adafactor"}, np.inf, choose_by_branch),
        ({"freeze": ("prefix", "decoder")}, np.nan, choose_by_branch),
        ({"freeze": ("prefix", "decoder"), "clip_norm": None}, -np.inf, choose_leaf_by_leaf),
    ],
)
def test_one_number_that_is_not_finite_is_enough(changes: dict[str, Any], value: float, move_if: MoveIf) -> None:
    """In the gate alone, in any optimizer, clipped or not, with frozen parameters; and in the loss alone."""
    optimizer = dataclasses.replace(RUN.optimizer, **changes)
    run = dataclasses.replace(RUN, optimizer=optimizer)
    learning, state, result = make_learning(run), start(run), gradient_of_a_good_batch()
    batch = jax.tree.map(jnp.asarray, good(0))
    apply = jax.jit(functools.partial(update, run, learning, Ladder((LENGTH,)), move_if=move_if))
    fine = apply(state, batch, result)
    assert int(updates_made(fine.state.opt_state)) == 1
    assert fine.metrics["refused"] == 0
    total = result.total
    gate = total.gradients["encoder"]["gate"]
    bad_gate = {**total.gradients["encoder"], "gate": gate | {"bias": jnp.full_like(gate["bias"], value)}}
    bad = [
        total._replace(gradients=total.gradients | {"encoder": bad_gate}),
        total._replace(loss=jnp.full_like(total.loss, value)),
    ]
    for one in bad:
        after = apply(state, batch, result._replace(total=one))
        assert after.metrics["refused"] == 1
        assert same_bits(after.state._replace(step=0), state._replace(step=0))
        assert int(after.state.step) == 1
