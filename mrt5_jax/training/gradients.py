"""The training objective and its gradient, through compaction.

    begin    prefix, gate, who survives                                              once
    body     suffix, decoder, losses and their gradient, for one chunk at one rung   once a chunk
    finish   the prefix's vector-Jacobian product; gradients and rows put together   once

The second stage is differentiated *inside* the function that runs at a rung, with respect to its parameters, the hidden
states at the gate and the gate values; the first stage is then chained by its own vector-Jacobian product. So no
residual of a rung leaves it and nothing is computed twice, whether a `lax.switch` or the host chooses the rung.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Shardings, Staged, in_graph
from mrt5_jax.config import CompactionConfig, LossConfig, TrainingDeletion
from mrt5_jax.model.dropout import (
    NO_DROPOUT,
    Dropout,
    LayerDropout,
    RowKeys,
    draw_dropout,
    layers_first,
    rows_first,
)
from mrt5_jax.model.encoder_decoder import MrT5, Prefix
from mrt5_jax.model.forward import (
    AtGate,
    DeviceBatch,
    GateRows,
    fit,
    lengths_under,
    run_prefix,
    run_second_stage,
    targets_of,
)
from mrt5_jax.model.layers import Queries
from mrt5_jax.model.parameters import Params, merge_gradients, split_stages
from mrt5_jax.objectives.losses import (
    Denominators,
    RowLosses,
    cross_entropy,
    gate_term,
    score_term,
    sum_rows,
    target_term,
    total_loss,
)
from mrt5_jax.parallel.axis_rules import (
    BATCH_AXES,
    DATA,
    ONE_SHARD,
    RowShards,
    constrain_leading_axes,
    within_data_axis,
)
from mrt5_jax.randomness import RowUse
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.survivors import survivors
from mrt5_jax.training.freezing import stop_gradients


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is static about a training step's gradient."""

    model: MrT5
    loss: LossConfig
    deletion: TrainingDeletion
    compaction: CompactionConfig
    ladder: Ladder
    """The lengths that deletions that remove positions run at."""
    shards: RowShards = ONE_SHARD
    """What the rows are spread over; each device sorts its own rows into chunks."""
    num_chunks: int = 1
    frozen: tuple[str, ...] = ()
    """Names of parameters that nothing is differentiated by, see `freezing`."""
    num_parts: int = 1
    """Microbatches."""

    @property
    def num_groups(self) -> int:
        """Groups of rows whose gradients after the gate are added up apart, until all chunks are done.

        They are the parts of the data axis: so every device adds up its own, and the sum over devices is taken once a
        step. Within one chunk the compiler sees to that.
        """
        return self.shards.data if self.num_chunks > 1 else 1

    @property
    def lengths(self) -> Ladder:
        """The lengths that the second stage runs at."""
        return lengths_under(self.model, self.deletion, self.ladder)


class Objective(NamedTuple):
    """What a training step minimises: the weight of the gate's term, and the counts that terms are divided by."""

    gate_weight: Float[Array, ""]
    """alpha."""
    denominators: Denominators


class LossAndGradients(NamedTuple):
    """Sums over rows; every term is divided by counts of the whole batch.

    `gradients` is the tree of the whole model or, of a second stage's totals, that of its parameters; those have a
    leading axis of groups.
    """

    loss: Float[Array, "*groups"]
    gate_mean: Float[Array, "*groups"]
    score_penalty: Float[Array, "*groups"]
    gradients: Params


class MeasuredRows(NamedTuple):
    """What a training step shows of each row, besides the loss."""

    losses: RowLosses
    mask: Bool[Array, "batch length"]
    keep: Bool[Array, "batch length"]
    """Positions that the gate keeps (hard decisions), also under soft and saturated deletion; those that a capacity
    had no slot for among them."""
    rescued: Bool[Array, " batch"]
    dropped: Int[Array, " batch"]
    """How many of these positions a capacity had no slot for."""
    rung: Int[Array, " batch"]
    """The static length that the second stage ran at."""


class TrainingRows(NamedTuple):
    """What the second stage reads of its rows, besides the hidden states and which of them survive."""

    gate_values: Float[Array, "rows length"] | None
    """Apart from the survivors, since the loss is differentiated by them."""
    targets: DeviceBatch
    dropout: Dropout
    """Rows first."""


class Cotangents(NamedTuple):
    """What the loss is differentiated by where the first stage ends, and each row's losses."""

    losses: RowLosses
    hidden: Float[Array, "rows length embed"]
    gate_values: Float[Array, "rows length"] | None


