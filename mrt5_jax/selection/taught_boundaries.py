"""A boundary predictor that learns given boundaries (Nawrot et al. 2023): white space, or those of a user's file."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import GateConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.boundary_predictor import PREDICTOR_SETTINGS, BoundaryPredictor, predictor_shapes
from mrt5_jax.selection.mask_file import check_known, look_up, read_masks
from mrt5_jax.selection.protocol import Penalty, Selection
from mrt5_jax.selection.segments import last_of_examples, segments_of_boundaries
from mrt5_jax.selection.selector_rule import PenaltyRule, Segments, SelectorRule, count_tokens, gate_config
from mrt5_jax.selection.settings import any_text, given
from mrt5_jax.selection.words import is_space

WHITE_SPACE = "white_space"
_SETTINGS = {
    "teacher": any_text(WHITE_SPACE, f"{WHITE_SPACE!r}, or the path of a file of masks (docs/schemes.md)"),
    "bias_init": PREDICTOR_SETTINGS["bias_init"],
}


class TaughtBoundaries(BoundaryPredictor):
    r"""A boundary predictor that learns from a teacher where segments end; in training its segments are pooled.

    Elsewhere the predictor decides alone and needs no teacher; its penalty is 0 there. In training it is the
    cross-entropy of the teacher's boundaries y, a mean over inputs:

    .. math::
        \operatorname{mean}_t \log(1 + e^{z_t}) - y_t z_t

    Examples:
        >>> teacher = (("teacher", "white_space"), ("bias_init", -30.0))
        >>> show_untrained("The cat, 42.", GateConfig(kind="taught_boundaries", settings=teacher))
        'T···········'
    """

    def taught(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
    ) -> Float[Array, "batch length"]:
        """Returns the teacher's boundaries, 1 where a segment ends; NaN in examples that its file does not have."""
        teacher = given(gate_config(self.config), _SETTINGS, "teacher")
        if teacher == WHITE_SPACE:
            return (mask & is_space(tokens)).astype(jnp.float32)
        found = look_up(read_masks(teacher, "teacher"), tokens, mask, segments)
        return jnp.where(found.known | ~mask, found.mask.astype(jnp.float32), jnp.nan)

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Segments = None,
    ) -> Selection:
        logits = self.logits(hidden, self.predictor_of(tokens, mask, segments))
        if keys is None:
            ends, losses = logits > 0, jnp.zeros_like(logits)
        else:
            taught = self.taught(tokens, mask, segments)
            ends, losses = taught > 0.5, jax.nn.softplus(logits) - taught * logits
        ends = mask & (ends | last_of_examples(mask, segments))
        selection = segments_of_boundaries(ends.astype(logits.dtype), jax.nn.sigmoid(logits), mask, segments)
        penalty = Penalty(jnp.sum(jnp.where(mask, losses, 0), axis=1), count_tokens(mask, segments))
        return selection._replace(penalties={"teacher": penalty})


def _check_examples(gate: GateConfig, tokens: np.ndarray, segments: np.ndarray | None) -> None:
    # The file is read here and not with the settings: evaluation and inference do without it.
    if (teacher := given(gate, _SETTINGS, "teacher")) != WHITE_SPACE:
        check_known(read_masks(teacher, "teacher"), teacher, tokens, segments)


TAUGHT_BOUNDARIES = SelectorRule(
    TaughtBoundaries,
    reads=("settings",),
    penalties={"teacher": PenaltyRule(count_tokens, "target")},
    pools=True,
    has_gate_values=False,
    causal=True,
    settings=_SETTINGS,
    check_examples=_check_examples,
    parameters=predictor_shapes(lambda gate: 1),
    multiply_adds=lambda config: config.mlp_dim * (config.emb_dim + 1),
)
