"""Watches whether saturated deletion still equals soft deletion, and goes over to soft deletion while it does not.

Dropping positions of gate value G changes attention weights by about e^(score + G): nothing while scores are small, and
everything when they have grown as large as -G. The state is in the checkpoint, so that a resumed run goes on alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mrt5_jax.compaction.chunks import split_rows
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import MonitorConfig, RunConfig
from mrt5_jax.dropout import RowKeys
from mrt5_jax.network import MrT5
from mrt5_jax.training.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.training.gradients import loss_value
from mrt5_jax.training.state import MonitorState, TrainState
from mrt5_jax.training.step import make_setting, step_inputs

Check = Callable[[TrainState, dict[str, Array]], TrainState]
"""(state, batch of the next step) -> the state with the monitor's findings."""


def is_due(config: MonitorConfig, step: int) -> bool:
    """Whether a comparison comes before this step (the first is 1)."""
    return (step - 1) % config.interval == 0


def judge(
    config: MonitorConfig, before: MonitorState, saturated: Float[Array, ""], soft: Float[Array, ""]
) -> MonitorState:
    """Off above the tolerance; on again only well below it, so that a loss at the tolerance does not flicker."""
    gap = jnp.abs(saturated - soft) / jnp.maximum(jnp.abs(soft), jnp.finfo(soft.dtype).tiny)
    limit = jnp.where(before.saturated, config.tolerance, config.tolerance * config.hysteresis)
    return MonitorState(gap <= limit, gap.astype(jnp.float32))


def make_check(model: MrT5, run: RunConfig, ladder: Ladder, shards: RowShards = ONE_SHARD) -> Check:
    """Both losses of a batch, with the randomness that its step will have; to be jitted."""
    saturated = make_setting(model, run, ladder, shards)
    soft = saturated._replace(deletion="soft")

    def check(state: TrainState, batch: dict[str, Array]) -> TrainState:
        inputs = step_inputs(run, state, batch)
        parts = split_rows((batch, inputs.row_keys), run.execution.microbatches, shards.count)

        def both(part: tuple[dict[str, Array], RowKeys]) -> list[Float[Array, ""]]:
            rows, keys = part
            return [loss_value(setting, state.params, rows, inputs.objective, keys) for setting in (saturated, soft)]

        losses = [jnp.sum(loss) for loss in jax.lax.map(both, parts)]
        assert state.monitor is not None
        return state._replace(monitor=judge(run.monitor, state.monitor, *losses))

    return check


def monitor_metrics(state: TrainState) -> dict[str, Array]:
    """What the monitor found; nothing where there is none."""
    if not isinstance(state.monitor, MonitorState):
        return {}
    return {
        "monitor_saturated": state.monitor.saturated.astype(jnp.float32),
        "monitor_gap": state.monitor.gap,
    }