Inputs = tuple[DeviceBatch, RowKeys | None]
"""A batch, and each row's random key: dropout and gate noise; None: neither."""
Carry = tuple[Callable[..., tuple[Params]], AtGate]
"""The first stage's pull-back, and what was found at the gate."""


def loss_and_gradients(
    setting: Setting, params: Params, batch: DeviceBatch, objective: Objective, row_keys: RowKeys | None = None
) -> Part:
    """Computes the loss (MrT5 section 3.2) and its gradient with respect to all parameters, in one program.

    Args:
      batch: `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights`; of packed
        rows, `encoder_segment_ids` and `decoder_segment_ids` as well.
      row_keys: randomness of dropout and gate noise; None: neither.

    Under hard deletion the gate learns from its regulariser alone, since whether a position is kept has no gradient.
    """
    return in_graph(gradient_stages(setting))(params, objective, (batch, row_keys))


def gradient_stages(setting: Setting, shardings: Shardings | None = None) -> Staged:
    """Returns the stages of `loss_and_gradients`."""

    def zeros(params: Params, *leading: int) -> Params:
        return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), params)

    def chunk_zeros(params: Params) -> LossAndGradients:
        groups = setting.num_groups
        nothing = jnp.zeros(groups, _zero(setting).dtype)
        return LossAndGradients(nothing, nothing, nothing, zeros(params, groups))

    return Staged(
        lambda params, objective, inputs: begin(setting, params, inputs),
        lambda slots: _gradient_at(setting, slots),
        finish,
        setting.lengths,
        split_stages,
        chunk_zeros,
        zeros,
        put_together,
        setting.num_parts,
        setting.num_chunks,
        setting.shards.count,
        shardings,
    )


def target_loss(
    setting: Setting, params: Params, batch: DeviceBatch, objective: Objective, row_keys: RowKeys | None = None
) -> Float[Array, ""]:
    """Computes the part of `loss_and_gradients`' loss that targets make (cross-entropy, z-loss), without gradient."""

    def body(slots: int) -> Callable[[Params, Objective, GateRows], Part]:
        loss = _second_stage_loss(setting, slots)

        def run(params: Params, objective: Objective, rows: GateRows) -> Part:
            _, terms = loss(params, rows.hidden, rows.own.gate_values, objective, rows)
            return Part(target_term(terms.losses, objective.denominators), ())

        return run

    stages = Staged(
        lambda params, objective, inputs: begin(setting, params, inputs),
        body,
        lambda carry, nothing, rungs: Part((), ()),
        setting.lengths,
        split_stages,
        lambda params: _zero(setting),
        combine=lambda loss, nothing: loss,
        num_parts=setting.num_parts,
        num_chunks=setting.num_chunks,
        num_shards=setting.shards.count,
    )
    return in_graph(stages)(params, objective, (batch, row_keys)).total


def _zero(setting: Setting) -> Float[Array, ""]:
    """What losses are added to."""
    config = setting.model.config
    return jnp.zeros((), jnp.promote_types(jnp.promote_types(config.dtype, config.param_dtype), jnp.float32))


def begin(setting: Setting, params: Params, inputs: Inputs) -> Begun:
    """Runs the model up to the gate, and keeps the way back."""
    model, deletion = setting.model, setting.deletion
    batch, row_keys = inputs
    tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    dropout, selector_keys = NO_DROPOUT, None
    if row_keys is not None:
        dropout = draw_dropout(model.config, row_keys, tokens.shape[1], batch["decoder_input_tokens"].shape[1])
        selector_keys = jax.vmap(lambda key: jax.random.fold_in(key, RowUse.SELECTOR))(row_keys)

    def first_stage(params: Params) -> tuple[tuple[Array, Array | None], Prefix]:
        params = stop_gradients(params, setting.frozen)
        prefix = run_prefix(model, params, tokens, dropout, selector_keys, segments)
        return (prefix.hidden, None if prefix.selection is None else prefix.selection.bias), prefix

    (hidden, gate_values), pull_back, prefix = jax.vjp(first_stage, params, has_aux=True)
    threshold = setting.compaction.saturation_threshold
    found = survivors(prefix.mask, prefix.selection, deletion, segments=segments, saturation_threshold=threshold)
    fitted = fit(found, setting.lengths)
    heeded = prefix.selection is not None and DELETIONS[deletion].heeds_selector
    keep = prefix.selection.keep if heeded and prefix.selection is not None else prefix.mask
    # Of saturated deletion's survivors the gate may delete some as well: those count as deleted.
    at_gate = AtGate(prefix.mask, keep, prefix.selection, count_kept(keep & found.keep & ~fitted))
    own = TrainingRows(
        gate_values, targets_of(batch), rows_first(dropout._replace(embedded=None, prefix=LayerDropout()))
    )
    rows = GateRows(hidden, prefix.mask, found._replace(keep=fitted, bias=None), own)
    return Begun(rows, count_kept(fitted), (pull_back, at_gate))


