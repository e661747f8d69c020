"""Watches whether saturated deletion still equals soft deletion, and goes over to soft deletion while it does not.

Dropping positions of gate value G changes attention weights by about e^(score + G): nothing while scores are small, and
everything when they have grown as large as -G. The state is in the checkpoint, so that a resumed run goes on alike.

What is compared is what the targets say, cross-entropy and z-loss. The score penalty differs by construction (under
saturated deletion it is a mean over the pairs that are left), so do the drops of a capacity, and the gate's term, equal
under both, could bring the loss that the difference is relative to near 0.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import MonitorConfig, RunConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import DeviceBatch
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.training.gradients import target_loss
from mrt5_jax.training.state import MonitorState, TrainState
from mrt5_jax.training.step import Metrics, make_setting, step_inputs


class Checked(NamedTuple):
    """The state with the monitor's findings, and the losses that it compared."""

    state: TrainState
    saturated_loss: Float[Array, ""]
    soft_loss: Float[Array, ""]


Check = Callable[[TrainState, DeviceBatch], Checked]
"""(state, batch of the next step) -> what was found with it."""


def is_due(config: MonitorConfig, step: int) -> bool:
    """Says whether a comparison comes before this step (the first is 1)."""
    return (step - 1) % config.interval == 0


def judge(
    config: MonitorConfig, before: MonitorState, saturated: Float[Array, ""], soft: Float[Array, ""]
) -> MonitorState:
    """Switches off above the tolerance, and on again only well below it: a loss at the tolerance does not flicker."""
    gap = jnp.abs(saturated - soft) / jnp.maximum(jnp.abs(soft), jnp.finfo(soft.dtype).tiny)
    limit = jnp.where(before.saturated, config.tolerance, config.tolerance * config.hysteresis)
    return MonitorState(gap <= limit, gap.astype(before.gap.dtype))


def make_check(model: MrT5, run: RunConfig, ladder: Ladder, shards: RowShards = ONE_SHARD) -> Check:
    """Returns a function that compares both losses of a batch, with the randomness of its step; to be jitted."""
    if ladder.rungs[-1] < ladder.full_length:  # a capacity: without what it drops
        ladder = Ladder((ladder.full_length,))
    stand_in = DELETIONS[run.training.deletion].stand_in
    assert stand_in is not None
    saturated = make_setting(model, run, ladder, shards)
    settings = saturated, dataclasses.replace(saturated, deletion=stand_in)

    def check(state: TrainState, batch: DeviceBatch) -> Checked:
        objective, row_keys = step_inputs(run, state, batch)
        losses = [target_loss(setting, state.params, batch, objective, row_keys) for setting in settings]
        assert state.monitor is not None
        return Checked(state._replace(monitor=judge(run.monitor, state.monitor, *losses)), *losses)

    return check


def switch_line(config: MonitorConfig, step: int, checked: Checked) -> str:
    """Says which way the monitor has switched before a step, and why."""
    assert checked.state.monitor is not None
    saturated = bool(checked.state.monitor.saturated)
    losses = f"{float(checked.saturated_loss):.7g}, soft deletion's {float(checked.soft_loss):.7g}"
    gap, back = float(checked.state.monitor.gap), config.tolerance * config.hysteresis
    found = f"step {step}: saturated deletion's loss is {losses}, a relative difference of {gap:.3g}"
    if saturated:
        return f"{found}, at most {back:.3g}: steps delete by saturation again"
    return f"{found}, above the tolerance {config.tolerance:.3g}: steps delete softly until it is at most {back:.3g}"


def monitor_metrics(state: TrainState) -> Metrics:
    """Returns what the monitor found; nothing where there is none."""
    if not isinstance(state.monitor, MonitorState):
        return {}
    return {
        "monitor_saturated": state.monitor.saturated.astype(jnp.float32),
        "monitor_gap": state.monitor.gap,
    }
