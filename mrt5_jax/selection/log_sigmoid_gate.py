"""The log-sigmoid gate, with its entropy terms (MrT5's variant of the delete gate)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mrt5_jax.selection.learned_gate import DeleteGate
from mrt5_jax.selection.protocol import Penalty
from mrt5_jax.selection.selector_rule import (
    GATE_MEAN,
    PenaltyRule,
    Segments,
    SelectorRule,
    count_examples,
    count_tokens,
    gate_config,
    sum_examples,
)

THRESHOLD = -5.0


class LogSigmoidGate(DeleteGate):
    r"""G = log sigmoid(z), z as the delete gate's; e^G is the probability that a position stays.

    Its entropies are two penalties, of which the first makes each decision sure, and the second, with a negative
    weight, keeps an example from being kept or deleted as a whole:

    .. math::
        \text{token\_entropy} = \operatorname{mean}_t H(e^{G_t}), \quad
        \text{mean\_entropy} = H(\operatorname{mean}_t e^{G_t})

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="log_sigmoid", bias_init=30.0))  # wide open
        'The cat, 42.'
    """

    def values(self, logits: Float[Array, "batch length"]) -> Float[Array, "batch length"]:
        """Computes G, below 0 without a bound: 0 keeps."""
        return jax.nn.log_sigmoid(logits)

    def threshold(self) -> float:
        """Returns tau."""
        gate = gate_config(self.config)
        return THRESHOLD if gate.threshold is None else gate.threshold

    def more_penalties(
        self, logits: Float[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
    ) -> dict[str, Penalty]:
        """Returns the entropies in nats: a mean over inputs, and a mean over examples of that of each."""
        keep, delete = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
        of_tokens = -keep * jax.nn.log_sigmoid(logits) - delete * jax.nn.log_sigmoid(-logits)
        sizes = sum_examples(jnp.ones_like(keep), mask, segments)
        mean = sum_examples(keep, mask, segments) / jnp.maximum(sizes, 1)
        # Where all of an example is sure the entropy's slope is infinite, and that of a gate 0.
        edge = jnp.finfo(mean.dtype).eps
        mean = jnp.clip(mean, edge, 1 - edge)
        of_means = -mean * jnp.log(mean) - (1 - mean) * jnp.log1p(-mean)
        return {
            "token_entropy": Penalty(jnp.sum(jnp.where(mask, of_tokens, 0), axis=1), count_tokens(mask, segments)),
            "mean_entropy": Penalty(jnp.sum(jnp.where(sizes > 0, of_means, 0), axis=1), count_examples(mask, segments)),
        }


LOG_SIGMOID = SelectorRule(
    LogSigmoidGate,
    reads=("threshold", "layer_norm", "bias_init", "gumbel_noise"),
    penalties={
        GATE_MEAN: PenaltyRule(count_tokens, "rate"),
        "token_entropy": PenaltyRule(count_tokens, "target"),
        "mean_entropy": PenaltyRule(count_examples, "target"),
    },
    threshold=lambda gate: THRESHOLD,
    lowest=lambda gate: float("-inf"),
    causal=True,
    multiply_adds=lambda config: config.emb_dim,
    logit=lambda gate, value: value - math.log(-math.expm1(value)),
)
