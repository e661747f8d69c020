"""By which deletions the steps of a run delete: what `TrainingConfig.deletion` and `hard_probability` come to."""

import dataclasses
from typing import get_args

import numpy as np

from mrt5_jax.config import CompactionConfig, GateConfig, RunConfig, TrainingDeletion
from mrt5_jax.selection.deletions import DELETIONS, MIXED_IN, SAVES, WITHOUT_GATE
from mrt5_jax.selection.selectors import deletes_hard_alone, deletion_threshold, selector_rule


@dataclasses.dataclass(frozen=True)
class StepDeletions:
    """The deletions of a run's steps."""

    preferred: TrainingDeletion
    stand_in: TrainingDeletion | None
    """What takes its place: while a monitor finds that the two differ or, `if_it_saves`, while it saves nothing."""
    if_it_saves: bool
    """Whether the preferred one waits until it saves something."""
    hard_share: float
    """Share of the steps that delete by `MIXED_IN` instead."""
    seed: int
    why: str = ""
    """What to say when the run begins; empty where nothing has to be."""

    @property
    def is_monitored(self) -> bool:
        """Whether a monitor has to compare the preferred deletion with its stand-in."""
        return self.stand_in is not None and self.hard_share < 1

    @property
    def begins_with(self) -> tuple[TrainingDeletion, ...]:
        """What steps of a run delete by before anything is known of it."""
        first = self.preferred if self.stand_in is None or not self.if_it_saves else self.stand_in
        return tuple(dict.fromkeys((first, *((MIXED_IN,) if self.hard_share > 0 else ()))))

    @property
    def all(self) -> tuple[TrainingDeletion, ...]:
        """All that steps may delete by."""
        found = (*self.begins_with, self.preferred, self.stand_in)
        return tuple(dict.fromkeys(deletion for deletion in found if deletion is not None))

    @property
    def any_removes(self) -> bool:
        """Whether steps may run on fewer positions than they have."""
        return any(DELETIONS[deletion].removes for deletion in self.all)

    def share(self, deletion: TrainingDeletion) -> float:
        """Returns the share of the steps that delete by one of these, while nothing takes its place."""
        return self.hard_share if deletion == MIXED_IN != self.preferred else 1 - self.hard_share

    def of_step(self, step: int, preferred: bool) -> TrainingDeletion:
        """Returns what a step deletes by; whether it is `MIXED_IN` follows from (seed, step).

        Args:
            preferred: whether the preferred deletion saves something, and the monitor lets it go on.
        """
        if np.random.default_rng((self.seed, step)).random() < self.hard_share:
            return MIXED_IN
        return self.preferred if preferred or self.stand_in is None else self.stand_in


def step_deletions(run: RunConfig) -> StepDeletions:
    """Returns the deletions of a run's steps.

    deletion = 'auto' is soft, and saturated where that saves something. It stays soft where a gate cannot saturate, and
    under a capacity, which drops positions under the one and not under the other. Of a model that pools, or that has no
    gate values, it is hard.
    """
    gate, training = run.model.gate, run.training
    of_steps = {"hard_share": training.hard_probability, "seed": training.seed}
    if training.deletion != "auto":
        deletion = training.deletion
        return StepDeletions(deletion, DELETIONS[deletion].stand_in, False, **of_steps)
    if gate is None:
        return StepDeletions(WITHOUT_GATE, None, False, **of_steps)
    if deletes_hard_alone(gate):
        return StepDeletions(removing_deletions(gate)[0], None, False, **of_steps)
    soft = DELETIONS[SAVES].stand_in
    assert soft is not None
    if (reason := why_not_saturated(gate, run.compaction)) is not None:
        why = f"deletion = 'auto': steps delete softly throughout, since {reason}"
        return StepDeletions(soft, None, False, **of_steps, why=why)
    if run.compaction.capacity is not None:
        return StepDeletions(soft, None, False, **of_steps)
    return StepDeletions(SAVES, soft, True, **of_steps)


def removing_deletions(gate: GateConfig | None) -> tuple[TrainingDeletion, ...]:
    """Returns the deletions of training that remove positions of a model, and that it can run under."""
    if gate is None:
        return ()
    removing = (deletion for deletion in get_args(TrainingDeletion) if DELETIONS[deletion].removes)
    return tuple(deletion for deletion in removing if DELETIONS[deletion].pools or not deletes_hard_alone(gate))


def why_not_saturated(gate: GateConfig, compaction: CompactionConfig) -> str | None:
    """Says why a gate cannot saturate, so that saturated deletion would remove nothing; None where it can."""
    threshold = compaction.saturation_threshold
    if selector_rule(gate).lowest(gate) >= threshold:
        return (
            f"gate values never fall below GateConfig.scale = {gate.scale}, so none reaches "
            f"saturation_threshold={threshold}"
        )
    if threshold > deletion_threshold(gate):
        return (
            f"saturation_threshold={threshold} lies above {deletion_threshold(gate)}, the gate value below which a "
            "position counts as deleted"
        )
    return None
