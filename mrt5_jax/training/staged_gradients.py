"""The gradient of a loss in two stages, of which the second runs at the length that its rows need.

    begin    first stage, with the way back                                       once
    body     loss of the second stage and its gradient, for one chunk at a rung   once a chunk
    finish   penalties; the first stage's vector-Jacobian product                 once

The second stage is differentiated *inside* the function that runs at a rung, with respect to its parameters, the hidden
states and the selector's signals; the first stage is then chained by its own vector-Jacobian product. So no residual of
a rung leaves it and nothing is computed twice, whether a `lax.switch` or the host chooses the rung. The selector's
penalties do not pass through the body: how the loss depends on their totals is known beforehand.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.rows import Arrays
from mrt5_jax.compaction.staged import Begun, Part, Shardings, Staged
from mrt5_jax.config import RowsInParts
from mrt5_jax.model.parameters import Params
from mrt5_jax.objectives.penalties import PenaltyScale, weighted_penalties
from mrt5_jax.parallel.axis_rules import (
    BATCH_AXES,
    DATA,
    ONE_SHARD,
    RowShards,
    constrain_leading_axes,
    within_data_axis,
)
from mrt5_jax.selection.protocol import Signals


class FirstOutputs(NamedTuple):
    """What the first stage is differentiated by."""

    hidden: Float[Array, "batch length embed"]
    signals: Signals
    penalties: dict[str, Float[Array, " batch"]]
    """Totals of the penalties by name."""


class SecondOutputs(NamedTuple):
    """What the second stage returns of some rows."""

    loss: Float[Array, ""]
    """The rows' share of the loss, penalties left out."""
    terms: dict[str, Float[Array, ""]]
    """Their shares in terms that are reported; added up over rows."""
    rows: Arrays
    """[rows ...]: what is reported of each row."""


class LossAndGradients(NamedTuple):
    """Sums over rows; every term is divided by counts of the whole batch.

    `gradients` is the tree of the whole model, or of a stage's parameters; sums of the second stage have a leading axis
    of groups.
    """

    loss: Float[Array, "*groups"]
    terms: dict[str, Float[Array, "*groups"]]
    gradients: Params


