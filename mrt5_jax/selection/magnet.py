"""MAGNET (Ahia et al. 2024): boundary predictors by script, each with a prior of its own."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.selection.boundary_losses import binomial_surprise, per_input
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
from mrt5_jax.selection.settings import rate

_SETTINGS = {**{script: rate(None) for script in SCRIPTS}, **PREDICTOR_SETTINGS}


def priors_of(gate: GateConfig) -> dict[str, float]:
    """Returns the priors by script, in the order in which they are given."""
    return {name: float(value) for name, value in gate.settings if name in SCRIPTS}


class Magnet(BoundaryPredictor):
    r"""A boundary predictor for each script that has a prior; the script is told by the bytes up to a position.

    Positions whose script is not told yet, or has no prior, have the first predictor. The penalty of an example adds up
    the scripts in it, L its inputs and L_s those of a script:

    .. math::
        \frac{1}{L} \sum_s -\log \operatorname{Binomial}(\textstyle\sum_{t \in s} b_t; L_s, \text{prior}_s)

    Examples:
        >>> priors = (("latin", 0.2), ("cyrillic", 0.1), ("bias_init", 30.0))  # everywhere a boundary
        >>> show_untrained("The cat, 42.", GateConfig(kind="magnet", settings=priors))
        'The cat, 42.'
    """

    def num_predictors(self) -> int:
        """Returns the number of priors."""
        return len(priors_of(gate_config(self.config)))

    def predictor_of(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
    ) -> Int[Array, "batch length"]:
        """Returns the place of each position's script among the priors."""
        scripts = list(priors_of(gate_config(self.config)))
        # The last entry is of positions whose script is not told: -1.
        places = [scripts.index(script) if script in scripts else 0 for script in SCRIPTS] + [0]
        return jnp.asarray(places)[script_of(tokens, mask, segments)]

    def penalties(
        self,
        boundary: Float[Array, "batch length"],
        logits: Float[Array, "batch length"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        segments: Segments,
    ) -> dict[str, Penalty]:
        """Returns the mean surprise of the boundaries, each script's by its prior."""
        predictor, surprise = self.predictor_of(tokens, mask, segments), 0.0
        for number, prior in enumerate(priors_of(gate_config(self.config)).values()):
            of_script = mask & (predictor == number)
            size = sum_examples(jnp.ones_like(boundary), of_script, segments)
            surprise = surprise + binomial_surprise(sum_examples(boundary, of_script, segments), size, prior)
        return {"boundaries": per_input(jnp.asarray(surprise), mask, segments)}


def _check(gate: GateConfig) -> None:
    if not priors_of(gate):
        raise UserError(
            "config.GateConfig.settings: a selector of kind = 'magnet' needs the prior of a script at least, as in "
            f"(('latin', 0.2),); the bytes tell {', '.join(SCRIPTS)}"
        )


MAGNET = SelectorRule(
    Magnet,
    reads=("settings",),
    penalties={"boundaries": PenaltyRule(count_examples, "target")},
    pools=True,
    has_gate_values=False,
    causal=True,
    settings=_SETTINGS,
    check=_check,
    parameters=predictor_shapes(lambda gate: len(priors_of(gate))),
    multiply_adds=lambda config: len(priors_of(gate_config(config))) * config.mlp_dim * (config.emb_dim + 1),
)
