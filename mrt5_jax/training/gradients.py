"""The training objective and its gradient, through compaction.

    first stage    prefix, gate, who survives                for all rows
    second stage   suffix, decoder, losses of the targets    for one chunk at one rung

`staged_gradients` differentiates the two; what they compute stands here.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Shardings, Staged, in_graph
from mrt5_jax.config import CompactionConfig, GateConfig, LossConfig, RowsInParts, TrainingDeletion
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
    count_denominators,
    cross_entropy,
    score_term,
    sum_rows,
    target_term,
)
from mrt5_jax.objectives.penalties import PenaltyScale
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.parallel.batches import CONTROLLER_IDS
from mrt5_jax.randomness import RowUse
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.selectors import selector_rule
from mrt5_jax.selection.step_deletions import removing_deletions
from mrt5_jax.selection.survivors import handed_signals, survivors
from mrt5_jax.training.freezing import stop_gradients
from mrt5_jax.training.staged_gradients import Cuts, FirstOutputs, SecondOutputs, TwoStages, gradient_stages

SCORE_PENALTY = "score_penalty"
"""The term of the score regulariser."""


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
    rows_in_parts: RowsInParts = "as_they_come"

    @property
    def cuts(self) -> Cuts:
        """How a batch is cut, and the lengths that the second stage runs at."""
        lengths = lengths_under(self.model, self.deletion, self.ladder)
        worth_sorting = self.num_parts > 1 and len(lengths.rungs) > 1
        rows_in_parts = self.rows_in_parts if worth_sorting else "as_they_come"
        return Cuts(lengths, self.shards, self.num_chunks, self.num_parts, rows_in_parts)


class Objective(NamedTuple):
    """What a training step minimises: how it takes the penalties, and the counts that other terms are divided by.

    Where languages have controllers of their own, the mean gate value has a weight a controller.
    """

    penalties: dict[str, PenaltyScale]
    denominators: Denominators


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
    kept_under: dict[str, Int[Array, " batch"]]
    """Positions that would stay under each deletion that removes some; empty without a gate."""


class TrainingRows(NamedTuple):
    """What the second stage reads of its rows, besides what every second stage does."""

    targets: DeviceBatch
    dropout: Dropout
    """Rows first."""


Inputs = tuple[DeviceBatch, RowKeys | None]
"""A batch, and each row's random key: dropout and gate noise; None: neither."""


def objective_of(
    gate: GateConfig | None, loss: LossConfig, alpha: Float[Array, "*controllers"], batch: DeviceBatch
) -> Objective:
    """Returns the objective of a step: counts are those of its whole batch, before it is cut into anything.

    Args:
      gate: the model's.
      loss: weights of the other penalties; one that it does not name counts nothing.
      alpha: weight of the mean gate value, from the controller or constant; one a controller.
      batch: as in `loss_and_gradients`.
    """
    mask, segments = batch["encoder_input_tokens"] > 0, batch.get("encoder_segment_ids")
    rules = {} if gate is None else selector_rule(gate).penalties
    weights = {**dict(loss.penalties), GATE_MEAN: alpha}
    scales = {
        name: PenaltyScale(
            jnp.asarray(weights.get(name, 0.0), alpha.dtype), jnp.maximum(jnp.sum(rule.count(mask, segments)), 1)
        )
        for name, rule in rules.items()
    }
    return Objective(scales, count_denominators(batch["decoder_loss_weights"]))


def loss_and_gradients(
    setting: Setting, params: Params, batch: DeviceBatch, objective: Objective, row_keys: RowKeys | None = None
) -> Part:
    """Computes the loss (MrT5 section 3.2) and its gradient with respect to all parameters, in one program.

    Args:
      batch: `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights`; of packed
        rows, `encoder_segment_ids` and `decoder_segment_ids` as well.
      row_keys: randomness of dropout and gate noise; None: neither.

    Under hard deletion the gate learns from its penalties alone, since whether a position is kept has no gradient.
    """
    return in_graph(training_stages(setting))(params, objective, (batch, row_keys))


def training_stages(setting: Setting, shardings: Shardings | None = None) -> Staged:
    """Returns the stages of `loss_and_gradients`."""
    gate = setting.model.config.gate

    stages = TwoStages(
        lambda params, inputs: _first_stage(setting, params, inputs),
        lambda inputs, outputs, found: _between(setting, inputs, outputs, found),
        lambda slots: _second_stage(setting, slots),
        _scales,
        _measured,
        split_stages,
        merge_gradients,
        () if gate is None else tuple(selector_rule(gate).penalties),
        (SCORE_PENALTY,),
        _loss_dtype(setting),
    )
    return gradient_stages(stages, setting.cuts, shardings)


