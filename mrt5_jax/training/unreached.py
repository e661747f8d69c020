"""Says once, halfway through a run, which targets of the controller were not reached."""

import jax
import numpy as np

from mrt5_jax.config import RunConfig
from mrt5_jax.objectives.two_sided import TwoSidedState, controller_targets
from mrt5_jax.parallel.processes import say
from mrt5_jax.training.hooks import Hook, Moment
from mrt5_jax.training.steering import controller_names


class UnreachedTarget(Hook):
    """Says halfway through a run, when each rate should have arrived, which of them are more than 3 points away."""

    tolerance = 0.03

    def __init__(self, run: RunConfig) -> None:
        """Of a run without a two-sided controller it says nothing."""
        self._config, self._step = run.controller, -(-run.training.num_steps // 2)

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return moment.step == self._step and isinstance(moment.state.controller, TwoSidedState)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        assert self._config is not None
        state = moment.state.controller
        assert isinstance(state, TwoSidedState)
        rates = np.atleast_1d(jax.device_get(state.rate))
        targets = np.atleast_1d(controller_targets(self._config))
        names = controller_names(self._config) or ("",)
        for name, rate, target in zip(names, rates, targets, strict=True):
            if abs(rate - target) > self.tolerance:
                of = f" of {name}" if name else ""
                say(
                    f"step {moment.step}: the deletion rate{of} stays at {rate:.1%}, and its target {target:.1%} was "
                    "to be reached by now; give a target that this model can reach, or more steps"
                )
