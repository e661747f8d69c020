"""Which positions survive a deletion, and which signals it hands on."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.plan import best_of_parts
from mrt5_jax.config import CompactionConfig, Deletion, TrainingDeletion
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.random_choice import random_like

SATURATION_THRESHOLD = CompactionConfig.saturation_threshold


class Survivors(NamedTuple):
    """The positions that stay, and in packed rows their examples."""

    keep: Bool[Array, "batch length"]
    priority: Float[Array, "batch length"]
    segments: Int[Array, "batch length"] | None = None


def survivors(
    mask: Bool[Array, "batch length"],
    selection: Selection | None,
    deletion: Deletion | TrainingDeletion,
    selector_keys: RowKeys | None = None,
    *,
    segments: Int[Array, "batch length"] | None = None,
    saturation_threshold: float = SATURATION_THRESHOLD,
) -> Survivors:
    """Returns what stays under a deletion. A model without a gate deletes nothing, whatever the deletion.

    Args:
      selector_keys: what random deletion draws from; it chooses among all positions of a row (or example).
      segments: of packed rows, the example of each position.
      saturation_threshold: saturated deletion removes positions whose gate value is lower than the highest of their row
        (or example) by more than this (a negative number). Comparing with the highest matters where a gate nearly
        closes for a whole row: attention weighs positions against each other, so such a row's positions are not lost to
        it.
    """
    rule = DELETIONS[deletion]
    if selection is None or not rule.heeds_selector:
        return Survivors(mask, mask.astype(jnp.float32), segments)
    keep, priority = selection.keep, selection.priority
    if rule.keep == "inputs":
        keep = mask
    elif rule.keep == "unsaturated":
        keep = _unsaturated(mask, selection, segments, saturation_threshold)
    elif rule.keep == "as_many_at_random":
        assert selector_keys is not None
        drawn = random_like(selection, mask, selector_keys, segments)
        keep, priority = drawn.keep, drawn.priority
    return Survivors(keep, priority, segments)


def handed_signals(selection: Selection | None, deletion: Deletion | TrainingDeletion) -> Signals:
    """Returns what the rest of the model sees of a selector under a deletion, with its gradient."""
    if selection is None:
        return Signals()
    return Signals(**{name: getattr(selection.signals, name) for name in DELETIONS[deletion].signals})


def _unsaturated(
    mask: Bool[Array, "batch length"],
    selection: Selection,
    segments: Int[Array, "batch length"] | None,
    threshold: float,
) -> Bool[Array, "batch length"]:
    gate_values = selection.signals.key_bias
    assert gate_values is not None
    values = jnp.where(mask, gate_values, -jnp.inf)
    if segments is None:
        highest = jnp.max(values, axis=1, keepdims=True)
    else:
        highest = best_of_parts(values, jnp.where(mask, segments, 0))
    return mask & (gate_values >= highest + threshold)
