"""The terms of the training objective (MrT5 section 3.2; REFERENCE names them).

    loss = sum(nll + z) / target tokens + beta * sum(score penalty) / rows + alpha * sum(G) / input tokens + ...

The last terms are a selector's, see `penalties`.
Each term is a sum over what is at hand, divided by a count over the *whole* batch. So losses and gradients of chunks,
microbatches and devices add up to those of the batch, whatever it is cut into.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


class TokenLosses(NamedTuple):
    """Cross-entropy of every target position."""

    nll: Float[Array, "batch target"]
    """Negative log-likelihood in nats, times the position's weight."""
    z: Float[Array, "batch target"]
    """Z-loss, times the position's weight."""
    correct: Bool[Array, "batch target"]
    """Whether the target has the highest logit, the first of several; whatever the weight."""


class RowLosses(NamedTuple):
    """Token losses summed over each row; rows whose `num_tokens` is 0 are rows of padding."""

    nll: Float[Array, " batch"]
    z: Float[Array, " batch"]
    num_tokens: Float[Array, " batch"]
    """Sum of the weights."""
    num_correct: Float[Array, " batch"]
    """Sum of the weights of correct positions."""
    all_correct: Bool[Array, " batch"]
    """Whether every position with a weight is correct. True for rows of padding."""


class Denominators(NamedTuple):
    """What the loss is divided by: counts over the whole batch, on all devices; never below 1."""

    target_tokens: Float[Array, ""]
    """Sum of the target weights."""
    rows: Float[Array, ""]
    """Rows with target tokens."""


def cross_entropy(
    logits: Float[Array, "batch target vocab"],
    targets: Int[Array, "batch target"],
    weights: Num[Array, "batch target"],
    z_loss: float = 0.0,
) -> TokenLosses:
    r"""Cross-entropy and z-loss of each target position, in float32 at least.

    With a = argmax(l), the normaliser is

        log Z = l_a + log1p(sum over j != a of exp(l_j - l_a)).

    Taking the leading 1 out of the sum keeps the losses of nearly certain tokens, and their gradients, to full relative
    precision, where log(1 + tiny) would round to 0. The z-loss z_loss * (log Z)^2 holds the normaliser near 0.

    Args:
        logits: unnormalised log-probabilities, of any float dtype; converted before anything else.
        targets: ids below vocab.
        weights: 1 where a target counts, 0 where it does not.
        z_loss: weight of the z-loss.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    weights = weights.astype(logits.dtype)
    ids = jnp.arange(logits.shape[-1])[None, None, :]
    best = jnp.argmax(logits, axis=-1)
    is_best = ids == best[..., None]
    is_target = ids == targets[..., None]
    # Sums over a one-hot choice rather than gathers: their gradients need no scatter.
    best_logit = jnp.sum(jnp.where(is_best, logits, 0), axis=-1)
    below_best = logits - best_logit[..., None]
    excess = jnp.log1p(jnp.sum(jnp.where(is_best, 0, jnp.exp(below_best)), axis=-1))
    # Where the target is the best its logit must not come in twice: 1 - 1 would swallow a small gradient.
    nll = excess - jnp.sum(jnp.where(is_target & ~is_best, below_best, 0), axis=-1)
    return TokenLosses(weights * nll, weights * (z_loss * (best_logit + excess) ** 2), best == targets)


def sum_rows(losses: TokenLosses, weights: Num[Array, "batch target"]) -> RowLosses:
    """Sums over each row, weighted as `cross_entropy` was."""
    weights = weights.astype(losses.nll.dtype)
    return RowLosses(
        nll=jnp.sum(losses.nll, axis=1),
        z=jnp.sum(losses.z, axis=1),
        num_tokens=jnp.sum(weights, axis=1),
        num_correct=jnp.sum(jnp.where(losses.correct, weights, 0), axis=1),
        all_correct=jnp.all(losses.correct | (weights == 0), axis=1),
    )


def count_denominators(weights: Num[Array, "batch target"]) -> Denominators:
    """Counts a whole batch's denominators by its targets' weights, before it is cut into microbatches or chunks."""
    counts = Denominators(
        target_tokens=jnp.sum(weights.astype(jnp.promote_types(weights.dtype, jnp.float32))),
        rows=jnp.sum(jnp.any(weights != 0, axis=1), dtype=jnp.float32),
    )
    # An empty batch has loss 0 rather than NaN.
    return Denominators(*(jnp.maximum(count, 1) for count in counts))


def target_term(rows: RowLosses, denominators: Denominators) -> Float[Array, ""]:
    """Computes cross-entropy and z-loss per target token, nats."""
    return jnp.sum(rows.nll + rows.z) / denominators.target_tokens


def score_term(score_penalty: Float[Array, " batch"], rows: RowLosses, denominators: Denominators) -> Float[Array, ""]:
    """Returns the mean over rows, those of padding left out, of the attention scores' excess."""
    return jnp.sum(jnp.where(rows.num_tokens > 0, score_penalty, 0)) / denominators.rows
