"""The learned delete gate (MrT5 section 3.1)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.layers import RMSNorm, parameter
from mrt5_jax.selection.protocol import Penalty, Selection
from mrt5_jax.selection.selector_rule import (
    GATE_MEAN,
    PenaltyRule,
    Segments,
    SelectorRule,
    count_tokens,
    gate_config,
    selection_of_values,
)


class DeleteGate(nn.Module):
    """The learned gate: G = k sigmoid(-z), z = w . RMSNorm(h) + c, in at least float32.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="learned", bias_init=30.0))  # wide open
        'The cat, 42.'
    """

    config: ModelConfig

    def setup(self) -> None:
        gate, config = gate_config(self.config), self.config
        if gate.layer_norm:
            self.norm = RMSNorm(self.config)
        xavier, constant = nn.initializers.xavier_uniform(), nn.initializers.constant(gate.bias_init)
        self.kernel = parameter(self, "kernel", xavier, ("embed", "gate"), (config.emb_dim, 1), config)
        self.bias = parameter(self, "bias", constant, ("gate",), (1,), config)

    def logits(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length"]:
        """Computes z: positive keeps."""
        wide = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
        if gate_config(self.config).layer_norm:
            wide = self.norm(wide)
        return (wide.reshape(-1, wide.shape[-1]) @ self.kernel + self.bias[None, :]).reshape(wide.shape[:-1])

    def values(self, logits: Float[Array, "batch length"]) -> Float[Array, "batch length"]:
        """Computes G, in (k, 0): 0 keeps, k deletes."""
        return gate_config(self.config).scale * jax.nn.sigmoid(-logits)

    def threshold(self) -> float:
        """Returns tau."""
        gate = gate_config(self.config)
        return LEARNED.threshold(gate) if gate.threshold is None else gate.threshold

    def more_penalties(
        self, logits: Float[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
    ) -> dict[str, Penalty]:
        """Returns terms of the loss besides the mean gate value."""
        return {}

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Segments = None,
    ) -> Selection:
        logits = self.logits(hidden)
        if gate_config(self.config).gumbel_noise and keys is not None:
            logits = logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
        values = self.values(logits)
        selection = selection_of_values((values > self.threshold()) & mask, values, mask, segments)
        return selection._replace(penalties=selection.penalties | self.more_penalties(logits, mask, segments))


LEARNED = SelectorRule(
    DeleteGate,
    reads=("scale", "threshold", "layer_norm", "bias_init", "gumbel_noise"),
    penalties={GATE_MEAN: PenaltyRule(count_tokens, "rate")},
    causal=True,
    multiply_adds=lambda config: config.emb_dim,
    logit=lambda gate, value: math.log((gate.scale - value) / value),
)
