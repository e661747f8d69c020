"""The training objective and its gradient, through compaction.

    begin    prefix, gate, who survives; rows sorted into chunks                     once
    rest     suffix, decoder, losses and their gradient, for one chunk at one rung   once a chunk
    finish   the prefix's vector-Jacobian product; gradients and rows put together   once

The rest of the model is differentiated *inside* the function that runs at a rung, with respect to its parameters, the
hidden states at the gate and the gate values; the prefix is then chained by its own vector-Jacobian product. So no
residual of a rung leaves it and nothing is computed twice, whether a `lax.switch` or the host chooses the rung.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.dispatch import Body, ChunkResult, Ran, run_in_graph
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.rows import Chunked, chunk_rows, restore_rows
from mrt5_jax.config import CompactionConfig, LossConfig, TrainingDeletion
from mrt5_jax.model.dropout import NO_DROPOUT, Dropout, LayerDropout, RowKeys, draw_dropout, layers_first, rows_first
from mrt5_jax.model.encoder_decoder import MrT5, Prefix
from mrt5_jax.model.forward import compact_at, fit, run_prefix, run_rest
from mrt5_jax.model.layers import Queries
from mrt5_jax.model.parameters import Params, Parts, merge_gradients, split_parameters
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
from mrt5_jax.parallel.axis_rules import BATCH_AXES, DATA, ONE_SHARD, RowShards, lie_along, within_data_axis
from mrt5_jax.randomness import RowUse
from mrt5_jax.selection.survivors import Survivors, compacts, survivors
from mrt5_jax.training.freezing import stop_gradients


class Setting(NamedTuple):
    """What is static about a training step's gradient."""

    model: MrT5
    loss: LossConfig
    deletion: TrainingDeletion
    compaction: CompactionConfig
    ladder: Ladder
    """The lengths that deletion with compaction runs at."""
    shards: RowShards = ONE_SHARD
    """What the rows are spread over; each device sorts its own rows into chunks."""
    num_chunks: int = 1
    frozen: tuple[str, ...] = ()
    """Names of parameters that nothing is differentiated by, see `freezing`."""

    @property
    def num_groups(self) -> int:
        """Groups of rows whose gradients after the gate are added up apart, until all chunks are done.

        They are the parts of the data axis: so every device adds up its own, and the sum over devices is taken once a
        step. Within one chunk the compiler sees to that.
        """
        return self.shards.data if self.num_chunks > 1 else 1


class Objective(NamedTuple):
    """What a training step minimises: the weight of the gate's term, and the counts that terms are divided by."""

    gate_weight: Float[Array, ""]
    """alpha."""
    denominators: Denominators


class MeasuredRows(NamedTuple):
    """What a forward pass showed of each row, besides the loss."""

    losses: RowLosses
    mask: Bool[Array, "batch length"]
    keep: Bool[Array, "batch length"]
    """Positions that the gate keeps (hard decisions), also under soft and saturated deletion; those that a capacity
    had no slot for among them."""
    rescued: Bool[Array, " batch"]
    dropped: Int[Array, " batch"]
    """How many of these positions a capacity had no slot for."""
    rung: Int[Array, " batch"]
    """The static length that the rest of the model ran at."""


class LossAndGradients(NamedTuple):
    """Of a batch or a part of it: all but `rows` are sums over parts."""

    loss: Float[Array, ""]
    gate_mean: Float[Array, ""]
    score_penalty: Float[Array, ""]
    gradients: Params
    rows: MeasuredRows | None
    """None in sums over parts."""


class RestRows(NamedTuple):
    """What the rest of the model needs of some rows."""

    hidden: Float[Array, "rows length embed"]
    gate_values: Float[Array, "rows length"] | None
    mask: Bool[Array, "rows length"]
    who: Survivors
    """Without their bias, which is `gate_values`, that the loss is differentiated by."""
    batch: dict[str, Array]
    dropout: Dropout
    """Rows first."""


class Shared(NamedTuple):
    """What the rest of the model needs besides its rows."""

    params: Params
    objective: Objective


class RestTotal(NamedTuple):
    """Summed over chunks; every term is divided by counts of the whole batch. All have a leading axis of groups."""

    loss: Float[Array, " groups"]
    gate_mean: Float[Array, " groups"]
    score_penalty: Float[Array, " groups"]
    gradient: Params


class RestOut(NamedTuple):
    """What the rest of the model returns for each of its rows."""

    losses: RowLosses
    hidden_bar: Float[Array, "rows length embed"]
    gate_values_bar: Float[Array, "rows length"] | None


