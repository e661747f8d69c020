"""What training carries from step to step."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.model.parameters import Params
from mrt5_jax.objectives.controller import ControllerState
from mrt5_jax.objectives.kept_lengths import KeptLengths
from mrt5_jax.objectives.two_sided import TwoSidedState


class MonitorState(NamedTuple):
    saturated: Bool[Array, ""]
    """Whether steps may drop saturated positions."""
    gap: Float[Array, ""]
    """Relative difference of saturated from soft deletion's loss, when last compared."""


def initial_monitor(dtype: DTypeLike = jnp.float32) -> MonitorState:
    """Returns the state before the first comparison; `dtype` is that of the gap."""
    return MonitorState(jnp.asarray(True), jnp.zeros((), dtype))


class TrainState(NamedTuple):
    """All that a step changes; a pytree, and all of it is in the checkpoint."""

    step: Int[Array, ""]
    """Number of updates made, int32."""
    params: Params
    """The parameters; boxed in their logical axis names only while the state is being born."""
    opt_state: optax.OptState
    """The optimizer's state (optax)."""
    controller: ControllerState | TwoSidedState
    """State of the controller of alpha."""
    monitor: MonitorState | None = None
    """State of the monitor of saturated deletion; None in runs that never delete by saturation."""
    kept: dict[str, KeptLengths] | None = None
    """What each deletion that removes positions would have kept lately; None in a model without a gate."""