def _gradient_at(setting: Setting, slots: int) -> Callable[[Params, Objective, GateRows], Part]:
    """The gradient of the model after the gate, compiled for a length."""
    gradient = jax.value_and_grad(_second_stage_loss(setting, slots), argnums=(0, 1, 2), has_aux=True)

    def run(params: Params, objective: Objective, rows: GateRows) -> Part:
        def of_group(rows: GateRows) -> Part:
            (loss, terms), bars = gradient(params, rows.hidden, rows.own.gate_values, objective, rows)
            params_bar, hidden_bar, gate_values_bar = bars
            total = LossAndGradients(loss, terms.gate_mean, terms.score_penalty, params_bar)
            return Part(total, Cotangents(terms.losses, hidden_bar, gate_values_bar))

        return _in_groups(of_group, rows, setting.num_groups)

    return run


def finish(carry: Carry, cotangents: Cotangents, rungs: Int[Array, " batch"]) -> Part:
    """Differentiates the first stage."""
    pull_back, at_gate = carry
    (gradient,) = pull_back((cotangents.hidden, cotangents.gate_values))
    measured = MeasuredRows(cotangents.losses, at_gate.mask, at_gate.keep, at_gate.rescued, at_gate.dropped, rungs)
    return Part(gradient, measured)


def put_together(second: LossAndGradients, first_gradient: Params) -> LossAndGradients:
    """Sums over the groups, and gradients in one tree: of a batch, or of parts whose totals were added up."""
    total: LossAndGradients = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), second)
    return total._replace(gradients=merge_gradients(first_gradient, total.gradients))


def _in_groups(of_group: Callable[[GateRows], Part], rows: GateRows, num_groups: int) -> Part:
    """`of_group` of equal parts of the rows, one for each place along the data axis; the totals stay apart."""
    if num_groups == 1:
        part = of_group(rows)
        return Part(jax.tree.map(lambda leaf: leaf[None], part.total), part.rows)
    parts = jax.tree.map(
        lambda leaf: constrain_leading_axes(leaf.reshape(num_groups, -1, *leaf.shape[1:]), *BATCH_AXES), rows
    )
    with within_data_axis():
        part = jax.vmap(of_group, spmd_axis_name=DATA)(parts)
    joined = jax.tree.map(lambda leaf: constrain_leading_axes(leaf.reshape(-1, *leaf.shape[2:]), BATCH_AXES), part.rows)
    return Part(jax.tree.map(lambda leaf: constrain_leading_axes(leaf, DATA), part.total), joined)


class _Terms(NamedTuple):
    losses: RowLosses
    gate_mean: Float[Array, ""]
    score_penalty: Float[Array, ""]


def _second_stage_loss(setting: Setting, slots: int) -> Callable[..., tuple[Array, _Terms]]:
    """The rows' share of the loss, as a function of what it is differentiated by."""

    def loss(
        params: Params,
        hidden: Float[Array, "rows length embed"],
        gate_values: Float[Array, "rows length"] | None,
        objective: Objective,
        rows: GateRows,
    ) -> tuple[Array, _Terms]:
        params = stop_gradients(params, setting.frozen)
        bias = gate_values if DELETIONS[setting.deletion].biases_attention else None
        compact = rows._replace(hidden=hidden, survivors=rows.survivors._replace(bias=bias)).compact(slots)
        batch, dropout = rows.own.targets, layers_first(rows.own.dropout)
        weights = batch["decoder_loss_weights"]
        targets = Queries(weights > 0, batch.get("decoder_segment_ids"))
        after = run_second_stage(setting.model, params, compact, batch["decoder_input_tokens"], dropout, targets)
        tokens = cross_entropy(after.logits, batch["decoder_target_tokens"], weights, setting.loss.z_loss)
        losses = sum_rows(tokens, weights)
        score = score_term(after.score_excess, losses, objective.denominators)
        gate = jnp.zeros_like(score)
        if gate_values is not None:
            gate = gate_term(gate_values, rows.mask, objective.denominators)
        target = target_term(losses, objective.denominators)
        total = total_loss(target, gate, score, objective.gate_weight, setting.loss.score_penalty)
        return total, _Terms(losses, gate, score)

    return loss