class AtGate(NamedTuple):
    """Where the prefix ends; crosses from one compiled program to another."""

    chunked: Chunked
    """Of RestRows."""
    shared: Shared
    pull_back: Callable[..., Any]
    mask: Bool[Array, "batch length"]
    keep: Bool[Array, "batch length"]
    rescued: Bool[Array, " batch"]
    dropped: Int[Array, " batch"]


def loss_and_gradients(
    setting: Setting, params: Params, batch: dict[str, Array], objective: Objective, row_keys: RowKeys | None = None
) -> LossAndGradients:
    """Loss (MrT5 section 3.2) and its gradient with respect to all parameters, in one program.

    Args:
      batch: `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights`; of packed
        rows, `encoder_segment_ids` and `decoder_segment_ids` as well.
      row_keys: randomness of dropout and gate noise; None: neither.

    Under hard deletion the gate learns from its regulariser alone, since whether a position is kept has no gradient.
    """
    at_gate = begin(setting, params, batch, objective, row_keys)
    chunks = at_gate.chunked
    ran = run_in_graph(lengths_of(setting), rest(setting), at_gate.shared, chunks.rows, chunks.most)
    return finish(at_gate, ran)


def target_loss(
    setting: Setting, params: Params, batch: dict[str, Array], objective: Objective, row_keys: RowKeys | None = None
) -> Float[Array, ""]:
    """The part of `loss_and_gradients`' loss that the targets make (cross-entropy and z-loss), without a gradient."""
    at_gate = begin(setting, params, batch, objective, row_keys)

    def body(kept_length: int) -> Callable[[Shared, RestRows], ChunkResult]:
        loss = _rest_loss(setting, kept_length)

        def run(shared: Shared, rows: RestRows) -> ChunkResult:
            _, terms = loss(shared.params, rows.hidden, rows.gate_values, shared.objective, rows)
            value = target_term(terms.losses, shared.objective.denominators)
            return ChunkResult(value, jnp.zeros(rows.hidden.shape[0]))

        return run

    chunks = at_gate.chunked
    return run_in_graph(lengths_of(setting), body, at_gate.shared, chunks.rows, chunks.most).total


def lengths_of(setting: Setting) -> Ladder:
    """The lengths that the rest of the model runs at; the full one where nothing is removed."""
    if setting.model.config.gate is not None and compacts(setting.deletion):
        return setting.ladder
    return Ladder((setting.ladder.full_length,))


def begin(
    setting: Setting, params: Params, batch: dict[str, Array], objective: Objective, row_keys: RowKeys | None = None
) -> AtGate:
    """Runs the model up to the gate, and sorts the rows into chunks."""
    model, deletion = setting.model, setting.deletion
    parts = split_parameters(params)
    tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    dropout, selector_keys = NO_DROPOUT, None
    if row_keys is not None:
        dropout = draw_dropout(model.config, row_keys, tokens.shape[1], batch["decoder_input_tokens"].shape[1])
        selector_keys = jax.vmap(lambda key: jax.random.fold_in(key, RowUse.SELECTOR))(row_keys)

    def at_gate(prefix_params: Params) -> tuple[tuple[Array, Array | None], Prefix]:
        prefix_params = stop_gradients(prefix_params, setting.frozen)
        prefix = run_prefix(model, prefix_params, tokens, dropout, selector_keys, segments)
        return (prefix.hidden, None if prefix.selection is None else prefix.selection.bias), prefix

    (hidden, gate_values), pull_back, prefix = jax.vjp(at_gate, parts.prefix, has_aux=True)
    threshold = setting.compaction.saturation_threshold
    who = survivors(prefix.mask, prefix.selection, deletion, segments=segments, saturation_threshold=threshold)
    fitted = fit(who, lengths_of(setting))
    keep = prefix.mask if prefix.selection is None or deletion == "none" else prefix.selection.keep
    none = jnp.zeros(tokens.shape[0], bool)
    rows = RestRows(
        hidden,
        gate_values,
        prefix.mask,
        who._replace(keep=fitted.keep, bias=None),
        {name: array for name, array in batch.items() if name.startswith("decoder_")},
        rows_first(dropout._replace(embedded=None, prefix=LayerDropout())),
    )
    return AtGate(
        chunk_rows(rows, count_kept(fitted.keep), setting.num_chunks, setting.shards.count),
        Shared(parts.rest, objective),
        pull_back,
        prefix.mask,
        keep,
        none if prefix.selection is None else prefix.selection.rescued,
        # Of saturated deletion's survivors the gate may delete some as well: those count as deleted.
        count_kept(keep & who.keep & ~fitted.keep),
    )