@dataclasses.dataclass(frozen=True)
class TwoStages:
    """A loss in two stages."""

    first: Callable[[Params, Arrays], tuple[FirstOutputs, Arrays]]
    """(its parameters, inputs) -> outputs, and what else was found, which has no gradient"""
    between: Callable[[Arrays, FirstOutputs, Arrays], Begun]
    """(inputs, outputs of the first stage, what else was found) -> rows, kept counts, what `measure` reads"""
    second: Callable[[int], Callable[[Params, Any, Any], SecondOutputs]]
    """From a rung to (parameters, shared, rows) -> outputs. Rows are a NamedTuple with `hidden` and `signals` in it, by
    which it is differentiated."""
    scales: Callable[[Any, Arrays], dict[str, PenaltyScale]]
    """(shared, inputs) -> how the loss takes each penalty of these rows"""
    measure: Callable[[Arrays, Arrays, Int[Array, " batch"]], Arrays]
    """(what `between` handed on, rows of the second stage, the rung of each) -> what is reported of each row"""
    split: Callable[[Params], tuple[Params, Params]]
    """Parameters -> those of the first stage, those of the second."""
    merge: Callable[[Params, Params], Params]
    """The inverse of `split`; sums where both stages read a parameter."""
    penalties: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    """Names of what the second stage reports."""
    dtype: DTypeLike = jnp.float32
    """Of losses."""


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How a batch is cut."""

    ladder: Ladder
    shards: RowShards = ONE_SHARD
    """What the rows are spread over; each device sorts its own rows into chunks."""
    num_chunks: int = 1
    num_parts: int = 1
    """Microbatches."""
    rows_in_parts: RowsInParts = "as_they_come"

    @property
    def num_groups(self) -> int:
        """Groups of rows whose gradients of the second stage are added up apart, until all chunks are done.

        They are the parts of the data axis: so every device adds up its own, and the sum over devices is taken once a
        step. Within one chunk the compiler sees to that.
        """
        return self.shards.data if self.num_chunks > 1 else 1


class Cotangents(NamedTuple):
    """The loss differentiated by what the first stage handed to the body, and what is reported of each row."""

    hidden: Float[Array, "rows length embed"]
    signals: Signals
    rows: Arrays


class _Carry(NamedTuple):
    pull_back: Callable[..., tuple[Params]]
    penalties: dict[str, Float[Array, " batch"]]
    scales: dict[str, PenaltyScale]
    own: Arrays


def gradient_stages(stages: TwoStages, cuts: Cuts, shardings: Shardings | None = None) -> Staged:
    """Returns the stages of a loss and its gradient by all parameters; their total is a `LossAndGradients`."""

    def begin(params: Params, shared: Any, inputs: Arrays) -> Begun:
        outputs, pull_back, found = jax.vjp(lambda params: stages.first(params, inputs), params, has_aux=True)
        begun = stages.between(inputs, outputs, found)
        return begun._replace(carry=_Carry(pull_back, outputs.penalties, stages.scales(shared, inputs), begun.carry))

    def finish(carry: _Carry, cotangents: Cotangents, rungs: Int[Array, " batch"]) -> Part:
        penalties = jax.value_and_grad(weighted_penalties, has_aux=True)
        (loss, means), by_total = penalties(carry.penalties, carry.scales)
        (gradients,) = carry.pull_back(FirstOutputs(cotangents.hidden, cotangents.signals, by_total))
        measured = stages.measure(carry.own, cotangents.rows, rungs)
        return Part(LossAndGradients(jnp.asarray(loss, stages.dtype), means, gradients), measured)

    def zeros(names: tuple[str, ...], params: Params, *leading: int) -> LossAndGradients:
        nothing = jnp.zeros(leading, stages.dtype)
        of_params = jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), params)
        return LossAndGradients(nothing, dict.fromkeys(names, nothing), of_params)

    def combine(second: LossAndGradients, first: LossAndGradients) -> LossAndGradients:
        total: LossAndGradients = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), second)
        gradients = stages.merge(first.gradients, total.gradients)
        return LossAndGradients(total.loss + first.loss, {**total.terms, **first.terms}, gradients)

    return Staged(
        begin,
        lambda slots: _gradient_at(stages.second(slots), cuts.num_groups),
        finish,
        cuts.ladder,
        stages.split,
        lambda params: zeros(stages.terms, params, cuts.num_groups),
        lambda params: zeros(stages.penalties, params),
        combine,
        cuts.num_parts,
        cuts.rows_in_parts,
        cuts.num_chunks,
        cuts.shards.count,
        shardings,
    )


def _gradient_at(
    second: Callable[[Params, Any, Any], SecondOutputs], num_groups: int
) -> Callable[[Params, Any, Any], Part]:
    """The gradient of the second stage, compiled for a length."""

    def run(params: Params, shared: Any, rows: Any) -> Part:
        def of_group(rows: Any) -> Part:
            def loss(params: Params, hidden: Array, signals: Signals) -> tuple[Array, SecondOutputs]:
                outputs = second(params, shared, rows._replace(hidden=hidden, signals=signals))
                return outputs.loss, outputs

            gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
            (_, outputs), (params_bar, hidden_bar, signals_bar) = gradient(params, rows.hidden, rows.signals)
            total = LossAndGradients(outputs.loss, outputs.terms, params_bar)
            return Part(total, Cotangents(hidden_bar, signals_bar, outputs.rows))

        return _in_groups(of_group, rows, num_groups)

    return run


def _in_groups(of_group: Callable[[Any], Part], rows: Any, num_groups: int) -> Part:
    """`of_group` of equal parts of the rows, one for each place along the data axis; the totals stay apart."""
    if num_groups == 1:
        part = of_group(rows)
        return Part(jax.tree.map(lambda leaf: leaf[None], part.total), part.rows)

    # Sizes are written out, since a model without a gate has dropout of no layers behind it: arrays of size 0.
    def cut(leaf: Array) -> Array:
        in_group = leaf.shape[0] // num_groups
        return constrain_leading_axes(leaf.reshape(num_groups, in_group, *leaf.shape[1:]), *BATCH_AXES)

    def join(leaf: Array) -> Array:
        return constrain_leading_axes(leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), BATCH_AXES)

    with within_data_axis():
        part = jax.vmap(of_group, spmd_axis_name=DATA)(jax.tree.map(cut, rows))
    total = jax.tree.map(lambda leaf: constrain_leading_axes(leaf, DATA), part.total)
    return Part(total, jax.tree.map(join, part.rows))
