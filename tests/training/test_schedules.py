"""Schedules at the points where they are known."""

import dataclasses

import numpy as np
import pytest

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.errors import UserError
from mrt5_jax.training.schedules import make_schedule

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


T5X = OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay_factor=0.25, steps_per_decay=10, steps_per_cycle=20)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ("constant * linear_warmup * rsqrt_decay", {0: 1e-8, 2: 2.0 * 0.5 / 2, 4: 1.0, 16: 0.5}),
        ("constant * linear_warmup * rsqrt_normalized_decay", {2: 1.0, 4: 2.0, 16: 1.0, 36: 2 / 3}),
        ("linear_decay * constant", {2: 2.0, 5: 4.0 * 0.75, 8: 1e-8, 40: 1e-8}),
        ("constant*decay_every", {0: 2.0, 9: 2.0, 10: 0.5, 29: 0.125}),
        ("constant * cosine_decay", {0: 2.0, 4: 2.0, 14: 1.0, 24: 2.0}),
    ],
)
def test_products_of_factors_are_those_of_t5x(factors, expected):
    """Worked out by hand from T5X's documentation of each factor; T5X never goes below 1e-8."""
    schedule = make_schedule(dataclasses.replace(T5X, schedule=factors), STEPS)
    np.testing.assert_allclose([schedule(step) for step in expected], list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize("schedule", ["linaer", "constant * rsqrt", ""])
def test_an_unknown_schedule_is_one_line_with_those_there_are(schedule):
    with pytest.raises(UserError, match=r"constant, linear, cosine, rsqrt, or a product of constant, linear_warmup"):
        make_schedule(OptimizerConfig(schedule=schedule), STEPS)


@pytest.mark.parametrize("warmup", [-1, STEPS])
def test_a_warmup_that_does_not_fit_is_refused(warmup):
    with pytest.raises(UserError, match=f"warmup_steps={warmup}"):
        make_schedule(OptimizerConfig(warmup_steps=warmup), STEPS)