def rest(setting: Setting) -> Body:
    """From a rung to the gradient of the model after the gate, compiled for that length."""

    def at(kept_length: int) -> Callable[[Shared, RestRows], ChunkResult]:
        gradient = jax.value_and_grad(_rest_loss(setting, kept_length), argnums=(0, 1, 2), has_aux=True)

        def run(shared: Shared, rows: RestRows) -> ChunkResult:
            def of_group(rows: RestRows) -> ChunkResult:
                (loss, terms), bars = gradient(shared.params, rows.hidden, rows.gate_values, shared.objective, rows)
                params_bar, hidden_bar, gate_values_bar = bars
                total = RestTotal(loss, terms.gate_mean, terms.score_penalty, params_bar)
                return ChunkResult(total, RestOut(terms.losses, hidden_bar, gate_values_bar))

            return _in_groups(of_group, rows, setting.num_groups)

        return run

    return at


def finish(at_gate: AtGate, ran: Ran) -> LossAndGradients:
    """Differentiates the prefix, and puts the parts together."""
    return put_together(ran.total, *differentiate_prefix(at_gate, ran))


def differentiate_prefix(at_gate: AtGate, ran: Ran) -> tuple[Params, MeasuredRows]:
    """The gradient of the prefix's parameters, and the rows in their order; the total of `ran` is not read."""
    out, rung = restore_rows(ran.by_row(), at_gate.chunked.order)
    (gradient,) = at_gate.pull_back((out.hidden_bar, out.gate_values_bar))
    return gradient, MeasuredRows(out.losses, at_gate.mask, at_gate.keep, at_gate.rescued, at_gate.dropped, rung)


def put_together(rest_total: RestTotal, prefix_gradient: Params, rows: MeasuredRows) -> LossAndGradients:
    """Sums over the groups, and gradients in one tree: of a batch, or of parts whose totals were added up."""
    total: RestTotal = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), rest_total)
    gradients = merge_gradients(Parts(prefix_gradient, total.gradient))
    return LossAndGradients(total.loss, total.gate_mean, total.score_penalty, gradients, rows)


def _in_groups(of_group: Callable[[RestRows], ChunkResult], rows: RestRows, num_groups: int) -> ChunkResult:
    """`of_group` of equal parts of the rows, one for each place along the data axis; the totals stay apart."""
    if num_groups == 1:
        result = of_group(rows)
        return ChunkResult(jax.tree.map(lambda leaf: leaf[None], result.total), result.rows)
    parts = jax.tree.map(lambda leaf: lie_along(leaf.reshape(num_groups, -1, *leaf.shape[1:]), *BATCH_AXES), rows)
    with within_data_axis():
        result = jax.vmap(of_group, spmd_axis_name=DATA)(parts)
    joined = jax.tree.map(lambda leaf: lie_along(leaf.reshape(-1, *leaf.shape[2:]), BATCH_AXES), result.rows)
    return ChunkResult(jax.tree.map(lambda leaf: lie_along(leaf, DATA), result.total), joined)


class _Terms(NamedTuple):
    losses: RowLosses
    gate_mean: Float[Array, ""]
    score_penalty: Float[Array, ""]


def _rest_loss(setting: Setting, kept_length: int) -> Callable[..., tuple[Array, _Terms]]:
    """The rows' share of the loss, as a function of what it is differentiated by."""

    def loss(
        params: Params,
        hidden: Float[Array, "rows length embed"],
        gate_values: Float[Array, "rows length"] | None,
        objective: Objective,
        rows: RestRows,
    ) -> tuple[Array, _Terms]:
        params = stop_gradients(params, setting.frozen)
        bias = gate_values if setting.deletion in ("soft", "saturated") else None
        who = rows.who._replace(bias=bias)
        compact = compact_at(hidden, rows.mask, who, kept_length)
        weights = rows.batch["decoder_loss_weights"]
        dropout = layers_first(rows.dropout)
        targets = Queries(weights > 0, rows.batch.get("decoder_segment_ids"))
        after = run_rest(setting.model, params, compact, rows.batch["decoder_input_tokens"], dropout, targets)
        tokens = cross_entropy(after.logits, rows.batch["decoder_target_tokens"], weights, setting.loss.z_loss)
        losses = sum_rows(tokens, weights)
        score = score_term(after.score_excess, losses, objective.denominators)
        gate = jnp.zeros_like(score)
        if gate_values is not None:
            gate = gate_term(gate_values, rows.mask, objective.denominators)
        target = target_term(losses, objective.denominators)
        total = total_loss(target, gate, score, objective.gate_weight, setting.loss.score_penalty)
        return total, _Terms(losses, gate, score)

    return loss
