"""An oracle: it keeps what a file says, so that masks of another model, or of no model, can be replayed."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.mask_file import check_known, look_up, read_masks
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selector_rule import (
    RULE_PENALTIES,
    Segments,
    SelectorRule,
    gate_config,
    selection_by_rule,
    selection_of_values,
)
from mrt5_jax.selection.settings import any_text, given

_SETTINGS = {"masks": any_text(None, "the path of a file of masks (docs/schemes.md)")}


class Oracle(nn.Module):
    """Keeps positions whose mask in the file is 1. Of an example that the file does not have, all values are NaN.

    Examples:
        >>> _ = Path("masks.jsonl").write_text('{"inputs": "The cat", "mask": "10010001"}')
        >>> show_untrained("The cat", GateConfig(kind="oracle", settings=(("masks", "masks.jsonl"),)))
        'T·· ···'
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
        masks = read_masks(given(gate_config(self.config), _SETTINGS, "masks"), "masks")
        found = look_up(masks, tokens, mask, segments)
        selection = selection_by_rule(found.mask | ~found.known, mask, segments, self.config)
        values = selection.signals.key_bias
        assert values is not None
        values = jnp.where(found.known | ~mask, values, jnp.nan)
        statistics = selection.statistics
        return selection_of_values(selection.keep, values, mask, segments)._replace(statistics=statistics)


def _check(gate: GateConfig) -> None:
    if given(gate, _SETTINGS, "masks") is None:
        raise UserError(
            "config.GateConfig.settings: a selector of kind = 'oracle' needs a file of masks, as in "
            "(('masks', 'masks.jsonl'),)"
        )
    read_masks(given(gate, _SETTINGS, "masks"), "masks")


def _check_examples(gate: GateConfig, tokens: np.ndarray, segments: np.ndarray | None) -> None:
    path = given(gate, _SETTINGS, "masks")
    check_known(read_masks(path, "masks"), path, tokens, segments)


ORACLE = SelectorRule(
    Oracle,
    reads=("scale", "settings"),
    penalties=RULE_PENALTIES,
    settings=_SETTINGS,
    check=_check,
    check_examples=_check_examples,
    evaluates_alone=False,
)
