"""SpaceByte's rule (Slagle 2024): what is kept are the bytes that end a word, which are told by the bytes alone."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.segments import first_of_examples, previous
from mrt5_jax.selection.selector_rule import RULE_PENALTIES, Segments, SelectorRule, selection_by_rule


def _spacelike() -> np.ndarray:
    """Of ids up to the last byte's: neither an ASCII letter or digit nor a continuation byte of UTF-8."""
    byte = np.arange(NUM_BYTES)
    letter = (byte < 0x80) & np.array([chr(value).isalnum() for value in byte])
    inside = letter | ((byte >= 0x80) & (byte <= 0xBF))
    return np.concatenate([np.ones(BYTE_OFFSET, bool), ~inside])


_SPACELIKE = _spacelike()


def is_spacelike(tokens: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """Marks spacelike ids. Those that are no bytes are: end of sequence, unknown, sentinels."""
    return (tokens >= len(_SPACELIKE)) | jnp.asarray(_SPACELIKE)[jnp.where(tokens < len(_SPACELIKE), tokens, 0)]


class Spacelike(nn.Module):
    """Keeps spacelike bytes after bytes that are not, and the first of each example.

    A first byte of a longer character is spacelike, so each character of scripts beyond ASCII is kept by it.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="spacelike"))
        'T·· ···,···.'
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
        spacelike = is_spacelike(tokens)
        keep = mask & (first_of_examples(mask, segments) | (spacelike & ~previous(spacelike)))
        return selection_by_rule(keep, mask, segments, self.config)


SPACELIKE = SelectorRule(Spacelike, reads=("scale",), penalties=RULE_PENALTIES, causal=True)
