"""The two-sided controller against its formulas, and steering a thousand simulated plants of each kind."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import ControllerConfig
from mrt5_jax.objectives import two_sided as module
from mrt5_jax.objectives.two_sided import controller_targets, times_of, two_sided_controller

from .plants import course, gates, lagging, steered

STEPS = 1500


def _oracle(target: float, num_steps: int, unit: float, rates: np.ndarray) -> list[dict[str, float]]:
    """The state after each step, in float64 and plain Python; None is a step without a rate."""
    response = min(max(num_steps / 30, 10), 100)
    smoothing = max(response / 7, 4)
    begin, arrive = 0.03 * num_steps, 0.3 * num_steps
    f = v = q = r = i = alpha = 0.0
    gain, seen, states = 0.3 * unit, 0, []
    for t, y in enumerate(rates):
        if not math.isnan(y):
            if seen == 0:
                f = r = y
            seen += 1
            old = f
            f += (y - f) / min(smoothing, seen)
            v += (f - old - v) / smoothing
            q += ((y - f) ** 2 - q) / min(2 * response, seen)
            planned = (target - r) / max(arrive - t, response)
            p = 0.0 if t < begin else min(max(planned, -0.1 / response), 0.1 / response)
            r = min(max(r + p, f - 0.05), f + 0.05)
            e = r - f
            w = p + e / response
            chance = 2.5 * math.sqrt(q / (4 * smoothing**3)) + 1e-6
            if abs(e) > max(0.01, 2.5 * math.sqrt(q / (2 * smoothing))):
                growth = 1.25 * min(max(math.copysign(1, e) * (w - v) / (abs(w) + chance), 0), 1)
            else:
                growth = -0.1
            brake = max(abs(v) / (2 * abs(w) + chance), 1) ** (-1.5 / smoothing)
            gain = min(max(gain * math.exp(growth / response) * brake, 1e-3 * unit), 200 * unit)
            i = min(max((i * brake if i * v > 0 > i * e else i) + gain * e / response, -10 * unit), 10 * unit)
            alpha = min(max(i + gain * (e + 0.5 * response * (p - v)), -10 * unit), 10 * unit)
        states.append({"rate": f, "speed": v, "noise": q, "reference": r, "gain": gain, "integral": i, "alpha": alpha})
    return states


def _rates(seed: int) -> np.ndarray:
    """A rate that wanders, is noisy, once runs away, and is not always there."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.01, 400)) + rng.uniform(0.1, 0.6)
    walk[200:] += 0.3 * np.clip(np.arange(200) / 10, 0, 1)
    rates = np.clip(walk + rng.normal(0, 0.03, 400), 0, 1)
    rates[rng.uniform(size=400) < 0.1] = np.nan
    return rates


def test_every_step_follows_the_formulas() -> None:
    """Of three controllers at once, whose rates are not there in different steps."""
    targets, rates = np.array([0.3, 0.5, 0.7]), np.stack([_rates(seed) for seed in range(3)], axis=1)
    with jax.enable_x64(True):
        controller = two_sided_controller(targets, 400, 1 / 30, jnp.dtype("float64"))
        states = jax.lax.scan(
            lambda state, rate: (controller.update(rate, state),) * 2, controller.init(), jnp.asarray(rates)
        )[1]
    for place, target in enumerate(targets):
        expected = _oracle(target, 400, 1 / 30, rates[:, place])
        for name in expected[0]:
            np.testing.assert_allclose(
                getattr(states, name)[:, place], [one[name] for one in expected], rtol=1e-9, atol=1e-12, err_msg=name
            )
    assert np.array(states.alpha).min() < 0 < np.array(states.alpha).max()
    np.testing.assert_array_equal(states.count, np.arange(1, 401))


@pytest.fixture(scope="module")
def lagged():
    plants = lagging(1000, 1, longest_lag=300)
    rates, alphas = steered(plants, two_sided_controller(plants.targets, STEPS), STEPS, 7)
    return plants, rates, alphas


def test_rates_of_lagging_plants_arrive_and_stay(lagged) -> None:
    """A thousand drawn gains and lags: arrived within 1 point in the first half, never 3 points off afterwards."""
    plants, rates, _ = lagged
    found = course(rates, plants.targets)
    assert found.arrived.mean() > 0.9
    assert (found.arrived & (found.farthest <= 0.03) & (found.last <= 0.02)).mean() > 0.9
    assert (found.last <= 0.02).mean() > 0.95


def test_nothing_winds_up_and_nothing_swings_on(lagged) -> None:
    """In the last fifth hardly any two 50-step means are more than 6 points apart."""
    plants, rates, _ = lagged
    found = course(rates, plants.targets)
    assert np.quantile(found.swing, 0.99) < 0.06


def test_populations_of_gates_arrive_and_stay() -> None:
    """Plants without an equilibrium, which react slowly at first and then run away."""
    plants = gates(1000, 2, STEPS)
    rates, _ = steered(plants, two_sided_controller(plants.targets, STEPS), STEPS, 7)
    found = course(rates, plants.targets)
    assert (found.arrived & (found.farthest <= 0.03) & (found.last <= 0.02)).mean() > 0.9
    assert (found.last <= 0.02).mean() > 0.98


def test_a_target_that_cannot_be_reached_leaves_alpha_bounded_and_lets_go_at_once() -> None:
    """No windup: the reference waits, and alpha turns as soon as the rate comes back into reach."""
    controller = two_sided_controller(np.asarray(0.7), STEPS)
    update = jax.jit(controller.update)
    state = controller.init()
    for _ in range(600):
        state = update(jnp.float32(0.4), state)
    assert float(state.reference) == pytest.approx(0.45)
    assert 0 < float(state.alpha) <= module.LARGEST
    for _ in range(30):
        state = update(jnp.float32(0.8), state)
    assert float(state.alpha) < 0


def test_targets_are_those_of_the_languages_and_then_of_the_others() -> None:
    assert controller_targets(ControllerConfig(0.5)).shape == ()
    several = ControllerConfig(0.5, language_targets=(("en", 0.3), ("de", 0.7)))
    np.testing.assert_array_equal(controller_targets(several), [0.3, 0.7, 0.5])


def test_the_state_keeps_its_types() -> None:
    for targets in (np.asarray(0.5), np.array([0.3, 0.6])):
        controller = two_sided_controller(targets, 100)
        state, update = controller.init(), jax.jit(controller.update)
        for _ in range(3):
            state = update(jnp.full(targets.shape, 0.1, jnp.float32), state)
        assert update._cache_size() == 1
    with jax.enable_x64(True):
        wide = two_sided_controller(np.asarray(0.5), 100, dtype=jnp.dtype("float64"))
        assert wide.update(jnp.float32(0.1), wide.init()).alpha.dtype == jnp.float64


def test_times_are_shares_of_a_run_within_bounds() -> None:
    assert times_of(600) == pytest.approx((18, 180, 20, 4))
    assert times_of(100).response == 10
    assert times_of(100_000).response == 100


def test_the_documented_example() -> None:
    assert doctest.testmod(module, extraglobs=vars(module)).failed == 0
