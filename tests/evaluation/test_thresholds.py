"""Thresholds by rate: the share of gate values that they divide off, and what cannot be reached is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.thresholds import NEAR_ENOUGH, nearest_threshold

LOWEST = -30.0


@given(st.integers(0, 2**16), st.floats(0.02, 0.98), st.integers(200, 2000))
def test_as_many_values_lie_below_as_were_asked_for(seed: int, rate: float, count: int) -> None:
    """To the nearest value, whatever they are; the threshold is one that a gate takes."""
    values = np.random.default_rng(seed).uniform(LOWEST, 0, count).astype(np.float32)
    threshold = nearest_threshold(values, rate, LOWEST)
    assert LOWEST < threshold < 0
    assert abs((values <= threshold).mean() - rate) <= 0.5 / count + 1e-9 + 2 / count


def test_values_that_are_alike_stay_together() -> None:
    """Three quarters of the tokens are kept surely: of the others any share can be deleted, and no more."""
    values = np.concatenate([np.full(300, -1e-3), np.linspace(-29, -20, 100)]).astype(np.float32)
    assert (values <= nearest_threshold(values, 0.1, LOWEST)).sum() == 40
    assert (values <= nearest_threshold(values, 0.25, LOWEST)).sum() == 100
    with pytest.raises(UserError, match=r"--target_rate=0\.5: .* from 0\.0% to 100\.0% .* nearest is 25\.0%"):
        nearest_threshold(values, 0.5, LOWEST)


def test_saturated_values_limit_what_can_be_reached() -> None:
    """What is 0 cannot be deleted; what is the lowest always is, by a threshold above it."""
    values = np.concatenate([np.zeros(50), np.full(50, LOWEST)]).astype(np.float32)
    assert nearest_threshold(values, 0.5, LOWEST) == LOWEST / 2
    with pytest.raises(UserError, match=r"from 50\.0% to 50\.0%"):
        nearest_threshold(values, 0.3, LOWEST)
    with pytest.raises(UserError, match="all gate values are 0"):
        nearest_threshold(np.zeros(3, np.float32), 0.5, -math.inf)


def test_gates_without_a_lowest_value() -> None:
    values = np.linspace(-100, -0.5, 1000).astype(np.float32)
    threshold = nearest_threshold(values, 0.3, -math.inf)
    assert abs((values <= threshold).mean() - 0.3) < NEAR_ENOUGH
