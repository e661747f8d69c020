"""The deletions: one table of what each of them is. No other file compares a deletion's name.

A selector says which positions it would keep; a deletion says what becomes of the others. To add one, add its name to
`config.Deletion` or `config.TrainingDeletion` and its line here; where none of the ways to keep fits, write another one
in `survivors.py`.
"""

import dataclasses
from typing import Literal, get_args

from mrt5_jax.config import Deletion, TrainingDeletion

Keep = Literal["inputs", "selected", "unsaturated", "as_many_at_random"]
"""Which positions survive: all inputs; those that the selector keeps; those that attention can see, however low their
gate values are; or as many as the selector keeps, chosen at random."""

SignalName = Literal["key_bias", "weights", "confidence"]
"""A field of `protocol.Signals`."""


@dataclasses.dataclass(frozen=True)
class DeletionRule:
    """What a deletion is.

    Examples:
        >>> [name for name, rule in DELETIONS.items() if rule.removes]
        ['hard', 'random', 'saturated']
        >>> DELETIONS["soft"].signals, DELETIONS["saturated"].stand_in
        (('key_bias',), 'soft')
    """

    keep: Keep
    removes: bool = False
    """Whether positions that do not survive are removed, so that the rest of the model runs on fewer."""
    signals: tuple[SignalName, ...] = ()
    """What of a selector it hands to the rest of the model: through these the loss reaches the selector."""
    heeds_selector: bool = True
    """Whether it depends on what the selector says."""
    pools: bool = False
    """Whether positions can be pooled under it."""
    stand_in: TrainingDeletion | None = None
    """What takes its place in training while a monitor finds that the two differ; None: it needs no monitor."""

    @property
    def biases_attention(self) -> bool:
        """Whether gate values are added to the attention scores of their positions."""
        return "key_bias" in self.signals


DELETIONS: dict[Deletion | TrainingDeletion, DeletionRule] = {
    "none": DeletionRule("inputs", heeds_selector=False),
    "soft": DeletionRule("inputs", signals=("key_bias",)),
    "hard": DeletionRule("selected", removes=True, signals=("weights", "confidence"), pools=True),
    "random": DeletionRule("as_many_at_random", removes=True),
    "saturated": DeletionRule("unsaturated", removes=True, signals=("key_bias",), stand_in="soft"),
}

SAVES: TrainingDeletion = "saturated"
"""What training with deletion = 'auto' deletes by where that saves something; its stand-in elsewhere."""

WITHOUT_GATE: TrainingDeletion = "none"
"""What a model without a gate trains under with deletion = 'auto'."""

MIXED_IN: TrainingDeletion = "hard"
"""What a share of the steps delete by, see `TrainingConfig.hard_probability`."""

MEASURE_OF_BEST: Deletion = "hard"
"""Checkpoints are best by their loss under this deletion."""

GAP: tuple[Deletion, Deletion] = ("soft", "hard")
"""Evaluations report by how much the loss rises from the first of these deletions to the second."""


TRAINED_WITHOUT_REMOVING = tuple(deletion for deletion in get_args(TrainingDeletion) if not DELETIONS[deletion].removes)
TRAINED_WITHOUT_POOLING = tuple(deletion for deletion in get_args(TrainingDeletion) if not DELETIONS[deletion].pools)
TRAINED_WITHOUT_SELECTOR = tuple(
    deletion for deletion in get_args(TrainingDeletion) if not DELETIONS[deletion].heeds_selector
)

POOLING = " or ".join(repr(name) for name, rule in DELETIONS.items() if rule.pools)
"""The deletions that can pool, for messages."""


def removes_positions(deletion: Deletion | TrainingDeletion) -> bool:
    """Says whether the rest of the model runs on fewer positions."""
    return DELETIONS[deletion].removes


def is_random(deletion: Deletion | TrainingDeletion) -> bool:
    """Says whether what survives is drawn at random, so that a seed matters."""
    return DELETIONS[deletion].keep == "as_many_at_random"
