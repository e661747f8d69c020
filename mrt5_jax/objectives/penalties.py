"""The terms of the loss that a selector provides, weighed by name."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class PenaltyScale(NamedTuple):
    """How the loss takes a penalty: weight * sum(total) / count."""

    weight: Float[Array, ""]
    """Constant, or a controller's alpha."""
    count: Float[Array, ""]
    """Sum of the counts over the whole batch, on all devices; never below 1."""


def weighted_penalties(
    totals: dict[str, Float[Array, " batch"]], scales: dict[str, PenaltyScale]
) -> tuple[Float[Array, ""] | float, dict[str, Float[Array, ""]]]:
    """Returns the share of some rows in the loss, and in the mean of each penalty.

    Args:
      totals: of each of these rows, by the penalty's name.
      scales: of all penalties, or of more.
    """
    means = {name: jnp.sum(total) / scales[name].count for name, total in totals.items()}
    return sum((scales[name].weight * mean for name, mean in means.items()), 0.0), means
