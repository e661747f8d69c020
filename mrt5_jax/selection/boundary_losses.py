"""Losses of a number of boundaries: what selectors with boundary predictors have in common."""

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float

from mrt5_jax.selection.protocol import Penalty
from mrt5_jax.selection.selector_rule import Segments, count_examples, sum_examples


def binomial_surprise(
    count: Float[Array, "batch examples"], size: Float[Array, "batch examples"], prior: float
) -> Float[Array, "batch examples"]:
    """Computes -log Binomial(count; size, prior) in nats."""
    choose = gammaln(size + 1) - gammaln(count + 1) - gammaln(size - count + 1)
    return -(choose + count * jnp.log(prior) + (size - count) * jnp.log1p(-prior))


def per_input(values: Float[Array, "batch examples"], mask: Bool[Array, "batch length"], segments: Segments) -> Penalty:
    """Returns the penalty of a value an example, divided by its inputs; its mean is over examples."""
    sizes = sum_examples(jnp.ones(mask.shape, values.dtype), mask, segments)
    total = jnp.sum(jnp.where(sizes > 0, values / jnp.maximum(sizes, 1), 0), axis=1)
    return Penalty(total, count_examples(mask, segments))
