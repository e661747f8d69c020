"""AdamW against NumPy in float64, schedules at the points where they are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.errors import UserError
from mrt5_jax.training.optimizers import make_optimizer, make_schedule

STEPS = 50


def rate(config: OptimizerConfig, step: int) -> float:
    return float(make_schedule(config, STEPS)(step))


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("constant", 2e-3, 2e-3), ("linear", 1e-3, 0.0), ("cosine", 1e-3, 0.0)],
)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_at_their_ends(schedule, middle, end, warmup):
    config = OptimizerConfig(learning_rate=2e-3, schedule=schedule, warmup_steps=warmup)
    assert rate(config, warmup) == pytest.approx(2e-3, rel=1e-6)
    assert rate(config, (warmup + STEPS) // 2) == pytest.approx(middle, rel=1e-6)
    assert rate(config, STEPS) == pytest.approx(end, abs=1e-9)
    if warmup:
        assert rate(config, 0) == 0.0
        assert rate(config, 5) == pytest.approx(1e-3, rel=1e-6)


def test_rsqrt_falls_by_the_square_root_of_the_step():
    config = OptimizerConfig(learning_rate=2e-3, schedule="rsqrt", warmup_steps=10)
    assert rate(config, 10) == pytest.approx(2e-3, rel=1e-6)
    assert rate(config, 40) == pytest.approx(1e-3, rel=1e-6)
    assert rate(dataclasses.replace(config, warmup_steps=0), 4) == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("warmup", [-1, STEPS])
def test_a_warmup_that_does_not_fit_is_refused(warmup):
    with pytest.raises(UserError, match=f"warmup_steps={warmup}"):
        make_schedule(OptimizerConfig(warmup_steps=warmup), STEPS)


def gradients_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {"kernel": rng.normal(size=(4, 3)) * 3.0, "scale": rng.normal(size=3)}


def train(config: OptimizerConfig, params: dict, steps: int):
    optimizer = make_optimizer(config, STEPS)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradients_of(step)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def adamw_oracle(config: OptimizerConfig, params: dict, steps: int) -> dict[str, np.ndarray]:
    """Loshchilov & Hutter 2019, algorithm 2, after clipping by the global norm; linear decay."""
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for step in range(steps):
        gradients = gradients_of(step)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
        if config.clip_norm is not None and norm > config.clip_norm:
            gradients = {name: g * config.clip_norm / norm for name, g in gradients.items()}
        learning_rate = config.learning_rate * (1 - step / STEPS)
        for name, g in gradients.items():
            first[name] = config.b1 * first[name] + (1 - config.b1) * g
            second[name] = config.b2 * second[name] + (1 - config.b2) * g**2
            mean = first[name] / (1 - config.b1 ** (step + 1))
            variance = second[name] / (1 - config.b2 ** (step + 1))
            decay = config.weight_decay * params[name]
            params = params | {name: params[name] - learning_rate * (mean / (np.sqrt(variance) + config.eps) + decay)}
    return params


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_numpy(clip_norm, weight_decay):
    config = OptimizerConfig(learning_rate=1e-2, clip_norm=clip_norm, weight_decay=weight_decay)
    rng = np.random.default_rng(99)
    params = {"kernel": rng.normal(size=(4, 3)), "scale": rng.normal(size=3)}
    actual = train(config, params, 10)
    for name, expected in adamw_oracle(config, params, 10).items():
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-6)
