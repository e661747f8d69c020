"""FLEXITOKENS (2025): a boundary predictor whose rate may move freely between two bounds."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.selection.boundary_losses import per_input
from mrt5_jax.selection.boundary_predictor import PREDICTOR_SETTINGS, BoundaryPredictor, predictor_shapes
from mrt5_jax.selection.protocol import Penalty
from mrt5_jax.selection.scripts import SCRIPTS, script_of
from mrt5_jax.selection.selector_rule import (
    PenaltyRule,
    Segments,
    SelectorRule,
    count_examples,
    gate_config,
    sum_examples,
)
from mrt5_jax.selection.settings import given, rate

_SETTINGS = {
    "lower": rate(0.1),
    "upper": rate(0.3),
    **{f"{script}_{bound}": rate(None) for script in SCRIPTS for bound in ("lower", "upper")},
    **PREDICTOR_SETTINGS,
}


def bounds_of(gate: GateConfig) -> dict[str | None, tuple[float, float]]:
    """Returns (lower, upper) by script; None has those of all scripts without bounds of their own."""
    lowest, highest = given(gate, _SETTINGS, "lower"), given(gate, _SETTINGS, "upper")
    found: dict[str | None, tuple[float, float]] = {None: (lowest, highest)}
    for script in SCRIPTS:
        lower, upper = (given(gate, _SETTINGS, f"{script}_{bound}") for bound in ("lower", "upper"))
        if (lower, upper) != (None, None):
            found[script] = (lowest if lower is None else lower, highest if upper is None else upper)
    return found


class Flexitokens(BoundaryPredictor):
    r"""A boundary predictor whose penalty is 0 while the share of boundaries lies between two bounds.

    .. math::
        \max(0, \text{share} - \text{upper}) + \max(0, \text{lower} - \text{share})

    An example's bounds are the means of those of its positions, by their scripts.

    Examples:
        >>> bounds = (("lower", 0.1), ("upper", 0.3), ("bias_init", -30.0))
        >>> show_untrained("The cat, 42.", GateConfig(kind="flexitokens", settings=bounds))
        'T···········'
    """

    def penalties(
        self,
        boundary: Float[Array, "batch length"],
        logits: Float[Array, "batch length"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        segments: Segments,
    ) -> dict[str, Penalty]:
        """Returns the hinge of each example's share of boundaries."""
        bounds = bounds_of(gate_config(self.config))
        table = np.array([bounds.get(script, bounds[None]) for script in (*SCRIPTS, None)])
        of_position = jnp.asarray(table, boundary.dtype)[script_of(tokens, mask, segments)]
        count, lower, upper = (
            sum_examples(values, mask, segments) for values in (boundary, of_position[..., 0], of_position[..., 1])
        )
        # Times the inputs: `per_input` divides by them.
        excess = jax.nn.relu(count - upper) + jax.nn.relu(lower - count)
        return {"bounds": per_input(excess, mask, segments)}


def _check(gate: GateConfig) -> None:
    for script, (lower, upper) in bounds_of(gate).items():
        if lower > upper:
            prefix = "" if script is None else f"{script}_"
            raise UserError(
                f"config.GateConfig.settings: '{prefix}lower' = {lower} is above '{prefix}upper' = {upper}: give "
                "bounds that a rate can lie between"
            )


FLEXITOKENS = SelectorRule(
    Flexitokens,
    reads=("settings",),
    penalties={"bounds": PenaltyRule(count_examples, "target")},
    pools=True,
    has_gate_values=False,
    causal=True,
    settings=_SETTINGS,
    check=_check,
    parameters=predictor_shapes(lambda gate: 1),
    multiply_adds=lambda config: config.mlp_dim * (config.emb_dim + 1),
)
