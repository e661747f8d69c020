"""Says once, while a run goes on, what would help where it deletes much more than its slots save."""

from collections.abc import Callable

import jax

from mrt5_jax.config import RunConfig
from mrt5_jax.evaluation.tables import MORE_THAN_SAVED
from mrt5_jax.parallel.processes import say
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.hooks import Hook, Moment, is_reported


class SavingHint(Hook):
    """Compares deletion rate and slots of the reported steps, over as many steps as lie between two decisions."""

    def __init__(self, run: RunConfig, choices: Choices, allowed: Callable[[], bool]) -> None:
        """Begins anew whenever a run is started; `allowed` says whether the monitor lets saturated deletion go on."""
        self._run, self._choices, self._allowed = run, choices, allowed
        self._deleted: list[float] = []
        self._saved: list[float] = []
        self._told = run.model.gate is None

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return not self._told and "rung" in moment.metrics and is_reported(self._run, moment.step)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`."""
        deleted, slots = jax.device_get((moment.metrics["deletion_rate"], moment.metrics["rung"]))
        self._deleted.append(float(deleted))
        self._saved.append(1 - float(slots) / moment.batch["encoder_input_tokens"].shape[1])
        interval = self._run.monitor.interval
        if moment.step // interval == (moment.step - self._run.execution.log_every) // interval and not moment.last:
            return
        deleted, saved = (sum(shares) / len(shares) for shares in (self._deleted, self._saved))
        self._deleted, self._saved = [], []
        if deleted - saved > MORE_THAN_SAVED:
            self._told = True
            found = f"{deleted:.0%} of the inputs are deleted, and slots save {saved:.0%}"
            say(f"step {moment.step}: {found}: {self._help()}")

    def _help(self) -> str:
        deletions, execution = step_deletions(self._run), self._run.execution
        if deletions.why:
            return deletions.why
        if not deletions.any_removes:
            return "steps remove nothing; config.TrainingConfig.deletion = 'auto' does where it saves something"
        if not self._allowed():
            return "the monitor keeps steps soft; config.LossConfig.score_penalty keeps scores below gate values"
        if not self._choices.removes_anywhere:
            return (
                f"{deletions.preferred} deletion does not pay yet: it keeps positions of middling gate values, or "
                "batches are small; it begins when it pays"
            )
        if execution.chunks == 1:
            return "a batch's fullest row decides for all; config.ExecutionConfig.chunks = 'auto' cuts it into chunks"
        return (
            "more rows in a batch, or more lengths to choose from (config.ExecutionConfig.rounding, max_rungs), bring "
            "slots nearer to what rows keep"
        )
