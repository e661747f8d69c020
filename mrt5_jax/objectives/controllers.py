"""The table of laws that move alpha, by the names that a configuration gives them."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax.typing import DTypeLike

from mrt5_jax.config import ControllerConfig, LossConfig
from mrt5_jax.objectives.controller import Controller, constant, delayed, pi_controller
from mrt5_jax.objectives.two_sided import controller_targets, two_sided_controller

Law = Callable[[ControllerConfig, LossConfig, int, float, DTypeLike], Controller]
"""(targets and gains, the loss, steps of the run, alpha of a nat, dtype of the state) -> the controller."""

LAWS: Mapping[str, Law] = {
    "one_sided": lambda config, loss, steps, unit, dtype: delayed(pi_controller(config, dtype), loss.regularizer_delay),
    "two_sided": lambda config, loss, steps, unit, dtype: two_sided_controller(
        controller_targets(config), steps, unit, dtype
    ),
}


def make_controller(
    loss: LossConfig,
    config: ControllerConfig | None,
    num_steps: int,
    unit: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Controller:
    """Makes the controller that a run asks for; without a configuration alpha is constant.

    Args:
        num_steps: of the run.
        unit: the alpha by which the loss changes by 1 nat between keeping and deleting everything.
        dtype: of the state.
    """
    if config is None:
        return delayed(constant(loss.gate_weight, dtype), loss.regularizer_delay)
    return LAWS[config.kind](config, loss, num_steps, unit, dtype)
