"""Words as segments, as a splitting rule finds them (HAT, Neitemeier et al. 2025)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.segments import first_of_examples, previous, segments_by_rule
from mrt5_jax.selection.selector_rule import Segments, SelectorRule

SPACE, LETTER, MARK, SPECIAL = range(4)


def _classes() -> np.ndarray:
    """Of ids up to the last byte's. Bytes beyond ASCII are letters."""
    byte = np.arange(NUM_BYTES)
    space = np.isin(byte, list(b" \t\n\v\f\r"))
    letter = (byte >= 0x80) | np.array([chr(value).isalnum() for value in byte])
    classes = np.where(space, SPACE, np.where(letter, LETTER, MARK))
    return np.concatenate([np.full(BYTE_OFFSET, SPECIAL), classes])


_CLASSES = _classes()


def is_space(tokens: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """Marks white space of ASCII."""
    return byte_classes(tokens) == SPACE


def byte_classes(tokens: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Returns SPACE, LETTER, MARK, or SPECIAL of ids that are no bytes."""
    return jnp.where(tokens < len(_CLASSES), jnp.asarray(_CLASSES)[jnp.minimum(tokens, len(_CLASSES) - 1)], SPECIAL)


def word_begins(
    tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
) -> Bool[Array, "batch length"]:
    """Marks where words begin: runs of letters and digits, or of marks, each with the spaces before it.

    Ids that are no bytes are words of their own. So a word begins where the class of bytes changes, but for spaces.
    """
    kind = byte_classes(tokens)
    before = previous(kind)
    changes = (kind != before) & ((before != SPACE) | (kind == SPECIAL))
    return mask & (first_of_examples(mask, segments) | changes | (kind == SPECIAL))


class Words(nn.Module):
    """Pools words, each into its first position.

    Examples:
        >>> show_untrained("The cat, 42.", GateConfig(kind="words"))
        'T·· ···, ··.'
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
        dtype = jnp.promote_types(hidden.dtype, jnp.float32)
        return segments_by_rule(word_begins(tokens, mask, segments), mask, dtype)


WORDS = SelectorRule(Words, reads=(), penalties={}, pools=True, has_gate_values=False, causal=True)
