"""How a run's parameters and alpha move, from its configuration."""

import jax.numpy as jnp

from mrt5_jax.config import RunConfig
from mrt5_jax.objectives.controllers import make_controller
from mrt5_jax.selection.selectors import deletion_threshold
from mrt5_jax.training.freezing import check_names
from mrt5_jax.training.optimizers import make_optimizer, make_schedule
from mrt5_jax.training.step import Learning
from mrt5_jax.unread_settings import steers


def make_learning(run: RunConfig) -> Learning:
    """Makes optimizer, schedule and controller; where a penalty holds the target by itself, alpha is constant.

    Raises:
        UserError: see `make_schedule` and `check_names`.
    """
    check_names(run)
    num_steps = run.training.num_steps
    dtype = jnp.promote_types(jnp.promote_types(run.model.dtype, run.model.param_dtype), jnp.float32)
    return Learning(
        make_optimizer(run.optimizer, num_steps),
        make_schedule(run.optimizer, num_steps),
        make_controller(run.loss, run.controller if steers(run) else None, num_steps, _alpha_of_a_nat(run), dtype),
    )


def _alpha_of_a_nat(run: RunConfig) -> float:
    """The alpha by which the loss changes by 1 nat between keeping and deleting everything: gate values lie evenly
    around the threshold, 1 / |k| for the learned gate."""
    return 1.0 if run.model.gate is None else 1 / abs(2 * deletion_threshold(run.model.gate))
