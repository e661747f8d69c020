"""The selector that deletes the ends of words (MrT5's baseline)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selector_rule import (
    RULE_PENALTIES,
    Segments,
    SelectorRule,
    gate_config,
    selection_by_rule,
)

SEPARATORS = (12, 13, *range(35, 51), *range(61, 68), *range(94, 100), *range(126, 130), 1)
"""Ids at which segments begin: white space, ASCII punctuation and the end of the sequence."""


class FixedSelector(nn.Module):
    """Keeps the first ceil((1 - p) * length) bytes of every segment; segments begin at separator bytes.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="fixed", deletion_probability=0.5))
        'Th· c··, 4·.'
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
        length = tokens.shape[1]
        position = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        begins = jnp.isin(tokens, jnp.asarray(SEPARATORS)) | (position == 0)
        if segments is not None:
            begins = begins | (segments != jnp.roll(segments, 1, axis=1))
        start = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
        # A segment ends where the next one begins, or where the row's input does.
        after = jnp.where(begins | ~mask, position, length)
        after = jnp.concatenate([after[:, 1:], jnp.full((tokens.shape[0], 1), length)], axis=1)
        end = jax.lax.cummin(after, axis=1, reverse=True)
        # Counted outside the program: in float32, 0.6 * 25 is above 15.
        share = 1.0 - gate_config(self.config).deletion_probability
        kept_of_size = np.ceil(np.round(share * np.arange(length + 1), 6)).astype(np.int32)
        keep = (position - start < jnp.asarray(kept_of_size)[end - start]) & mask
        return selection_by_rule(keep, mask, segments, self.config)


FIXED = SelectorRule(
    FixedSelector,
    reads=("scale", "deletion_probability"),
    penalties=RULE_PENALTIES,
)
