"""What a selector's line in the table says, and what several selectors are made of."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.plan import never_empty, rescued_rows
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.selection.protocol import Penalty, Selection, Signals
from mrt5_jax.selection.settings import Settings

Segments = Int[Array, "batch length"] | None
"""Of packed rows, the example of each position, from 1; None where a row is one example."""
Count = Callable[[Bool[Array, "batch length"], Segments], Float[Array, " batch"]]
"""(mask, segments) -> what a row adds to the count that a penalty's total is divided by."""

GATE_MEAN = "gate"
"""The penalty that alpha weighs: the mean gate value."""


@dataclasses.dataclass(frozen=True)
class PenaltyRule:
    """A term of the loss that a selector provides."""

    count: Count
    steers: Literal["rate", "target"] | None
    """rate: it moves the deletion rate one way, so that a controller may push it. target: it has an optimum of its own.
    None: no gradient comes from it."""
    hold: Callable[[GateConfig, float], GateConfig] | None = None
    """Of a penalty that steers `target`, if its target can be chosen: returns the gate whose penalty holds a deletion
    rate."""


@dataclasses.dataclass(frozen=True)
class SelectorRule:
    """What a selector is."""

    make: Callable[[ModelConfig], nn.Module]
    """Called with (hidden, tokens, mask, keys, segments), it returns a `Selection`; keys are random keys of the rows in
    training and None elsewhere, segments tell the examples of packed rows apart."""
    reads: tuple[str, ...]
    """Fields of GateConfig, besides `layer` and `kind`."""
    penalties: Mapping[str, PenaltyRule]
    threshold: Callable[[GateConfig], float] = lambda gate: gate.scale / 2
    """tau where none is given: hard deletion keeps gate values above it."""
    lowest: Callable[[GateConfig], float] = lambda gate: gate.scale
    """Gate values lie between this and 0."""
    pools: bool = False
    """Whether it merges positions, which a reduction then pools; else deleted positions are gone."""
    has_gate_values: bool = True
    """Whether it has gate values, which soft deletion adds to attention scores. One that pools has none."""
    causal: bool = False
    """Whether `keep`, `merged_into`, `priority` and `confidence` of a position follow from hidden states and tokens up
    to there, wherever nothing has to be rescued; so a decoder-only model may use it."""
    settings: Settings = dataclasses.field(default_factory=dict)
    """Its own settings, see `selection.settings`; `reads` then has "settings"."""
    check: Callable[[GateConfig], None] = lambda gate: None
    """Refuses settings that do not fit each other, or a file that is needed and cannot be read, by a UserError."""
    check_examples: Callable[[GateConfig, np.ndarray, np.ndarray | None], None] | None = None
    """Refuses a batch of training (tokens, segments of packed rows) that does not bring what the selector needs of it,
    by a UserError; None: it needs nothing."""
    evaluates_alone: bool = True
    """Whether it needs nothing of the batches of evaluation, in the way of `check_examples`."""
    parameters: Callable[[ModelConfig], Mapping[str, tuple[int, ...]]] | None = None
    """Shapes of its parameters by their names below `encoder/gate`; None: none, or a gate's (`interop.names`)."""
    multiply_adds: Callable[[ModelConfig], int] = lambda config: 0
    """What its matrix products take at each position."""
    logit: Callable[[GateConfig, float], float] | None = None
    """Gate value -> the logit z that has it, of a gate whose values rise with z; None of selectors without a logit."""

    @property
    def deletes_hard_alone(self) -> bool:
        """Whether it runs under deletions alone that can pool: no other has a place for what it says."""
        return self.pools or not self.has_gate_values

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""
        return self.is_steered or self.parameters is not None

    @property
    def is_steered(self) -> bool:
        """Whether alpha moves what is deleted."""
        return self.penalties[GATE_MEAN].steers == "rate" if GATE_MEAN in self.penalties else False

    @property
    def holding(self) -> str | None:
        """The penalty that holds a run's target by itself, where alpha moves nothing; None where there is none."""
        held = [name for name, penalty in self.penalties.items() if penalty.hold is not None]
        return held[0] if held and not self.is_steered else None


def gate_config(config: ModelConfig) -> GateConfig:
    """Returns the gate of a model that has one."""
    assert config.gate is not None
    return config.gate


def count_tokens(mask: Bool[Array, "batch length"], segments: Segments) -> Float[Array, " batch"]:
    """Counts the inputs of each row."""
    return jnp.sum(mask, axis=1, dtype=jnp.float32)


def sum_examples(
    values: Float[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
) -> Float[Array, "batch examples"]:
    """Returns sums over the inputs of each example: of the row, or of a packed row's by number; 0 for unused ones."""
    values = jnp.where(mask, values, 0)
    if segments is None:
        return jnp.sum(values, axis=1, keepdims=True)
    numbers = jnp.where(mask, segments, 0)
    return jax.vmap(lambda row, of: jax.ops.segment_sum(row, of, row.shape[0] + 1))(values, numbers)


def count_examples(mask: Bool[Array, "batch length"], segments: Segments) -> Float[Array, " batch"]:
    """Counts the examples with input of each row."""
    return jnp.sum(sum_examples(jnp.ones(mask.shape, jnp.float32), mask, segments) > 0, axis=1, dtype=jnp.float32)


def mean_value(values: Float[Array, "batch length"], mask: Bool[Array, "batch length"]) -> Penalty:
    """Returns the mean gate value over inputs, which is lower the more is deleted."""
    return Penalty(jnp.sum(jnp.where(mask, values, 0), axis=1), count_tokens(mask, None))


def selection_of_values(
    chosen: Bool[Array, "batch length"],
    values: Float[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    segments: Segments,
) -> Selection:
    """Returns the selection of gate values, which are 0 where they keep and lower where they delete.

    Args:
      chosen: inputs that would be kept; where that is none of an example, its highest gate value is.
    """
    keep = never_empty(chosen, values, mask, segments)
    statistics = {"rescued": rescued_rows(chosen, keep).astype(jnp.float32)}
    penalties = {GATE_MEAN: mean_value(values, mask)}
    return Selection(keep, None, values, Signals(key_bias=values), penalties, statistics)


def selection_by_rule(
    chosen: Bool[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments, config: ModelConfig
) -> Selection:
    """Returns the selection of a rule that has no gate values of its own: 0 for kept positions, k for deleted ones."""
    dtype = jnp.promote_types(jnp.dtype(config.param_dtype), jnp.float32)
    keep = never_empty(chosen, chosen.astype(dtype), mask, segments)
    values = jnp.where(keep, jnp.zeros((), dtype), jnp.asarray(gate_config(config).scale, dtype))
    selection = selection_of_values(keep, values, mask, segments)
    return selection._replace(statistics={"rescued": rescued_rows(chosen, keep).astype(jnp.float32)})


RULE_PENALTIES = {GATE_MEAN: PenaltyRule(count_tokens, None)}
"""Of selectors whose gate values are a rule's."""
