"""What a selector says of a batch: which positions own a slot, and by what the first stage is differentiated.

    stage 1    hidden states, signals, totals of the penalties     its outputs with a gradient
               everything else of a `Selection`                    without one, see `without_other_gradients`
    body       reads hidden states and signals, and is differentiated by them
    finish     weighs the penalties; how the loss depends on their totals is known without the body

Pure JAX, without parameters: a selector and a reduction are modules elsewhere.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int


class Signals(NamedTuple):
    """What the body sees of a selector with a gradient; None: nothing of this kind."""

    key_bias: Float[Array, "batch length"] | None = None
    """Added to the attention scores of a position, under soft deletion."""
    weights: Float[Array, "batch length"] | None = None
    """Pooling: the share that a position has of its slot; they add up to 1 over the positions of a slot."""
    confidence: Float[Array, "batch length"] | None = None
    """The probability of what was decided, p where a position is kept and 1 - p elsewhere (H-Net). Kept states are
    multiplied by it, straight-through: the factor is 1."""


class Penalty(NamedTuple):
    """A term of the loss: sum(total) / sum(count) over the whole batch, whatever parts it is computed in."""

    total: Float[Array, " batch"]
    count: Float[Array, " batch"]
    """Follows from mask and segments alone: input tokens, or rows, of packed rows their examples."""


class Selection(NamedTuple):
    """Which positions stay. Pads never do; a row with input, and each example of a packed row, keeps a position."""

    keep: Bool[Array, "batch length"]
    """Positions that own a slot."""
    merged_into: Int[Array, "batch length"] | None
    """Pooling: the kept position that each position of the input is merged into. None: deleted ones are gone."""
    priority: Float[Array, "batch length"]
    """When a fixed capacity overflows, positions with the lowest priority are dropped first."""
    signals: Signals
    penalties: dict[str, Penalty]
    """By the name that the loss weighs them by."""
    statistics: dict[str, Float[Array, " batch"]]
    """What is reported of each row."""


def straight_through(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns 0 with the gradient of `value`."""
    return value - jax.lax.stop_gradient(value)


def without_other_gradients(selection: Selection) -> Selection:
    """Returns the selection with a gradient in its signals and in the totals of its penalties, and nowhere else."""
    stopped = jax.lax.stop_gradient(selection)
    penalties = {
        name: Penalty(penalty.total, stopped.penalties[name].count) for name, penalty in selection.penalties.items()
    }
    return stopped._replace(signals=selection.signals, penalties=penalties)
