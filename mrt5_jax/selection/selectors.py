"""The table of selectors: which positions the rest of the model sees.

To add one, write its file and its line here; `config.GateConfig.kind` takes the name.
"""

import flax.linen as nn

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.selection.fixed_selector import FIXED
from mrt5_jax.selection.learned_gate import LEARNED
from mrt5_jax.selection.log_sigmoid_gate import LOG_SIGMOID
from mrt5_jax.selection.random_selector import RANDOM
from mrt5_jax.selection.selector_rule import SelectorRule, gate_config
from mrt5_jax.spelling import nearest

SELECTORS: dict[str, SelectorRule] = {
    "learned": LEARNED,
    "random": RANDOM,
    "fixed": FIXED,
    "log_sigmoid": LOG_SIGMOID,
}


def selector_rule(gate: GateConfig) -> SelectorRule:
    """Returns what the selector of a gate is.

    Raises:
        UserError: there is none of this name.
    """
    if gate.kind not in SELECTORS:
        names = " or ".join(map(repr, SELECTORS))
        raise UserError(
            f"config.GateConfig.kind = {gate.kind!r}: should be {names}{nearest(gate.kind, list(SELECTORS))}"
        )
    return SELECTORS[gate.kind]


def make_selector(config: ModelConfig) -> nn.Module:
    """Returns the selector that `config.gate` names."""
    return selector_rule(gate_config(config)).make(config)


def deletion_threshold(gate: GateConfig) -> float:
    """Returns tau: hard deletion keeps gate values above it."""
    return selector_rule(gate).threshold(gate) if gate.threshold is None else gate.threshold
