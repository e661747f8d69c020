"""One training step: metrics, update and controller, from the NumPy oracle's logits and finite differences."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import ControllerConfig, DataConfig, LossConfig, OptimizerConfig, RunConfig, TrainingConfig
from mrt5_jax.model.dropout import draw_dropout
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.objectives.controllers import make_controller
from mrt5_jax.training.optimizers import make_optimizer, make_schedule
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import Learning, StepResult, make_train_step, step_keys

from ..model import oracle
from ..model.small import LENGTH, TARGET, make_batch, make_config, make_params

RUN = RunConfig(
    model_dir="",
    model=dataclasses.replace(make_config(), dropout_rate=0.25),
    data=DataConfig("", (), LENGTH, TARGET, 4, 4),
    training=TrainingConfig(num_steps=10, deletion="hard", seed=3),
    loss=LossConfig(score_penalty=0.7, regularizer_delay=1),
    controller=ControllerConfig(target_deletion_rate=0.99),
    optimizer=OptimizerConfig(learning_rate=0.02, schedule="linear", clip_norm=1.0, weight_decay=0.0, eps=1e-6),
)
LEARNING = Learning(
    make_optimizer(RUN.optimizer, RUN.training.num_steps),
    make_schedule(RUN.optimizer, RUN.training.num_steps),
    make_controller(RUN.loss, RUN.controller, RUN.training.num_steps),
)
PARAMS = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_params(RUN.model, 1))


class Trajectory(NamedTuple):
    batches: list[dict[str, np.ndarray]]
    states: list[TrainState]
    """Before each step, and after the last."""
    metrics: list[dict[str, float]]


@pytest.fixture(scope="module")
def step() -> Callable[..., StepResult]:
    """Compiled once for this file."""
    return jax.jit(make_train_step(MrT5(RUN.model), RUN, LEARNING, Ladder((LENGTH,))))


@pytest.fixture(scope="module")
def trajectory(step) -> Trajectory:
    """Four steps from random parameters."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    states = [TrainState(jnp.int32(0), params, LEARNING.optimizer.init(params), LEARNING.controller.init())]
    batches, metrics = [make_batch(seed) for seed in range(4)], []
    for batch in batches:
        stepped = step(states[-1], batch)
        states.append(stepped.state)
        metrics.append({name: float(value) for name, value in stepped.metrics.items()})
    return Trajectory(batches, jax.device_get(states), metrics)


def in_double(params: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def draws(step: int):
    keys = step_keys(RUN.training.seed, jnp.int32(step), jnp.arange(4))
    return jax.device_get(draw_dropout(RUN.model, keys, LENGTH, TARGET))


def oracle_pass(trajectory: Trajectory, step: int) -> oracle.Passed:
    params = in_double(trajectory.states[step].params)
    return oracle.forward(RUN.model, params, trajectory.batches[step], "hard", draws(step))


def test_every_metric_has_the_one_definition(trajectory: Trajectory) -> None:
    """From logits and gate values of NumPy: nats per target token, shares of tokens, rows and inputs, norms."""
    for step, found in enumerate(trajectory.metrics):
        batch, passed = trajectory.batches[step], oracle_pass(trajectory, step)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"] > 0
        log_likelihood = passed.logits - np.log(np.exp(passed.logits).sum(-1, keepdims=True))
        nll = -np.take_along_axis(log_likelihood, targets[..., None], -1)[..., 0][weights].mean()
        right = passed.logits.argmax(-1) == targets
        scored, present = weights.any(1), batch["encoder_input_tokens"] > 0
        penalty, gate = passed.score_penalty[scored].mean(), passed.gate_values[present].mean()
        body = body_multiply_adds(RUN.model, TARGET)
        assert found == pytest.approx(
            {
                "loss": nll,
                "bits_per_byte": nll / math.log(2),
                "token_accuracy": right[weights].mean(),
                "sequence_accuracy": (right | ~weights).all(1)[scored].mean(),
                "deletion_rate": 1 - passed.keep.sum() / present.sum(),
                "kept_length": passed.keep.sum() / present.any(1).sum(),
                "rung": LENGTH,
                "rescued": 0.0,
                "dropped": 0.0,
                "saved": 0.0,
                "saved_if_exact": 1
                - np.mean([body(int(kept)) / body(LENGTH) for kept in passed.keep.sum(1)[present.any(1)]]),
                "gate_mean": gate,
                "score_penalty": penalty,
                "total_loss": nll + 0.7 * penalty + found["alpha"] * gate,
                "alpha": found["alpha"],
                "learning_rate": 0.02 * (1 - step / 10),
                "gradient_norm": found["gradient_norm"],
                "refused": 0.0,
                "parameter_norm": norm(trajectory.states[step].params),
            },
            rel=1e-4,
            abs=1e-6,
        )


def norm(tree: Any) -> float:
    return sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree)) ** 0.5


