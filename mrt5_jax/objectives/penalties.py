"""The terms of the loss that a selector provides, weighed by name."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class PenaltyScale(NamedTuple):
    """How the loss takes a penalty: sum(weight * total) / count."""

    weight: Float[Array, "*rows"]
    """Constant, or a controller's alpha; where languages have controllers of their own, of each row."""
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
    weighted = (_weighted(total, means[name], scales[name]) for name, total in totals.items())
    return sum(weighted, 0.0), means


def _weighted(total: Float[Array, " batch"], mean: Float[Array, ""], scale: PenaltyScale) -> Float[Array, ""]:
    return scale.weight * mean if scale.weight.ndim == 0 else jnp.sum(scale.weight * total) / scale.count