def target_loss(
    setting: Setting, params: Params, batch: DeviceBatch, objective: Objective, row_keys: RowKeys | None = None
) -> Float[Array, ""]:
    """Computes the part of `loss_and_gradients`' loss that targets make (cross-entropy, z-loss), without gradient."""

    def body(slots: int) -> Callable[[Params, Objective, GateRows], Part]:
        second = _second_stage(setting, slots)

        def run(params: Params, objective: Objective, rows: GateRows) -> Part:
            return Part(target_term(second(params, objective, rows).rows, objective.denominators), ())

        return run

    stages = dataclasses.replace(
        training_stages(setting),
        body=body,
        finish=lambda carry, nothing, rungs: Part((), ()),
        chunk_zeros=lambda params: jnp.zeros((), _loss_dtype(setting)),
        zeros=lambda params: (),
        combine=lambda loss, nothing: loss,
    )
    return in_graph(stages)(params, objective, (batch, row_keys)).total


def _loss_dtype(setting: Setting) -> DTypeLike:
    """What losses are added up in."""
    config = setting.model.config
    return jnp.promote_types(jnp.promote_types(config.dtype, config.param_dtype), jnp.float32)


class _Found(NamedTuple):
    """What the first stage finds, besides what it is differentiated by."""

    prefix: Prefix
    dropout: Dropout
    """Of the second stage."""


def _first_stage(setting: Setting, params: Params, inputs: Inputs) -> tuple[FirstOutputs, _Found]:
    """Runs the model up to the gate."""
    model, (batch, row_keys) = setting.model, inputs
    tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    dropout, selector_keys = NO_DROPOUT, None
    if row_keys is not None:
        dropout = draw_dropout(model.config, row_keys, tokens.shape[1], batch["decoder_input_tokens"].shape[1])
        selector_keys = jax.vmap(lambda key: jax.random.fold_in(key, RowUse.SELECTOR))(row_keys)
    prefix = run_prefix(model, stop_gradients(params, setting.frozen), tokens, dropout, selector_keys, segments)
    penalties = {} if prefix.selection is None else prefix.selection.penalties
    outputs = FirstOutputs(
        prefix.hidden,
        handed_signals(prefix.selection, setting.deletion),
        {name: penalty.total for name, penalty in penalties.items()},
    )
    return outputs, _Found(prefix, dropout._replace(embedded=None, prefix=LayerDropout()))


def _between(setting: Setting, inputs: Inputs, outputs: FirstOutputs, found: _Found) -> Begun:
    """Decides who survives."""
    batch, _ = inputs
    prefix, deletion = found.prefix, setting.deletion
    segments, threshold = batch.get("encoder_segment_ids"), setting.compaction.saturation_threshold
    surviving = survivors(prefix.mask, prefix.selection, deletion, segments=segments, saturation_threshold=threshold)
    fitted = fit(surviving, setting.cuts.ladder)
    heeded = prefix.selection is not None and DELETIONS[deletion].heeds_selector
    keep = prefix.selection.keep if heeded and prefix.selection is not None else prefix.mask
    # Of saturated deletion's survivors the gate may delete some as well: those count as deleted.
    at_gate = AtGate(prefix.mask, keep, prefix.selection, count_kept(keep & surviving.keep & ~fitted))
    kept_under = {
        name: count_kept(
            survivors(prefix.mask, prefix.selection, name, segments=segments, saturation_threshold=threshold).keep
        )
        for name in removing_deletions(setting.model.config.gate)
    }
    own = TrainingRows(targets_of(batch), rows_first(found.dropout))
    rows = GateRows(outputs.hidden, outputs.signals, prefix.mask, surviving._replace(keep=fitted), own)
    return Begun(rows, count_kept(fitted), (at_gate, kept_under))


def _scales(objective: Objective, inputs: Inputs) -> dict[str, PenaltyScale]:
    """How the loss takes the penalties of these rows: each by the controller that steers it, if there are several."""
    batch, _ = inputs
    if CONTROLLER_IDS not in batch:
        return objective.penalties
    gate = objective.penalties[GATE_MEAN]
    return {**objective.penalties, GATE_MEAN: gate._replace(weight=gate.weight[batch[CONTROLLER_IDS]])}


def _measured(
    carry: tuple[AtGate, dict[str, Int[Array, " batch"]]], losses: RowLosses, rungs: Int[Array, " batch"]
) -> MeasuredRows:
    at_gate, kept_under = carry
    return MeasuredRows(losses, at_gate.mask, at_gate.keep, at_gate.rescued, at_gate.dropped, rungs, kept_under)


def _second_stage(setting: Setting, slots: int) -> Callable[[Params, Objective, GateRows], SecondOutputs]:
    """The rows' share of the loss, compiled for a length."""

    def run(params: Params, objective: Objective, rows: GateRows) -> SecondOutputs:
        params = stop_gradients(params, setting.frozen)
        batch, dropout = rows.own.targets, layers_first(rows.own.dropout)
        weights = batch["decoder_loss_weights"]
        targets = Queries(weights > 0, batch.get("decoder_segment_ids"))
        compact, ids = rows.compact(slots), batch["decoder_input_tokens"]
        after = run_second_stage(setting.model, params, compact, ids, dropout, targets)
        tokens = cross_entropy(after.logits, batch["decoder_target_tokens"], weights, setting.loss.z_loss)
        losses = sum_rows(tokens, weights)
        score = score_term(after.score_excess, losses, objective.denominators)
        loss = target_term(losses, objective.denominators) + setting.loss.score_penalty * score
        return SecondOutputs(loss, {SCORE_PENALTY: score}, losses)

    return run
