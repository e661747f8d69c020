"""Deletion rates that a selector's penalty holds by itself: the run's target becomes its prior."""

import dataclasses

from mrt5_jax.config import RunConfig
from mrt5_jax.selection.selectors import selector_rule


def with_held_target(run: RunConfig) -> RunConfig:
    """Returns the run with its target in the gate, where the selector has a penalty that holds one.

    The penalty's weight, `config.LossConfig.penalties`, is constant then. Any other run is returned as it is.
    """
    gate = run.model.gate
    if gate is None or run.controller is None:
        return run
    rule = selector_rule(gate)
    if rule.holding is None:
        return run
    hold = rule.penalties[rule.holding].hold
    assert hold is not None
    gate = hold(gate, run.controller.target_deletion_rate)
    return dataclasses.replace(run, model=dataclasses.replace(run.model, gate=gate))
