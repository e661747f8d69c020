"""Steers the weight alpha of the gate regulariser towards a target deletion rate."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mrt5_jax.config import ControllerConfig


class SteeringState(Protocol):
    """A NamedTuple of what a controller remembers from step to step; belongs into the checkpoint."""

    @property
    def alpha(self) -> Float[Array, "*controllers"]:
        """The weight that the *next* step's loss gives to the mean gate value."""
        ...


class ControllerState(NamedTuple):
    """What the one-sided controller and a constant remember from step to step."""

    proportional: Float[Array, ""]
    """P, the smoothed proportional part."""
    integral: Float[Array, ""]
    """I, the accumulated part."""
    alpha: Float[Array, ""]
    """The weight that the *next* step's loss gives to the mean gate value."""
    count: Int[Array, ""]
    """Steps so far."""


class Controller(NamedTuple):
    """A pair of pure functions, as in optax: the first state, and the state after a step's measurement."""

    init: Callable[[], Any]
    """Returns a `SteeringState`."""
    update: Callable[[Float[Array, "*controllers"], Any], Any]
    """From the deletion rate measured in a step, over the whole batch, and the state before that step."""


def pi_controller(config: ControllerConfig, dtype: DTypeLike = jnp.float32) -> Controller:
    r"""Makes the proportional-integral controller of MrT5 (Kallini et al. 2025, section 3.3).

    With the target rate :math:`\delta`, a step's measured rate :math:`\hat\delta_t`, gains :math:`k_p, k_i` and
    smoothing :math:`\gamma`:

    .. math::
        e_t &= \delta - \hat\delta_t \\
        P_{t+1} &= \gamma P_t + (1 - \gamma) k_p e_t \\
        I_{t+1} &= I_t + k_i e_t \\
        \alpha_{t+1} &= \max(0, P_{t+1} + I_{t+1})

    Step t's loss uses :math:`\alpha_t`, and :math:`\alpha_0 = P_0 = I_0 = 0`. As alpha is never negative the controller
    can only push the rate up: a rate that the other losses hold above the target stays there.

    Args:
        config: target and gains.
        dtype: of the state.

    Examples:
        >>> controller = pi_controller(ControllerConfig(target_deletion_rate=0.5))
        >>> state = controller.init()
        >>> state = controller.update(jnp.float32(0.3), state)
        >>> print(f"{state.alpha:.6f}")  # 0.1 * 0.5 * 0.2 + 1e-5 * 0.2
        0.010002
    """

    def init() -> ControllerState:
        zero = jnp.zeros((), dtype)
        return ControllerState(zero, zero, zero, jnp.zeros((), jnp.int32))

    def update(deletion_rate: Float[Array, ""], state: ControllerState) -> ControllerState:
        error = config.target_deletion_rate - deletion_rate.astype(dtype)
        smoothing = config.smoothing
        proportional = smoothing * state.proportional + (1 - smoothing) * config.proportional_gain * error
        integral = state.integral + config.integral_gain * error
        return ControllerState(proportional, integral, jnp.maximum(proportional + integral, 0), state.count + 1)

    return Controller(init, update)


def constant(gate_weight: float, dtype: DTypeLike = jnp.float32) -> Controller:
    """Makes a controller that always gives the same alpha, as in the paper's diagnostic tasks."""

    def init() -> ControllerState:
        zero = jnp.zeros((), dtype)
        return ControllerState(zero, zero, jnp.asarray(gate_weight, dtype), jnp.zeros((), jnp.int32))

    def update(deletion_rate: Float[Array, ""], state: ControllerState) -> ControllerState:
        del deletion_rate
        return state._replace(count=state.count + 1)

    return Controller(init, update)


def delayed(controller: Controller, steps: int) -> Controller:
    """Leaves alpha 0 and the controller at rest for the first `steps` steps; it then starts as if they had not been.

    Args:
        controller: what runs afterwards.
        steps: how long it waits.
    """

    def waiting(count: Int[Array, ""]) -> ControllerState:
        start = controller.init()
        return start._replace(alpha=jnp.where(count < steps, 0, start.alpha), count=count)

    def init() -> ControllerState:
        return waiting(controller.init().count)

    def update(deletion_rate: Float[Array, ""], state: ControllerState) -> ControllerState:
        running = controller.update(deletion_rate, state)
        return jax.tree.map(
            lambda rest, run: jnp.where(state.count < steps, rest, run), waiting(state.count + 1), running
        )

    return Controller(init, update)