def test_the_first_update_is_adamws_on_the_clipped_gradient_of_the_oracle(trajectory: Trajectory) -> None:
    """Gradients are read off the first moments, and compared along random directions with finite differences."""
    before, after = trajectory.states[:2]
    size = trajectory.metrics[0]["gradient_norm"]
    assert size > 1, "the gradient is long enough to be clipped"
    clipped = jax.tree.map(lambda moment: moment / (1 - 0.9), after.opt_state["moments"].mu)
    assert norm(clipped) == pytest.approx(1, rel=1e-4)

    def moved(old: np.ndarray, gradient: np.ndarray, new: np.ndarray) -> None:
        np.testing.assert_allclose(new, old - 0.02 * gradient / (np.abs(gradient) + 1e-6), rtol=1e-4, atol=1e-5)

    jax.tree.map(moved, before.params, clipped, after.params)
    params, dropout, rng = in_double(before.params), draws(0), np.random.default_rng(0)
    for _ in range(5):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        ends = [
            oracle.objective(
                RUN.model,
                jax.tree.map(lambda leaf, by, sign=sign: leaf + sign * 1e-6 * by, params, direction),
                trajectory.batches[0],
                "hard",
                RUN.loss,
                0.0,
                dropout,
            )
            for sign in (1, -1)
        ]
        ours = size * sum(jax.tree.leaves(jax.tree.map(np.vdot, clipped, direction)))
        assert ours == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-3 * size)


def test_the_controller_moves_once_a_step_on_the_batchs_deletion_rate(trajectory: Trajectory) -> None:
    """It rests and leaves alpha out during the delay; then alpha is that of the step before."""
    proportional = integral = 0.0
    expected = [0.0, 0.0]  # the delay, and the controller's beginning
    for step in (1, 2):
        present = trajectory.batches[step]["encoder_input_tokens"] > 0
        error = 0.99 - (1 - oracle_pass(trajectory, step).keep.sum() / present.sum())
        proportional, integral = 0.9 * proportional + 0.1 * 0.5 * error, integral + 1e-5 * error
        expected.append(proportional + integral)
    np.testing.assert_allclose([metrics["alpha"] for metrics in trajectory.metrics], expected, rtol=1e-5)
    assert expected[2] > 0
    assert [int(state.controller.count) for state in trajectory.states] == [0, 1, 2, 3, 4]


def test_steps_are_counted_and_draw_their_own_dropout(trajectory: Trajectory) -> None:
    assert [int(state.step) for state in trajectory.states] == [0, 1, 2, 3, 4]
    keys = [
        jax.random.key_data(step_keys(seed, jnp.int32(step), jnp.arange(3))) for seed, step in ((3, 0), (3, 1), (4, 0))
    ]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 9
    np.testing.assert_array_equal(jax.random.key_data(step_keys(3, jnp.int32(1), jnp.arange(2))), keys[1][:2])
