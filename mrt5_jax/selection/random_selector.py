"""The selector that deletes at random (MrT5's baseline)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.randomness import SelectorUse
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.random_choice import chance_of, rank_by, token_keys
from mrt5_jax.selection.selector_rule import (
    RULE_PENALTIES,
    Segments,
    SelectorRule,
    gate_config,
    selection_by_rule,
)

RANDOM_SHARE_STD = 0.05
"""Standard deviation of a row's share of random deletions."""


class RandomSelector(nn.Module):
    """Deletes a Normal(p, 0.05) share of each row's positions, chosen at random.

    Without keys (outside training) the choice is a function of the row's tokens alone, so that it repeats.

    Examples:
        >>> len(show_untrained("The cat, 42.", GateConfig(kind="random", deletion_probability=0.25)))
        12
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
        keys = token_keys(tokens) if keys is None else keys
        share = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, SelectorUse.SHARE)))(keys)
        share = jnp.clip(gate_config(self.config).deletion_probability + RANDOM_SHARE_STD * share, 0.0, 1.0)
        present = jnp.sum(mask, axis=1)
        count = present - jnp.round(share * present).astype(present.dtype)
        chance = chance_of(keys, mask, SelectorUse.POSITIONS)
        selection = selection_by_rule((rank_by(chance) < count[:, None]) & mask, mask, segments, self.config)
        # What a capacity drops is random too.
        return selection._replace(priority=(-chance).astype(selection.priority.dtype))


RANDOM = SelectorRule(
    RandomSelector,
    reads=("scale", "deletion_probability"),
    penalties=RULE_PENALTIES,
)
