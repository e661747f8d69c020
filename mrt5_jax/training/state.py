"""What training carries from step to step."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int

Params = dict[str, Any]
"""Nested dictionary of parameter arrays, unboxed."""


class TrainState(NamedTuple):
    """All that a step changes; a pytree, and all of it is in the checkpoint."""

    step: Int[Array, ""]
    """Number of updates made, int32."""
    params: Any
    """The parameters; boxed in their logical axis names only while the state is being born."""
    opt_state: Any
    """The optimizer's state (optax)."""
    controller: Any
    """State of the controller of alpha; None without one."""
