"""The selector of convolutional pooling (CANINE, Clark et al. 2022): every r-th position owns a slot."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.segments import shares
from mrt5_jax.selection.selector_rule import Segments, SelectorRule, gate_config


class EveryKth(nn.Module):
    """Keeps the first of every r positions of an example; the others are merged into it.

    Windows begin anew with each example of a packed row, so none crosses examples. A tail shorter than r is a window of
    its own, except where `drop_tail` asks for the authors' behaviour.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="every_kth", stride=4))
        'T···c··· ···'
    """

    config: ModelConfig

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Segments = None,
    ) -> Selection:
        gate = gate_config(self.config)
        length = tokens.shape[1]
        position = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        start = jnp.zeros_like(position)
        if segments is not None:
            begins = (segments != jnp.roll(segments, 1, axis=1)) | (position == 0)
            start = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
        merged_into = position - (position - start) % gate.stride
        keep = mask & (merged_into == position)
        if gate.drop_tail:
            keep = keep & (position + gate.stride <= length)
        dtype = jnp.promote_types(hidden.dtype, jnp.float32)
        weights = shares(jnp.ones(mask.shape, dtype), merged_into, mask)
        statistics = {"rescued": jnp.zeros(mask.shape[0], jnp.float32)}
        return Selection(keep, merged_into, -position.astype(dtype), Signals(weights=weights), {}, statistics)


EVERY_KTH = SelectorRule(
    EveryKth,
    reads=("stride", "drop_tail", "reduction"),
    penalties={},
    pools=True,
    has_gate_values=False,
    causal=True,
)
