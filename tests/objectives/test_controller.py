"""The controller against its formulas, at rest, and steering simulated plants."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.config import ControllerConfig, LossConfig
from mrt5_jax.objectives import controller as module
from mrt5_jax.objectives.controller import constant, delayed, pi_controller
from mrt5_jax.objectives.controllers import make_controller


def _run(controller, rates):
    """The states before each step and after the last."""

    def step(state, rate):
        return controller.update(rate, state), state

    last, states = jax.jit(lambda rates: jax.lax.scan(step, controller.init(), rates))(jnp.asarray(rates))
    return jax.tree.map(lambda many, one: np.append(many, one), states, last)


def _oracle(config, rates):
    """alpha before each step and after the last, in float64."""
    proportional = integral = 0.0
    alphas = [0.0]
    for rate in rates:
        error = config.target_deletion_rate - rate
        proportional = config.smoothing * proportional + (1 - config.smoothing) * config.proportional_gain * error
        integral += config.integral_gain * error
        alphas.append(max(0.0, proportional + integral))
    return np.array(alphas)


_CONFIG = ControllerConfig(target_deletion_rate=0.4, integral_gain=1e-2)


@given(st.integers(0, 10**6))
def test_every_step_follows_the_formulas(seed):
    rng = np.random.default_rng(seed)
    rates = np.clip(rng.random() + 0.1 * rng.normal(size=200), 0, 1).astype(np.float32)
    states = _compiled_run(rates)
    np.testing.assert_allclose(states.alpha, _oracle(_CONFIG, rates.astype(np.float64)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(states.count, np.arange(201))


_controller = pi_controller(_CONFIG)
_scan = jax.jit(
    lambda rates: jax.lax.scan(lambda state, rate: (_controller.update(rate, state),) * 2, _controller.init(), rates)[1]
)


def _compiled_run(rates):
    return jax.tree.map(lambda first, later: np.append(first, later), _controller.init(), _scan(rates))


def test_alpha_is_never_negative_and_recovers_at_once():
    """Far above the target alpha is 0, while P and I go on being counted."""
    states = _run(pi_controller(_CONFIG), np.full(50, 0.9, np.float32))
    assert (states.alpha == 0).all()
    assert states.proportional[-1] < 0
    assert states.integral[-1] < 0


@given(
    target=st.floats(0.2, 0.8),
    slope=st.floats(0.5, 3.0),
    start=st.floats(0.0, 1.0),
    lag=st.floats(0.0, 0.95),
)
def test_the_rate_converges_to_its_target(target, slope, start, lag):
    """A plant that deletes more the larger alpha is, with a lag, ends at the target and stays there."""
    config = jnp.array([target, slope, start * target, lag], jnp.float32)
    np.testing.assert_allclose(_steer(config), target, atol=5e-3)


@jax.jit
def _steer(plant):
    target, slope, start, lag = plant

    def step(carry, _):
        rate, state = carry
        # The controller's target is 0.5; the measurement is shifted so that one compilation serves all targets.
        state = _fast.update(rate - target + 0.5, state)
        rate = lag * rate + (1 - lag) * (start + (1 - start) * -jnp.expm1(-slope * state.alpha))
        return (rate, state), rate

    _, rates = jax.lax.scan(step, (start, _fast.init()), length=6000)
    return rates[-500:]


_fast = pi_controller(ControllerConfig(target_deletion_rate=0.5, integral_gain=1e-2))


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_delay_leaves_the_controller_as_if_the_steps_had_not_been(steps):
    rates = np.linspace(0, 0.3, 12).astype(np.float32)
    states = _run(delayed(pi_controller(_CONFIG), steps), rates)
    later = _run(pi_controller(_CONFIG), rates[steps:])
    np.testing.assert_array_equal(states.alpha[:steps], 0)
    for name in ("proportional", "integral", "alpha"):
        np.testing.assert_allclose(getattr(states, name)[steps:], getattr(later, name), rtol=1e-6)
    np.testing.assert_array_equal(states.count, np.arange(13))


def test_a_constant_weight_sets_in_after_the_delay():
    states = _run(delayed(constant(0.25), 3), np.zeros(5, np.float32))
    np.testing.assert_array_equal(states.alpha, [0, 0, 0, 0.25, 0.25, 0.25])


def test_the_configuration_chooses_the_controller():
    rates = np.zeros(2, np.float32)
    steered = _run(make_controller(LossConfig(gate_weight=9.0, regularizer_delay=1), _CONFIG, 2), rates)
    np.testing.assert_allclose(steered.alpha, [0, 0, _oracle(_CONFIG, [0])[-1]], rtol=1e-6)
    np.testing.assert_array_equal(_run(make_controller(LossConfig(gate_weight=9.0), None, 2), rates).alpha, 9.0)


def test_the_state_keeps_its_types():
    """A step compiled for the first state is not compiled again for the next."""
    for controller in (pi_controller(_CONFIG), delayed(pi_controller(_CONFIG), 2), delayed(constant(1.0), 2)):
        state = controller.init()
        update = jax.jit(controller.update)
        for _ in range(3):
            state = update(jnp.float32(0.1), state)
        assert update._cache_size() == 1
    with jax.enable_x64(True):
        wide = pi_controller(_CONFIG, jnp.dtype("float64"))
        assert wide.update(jnp.float32(0.1), wide.init()).alpha.dtype == jnp.float64


def test_the_documented_example():
    assert doctest.testmod(module, extraglobs=vars(module)).failed == 0
