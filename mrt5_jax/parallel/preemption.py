"""Being asked to stop: save and leave, so that the next start goes on without losing a step."""

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
    """Whether this run has been asked to stop; a context manager around the loop.

    One process: SIGTERM sets the notice instead of ending the process. Several: JAX's preemption service takes SIGTERM,
    or the cluster's notice, of any of them, and all learn of it at the same step.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._before: Any = None

    def __enter__(self) -> "PreemptionNotice":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Says whether to save and stop after `step`; to be asked after every step, in every process."""
        return self._signalled or (jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
