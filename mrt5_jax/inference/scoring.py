"""Teacher-forced scores of given targets."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from mrt5_jax.objectives.losses import cross_entropy, sum_rows


class Scores(NamedTuple):
    """What is known of each row; zeros where there is neither input nor target."""

    score: Float[Array, " batch"]
    """Sum of the target tokens' log-probabilities, nats."""
    num_target_tokens: Int[Array, " batch"]
    num_input_tokens: Int[Array, " batch"]
    num_kept_tokens: Int[Array, " batch"]
    """Inputs that stay: under soft deletion those that hard deletion would keep; without deletion all."""
    num_dropped_tokens: Int[Array, " batch"]
    """Inputs that the gate keeps and a capacity had no slot for."""


def target_scores(
    logits: Float[Array, "batch target vocab"],
    targets: Int[Array, "batch target"],
    weights: Int[Array, "batch target"] | Float[Array, "batch target"],
) -> Float[Array, " batch"]:
    """Sums the log-probabilities of the targets with a weight, in at least float32."""
    return -sum_rows(cross_entropy(logits, targets, weights), weights).nll
