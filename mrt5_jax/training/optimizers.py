"""Optimizers and learning-rate schedules, made from their configuration (optax)."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.errors import UserError


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Learning rate as a function of the number of updates already made.

    Warm-up is linear from zero to `learning_rate` in `warmup_steps` updates; then the rate stays (constant), goes to
    zero at `num_steps` in a straight line (linear) or half a cosine (cosine), or falls as (step / warmup_steps)^-1/2
    (rsqrt).

    Raises:
        UserError: the warm-up is negative or not shorter than the training.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if not 0 <= warmup < num_steps:
        raise UserError(f"warmup_steps={warmup} must lie between 0 and num_steps - 1 = {num_steps - 1}")
    remaining = num_steps - warmup

    def rsqrt(step: ArrayLike) -> Array:
        start = max(warmup, 1)
        return peak * jnp.sqrt(start / jnp.maximum(step + warmup, start))

    decays: dict[str, optax.Schedule] = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, remaining),
        "cosine": optax.cosine_decay_schedule(peak, remaining),
        "rsqrt": rsqrt,
    }
    decay = decays[config.schedule]
    if warmup == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (Loshchilov & Hutter 2019) on the schedule."""
    steps = []
    if config.clip_norm is not None:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    steps.append(
        optax.adamw(
            make_schedule(config, num_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    )
    return optax.chain(*steps)
