"""What became of dispatched steps: a loss that is not finite ends a run, as do many refused steps in a row."""

import io
import math
from typing import NoReturn

import jax
import numpy as np

from mrt5_jax.config import RunConfig
from mrt5_jax.data.prefetch import Prefetched
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.processes import say
from mrt5_jax.runs.checkpoints import Checkpoints, DataState
from mrt5_jax.runs.files import FilePath, as_path, files_for
from mrt5_jax.training.hooks import is_reported
from mrt5_jax.training.step import Metrics
from mrt5_jax.training.writers import Writers


class Outcomes:
    """Reads the results of several steps together, so that steps do not wait for the host.

    Args:
        batches: what the steps' batches came from; read again where one is to be kept.
    """

    def __init__(self, run: RunConfig, batches: Prefetched, writers: Writers, checkpoints: Checkpoints) -> None:
        self._run, self._batches, self._writers, self._checkpoints = run, batches, writers, checkpoints
        self._dispatched: list[tuple[Metrics, DataState]] = []
        """Of steps that may not have been computed yet: metrics, and where the data stood before the batch was read."""
        self._refused = 0
        """Steps in a row, up to the last one that was read."""

    def add(self, metrics: Metrics, data_state: DataState) -> None:
        """Notes that a step was dispatched; `data_state` is where the data stood before its batch was read."""
        self._dispatched.append((metrics, data_state))

    def read(self, step: int) -> None:
        """Waits for the steps up to this one, and stops where going on is worth nothing.

        A refused step is told and has its line of metrics, whether its number is to be reported or not.

        Args:
            step: the last one added.

        Raises:
            UserError: a loss is not finite, or `max_refused_steps` steps in a row were refused.
        """
        steps, self._dispatched = self._dispatched, []
        found = jax.device_get([(metrics["total_loss"], metrics.get("refused", 0)) for metrics, _ in steps])
        numbers = range(step - len(steps) + 1, step + 1)
        for at, (metrics, data_state), (loss, refused) in zip(numbers, steps, found, strict=True):
            if not math.isfinite(loss):
                self._stop(f"the loss of step {at} is not finite", at, data_state)
            if not refused:
                self._refused = 0
                continue
            self._refused += 1
            allowed = self._run.training.max_refused_steps
            say(
                f"step {at}: the gradient is not finite, so the step is refused and parameters stay "
                f"({self._refused} in a row; {allowed} end the run)"
            )
            if at < step or not is_reported(self._run, at) or self._refused == allowed:
                self._writers.write(at, metrics, {})
            if self._refused == allowed:
                in_a_row = f"step {at}" if allowed == 1 else f"{allowed} steps in a row, up to step {at},"
                self._stop(f"no gradient of {in_a_row} is finite", at, data_state)

    def _stop(self, reason: str, step: int, data_state: DataState) -> NoReturn:
        """What follows would be lost, and a checkpoint of it worthless. The step's batch is kept, to be looked at."""
        self._writers.flush()
        self._checkpoints.wait()
        saved = self._checkpoints.latest_step
        good = "none" if saved is None else f"that of step {saved}"
        batch = self._save_batch(step, data_state)
        raise UserError(
            f"{reason}: training of {self._run.model_dir} stopped; the last good checkpoint is {good}, the step's "
            f"batch is in {batch}; try a lower learning rate"
        )

    def _save_batch(self, step: int, data_state: DataState) -> FilePath:
        """Reads the batch of a step again, and writes this process's rows of it into MODEL_DIR."""
        self._batches.restore(data_state)
        of_process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = as_path(self._run.model_dir) / f"non_finite_batch_{step}{of_process}.npz"
        content = io.BytesIO()
        np.savez(content, **next(self._batches).rows)  # pyright: ignore[reportArgumentType]
        files_for(path).write(path, content.getvalue())
        return path
