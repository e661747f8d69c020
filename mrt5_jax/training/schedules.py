"""Learning-rate schedules: four plain ones, and products of T5X's factors by their names there."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.errors import UserError

Factor = Callable[[Array], ArrayLike]
"""Number of updates already made, as a float -> what the learning rate is multiplied by."""

_T5X_MINIMUM = 1e-8


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates already made.

    The plain schedules warm up in a straight line from zero to `learning_rate` in `warmup_steps` updates; then the
    rate stays (constant), goes to zero at `num_steps` in a straight line (linear) or half a cosine (cosine), or falls
    as (step / warmup_steps)^-1/2 (rsqrt). A product of T5X's factors, written with '*', is what it is in T5X, with
    `learning_rate` as base_learning_rate.

    Raises:
        UserError: no such schedule or factor; the warm-up is negative or not shorter than the training.
    """
    if not 0 <= config.warmup_steps < num_steps:
        raise UserError(f"warmup_steps={config.warmup_steps} must lie between 0 and num_steps - 1 = {num_steps - 1}")
    if "*" in config.schedule:
        names, known, minimum = config.schedule.split("*"), _t5x_factors(config), _T5X_MINIMUM
    else:
        names, known, minimum = [config.schedule], _plain_schedules(config, num_steps), 0.0
    if unknown := [name.strip() for name in names if name.strip() not in known]:
        raise UserError(
            f"schedule={config.schedule!r}: no {unknown[0]!r}; give one of {', '.join(_plain_schedules(config, 1))}, "
            f"or a product of {', '.join(_t5x_factors(config))}"
        )
    factors = [known[name.strip()] for name in names]

    def schedule(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.result_type(float))
        rate = jnp.ones_like(step)
        for factor in factors:
            rate = rate * factor(step)
        return jnp.maximum(rate, minimum)

    return schedule


def _plain_schedules(config: OptimizerConfig, num_steps: int) -> dict[str, Factor]:
    warmup = config.warmup_steps

    def warmed_up(decay: Factor) -> Factor:
        return lambda step: config.learning_rate * jnp.where(step < warmup, step / max(warmup, 1), decay(step))

    def progress(step: Array) -> Array:
        return jnp.clip((step - warmup) / (num_steps - warmup or 1), 0.0, 1.0)

    return {
        "constant": warmed_up(lambda _: 1.0),
        "linear": warmed_up(lambda step: 1.0 - progress(step)),
        "cosine": warmed_up(lambda step: 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step)))),
        "rsqrt": warmed_up(lambda step: jnp.sqrt(max(warmup, 1) / jnp.maximum(step, max(warmup, 1)))),
    }


def _t5x_factors(config: OptimizerConfig) -> dict[str, Factor]:
    """The factors of T5X's `create_learning_rate_scheduler`; a warm-up of 0 is taken as 1, where T5X divides by 0."""
    peak, warmup = config.learning_rate, max(config.warmup_steps, 1)
    return {
        "constant": lambda _: peak,
        "linear_warmup": lambda step: jnp.minimum(1.0, step / warmup),
        "linear_decay": lambda step: peak * jnp.minimum(step / warmup, 1.0 + config.decay_factor * (warmup - step)),
        "rsqrt_decay": lambda step: 1.0 / jnp.sqrt(jnp.maximum(step, warmup)),
        "rsqrt_normalized_decay": lambda step: jnp.sqrt(warmup / jnp.maximum(step, warmup)),
        "decay_every": lambda step: config.decay_factor ** (step // config.steps_per_decay),
        "cosine_decay": lambda step: (
            0.5 * (1.0 + jnp.cos(jnp.pi * (jnp.maximum(0.0, (step - warmup) / config.steps_per_cycle) % 1.0)))
        ),
    }
