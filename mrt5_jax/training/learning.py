"""How a run's parameters and alpha move, from its configuration."""

import jax.numpy as jnp

from mrt5_jax.config import RunConfig
from mrt5_jax.objectives.controller import make_controller
from mrt5_jax.training.freezing import check_names
from mrt5_jax.training.optimizers import make_optimizer, make_schedule
from mrt5_jax.training.step import Learning


def make_learning(run: RunConfig) -> Learning:
    """Makes optimizer, schedule and controller.

    Raises:
        UserError: see `make_schedule` and `check_names`.
    """
    check_names(run)
    num_steps = run.training.num_steps
    dtype = jnp.promote_types(jnp.promote_types(run.model.dtype, run.model.param_dtype), jnp.float32)
    return Learning(
        make_optimizer(run.optimizer, num_steps),
        make_schedule(run.optimizer, num_steps),
        make_controller(run.loss, run.controller, dtype),
    )
