"""A trace of chosen steps by `jax.profiler`, for TensorBoard or Perfetto."""

from collections.abc import Mapping

import jax
from jaxtyping import Array

from mrt5_jax.runs.files import AnyPath, as_path
from mrt5_jax.runs.mirrored import Mirrored
from mrt5_jax.training.hooks import Hook, Moment
from mrt5_jax.training.state import TrainState

PROFILE = "profile"
"""The folder in MODEL_DIR; every process writes what its own devices did."""


class StepTrace(Hook):
    """Traces the steps from the first to the last of `steps`; a trace that is open when the run ends, ends with it."""

    def __init__(self, model_dir: AnyPath, steps: tuple[int, int] | None) -> None:
        self._target, self._steps = as_path(model_dir) / PROFILE, steps
        self._open: Mirrored | None = None

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        """See `Hook`."""
        if self._steps is not None and step == self._steps[0]:
            self._open = Mirrored(self._target)
            jax.profiler.start_trace(self._open.folder)
        return state

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return self._open is not None and self._steps is not None and moment.step == self._steps[1]

    def __call__(self, moment: Moment) -> None:
        """Waits for the last step that is traced, and ends the trace."""
        jax.block_until_ready(moment.metrics)
        self.close()

    def close(self) -> None:
        """See `Hook`."""
        if self._open is not None:
            jax.profiler.stop_trace()
            self._open.close()
            self._open = None
