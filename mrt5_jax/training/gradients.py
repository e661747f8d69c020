"""The training objective and its gradient, through compaction.

The gradient is taken in two pieces. The rest of the model (suffix, decoder, losses) is differentiated *inside* the
branch that runs it, with respect to its parameters, the hidden states at the gate and the gate values; the prefix is
then chained by its own vector-Jacobian product. Differentiating through `lax.switch` instead would keep the residuals
of every branch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.dispatch import Switched, switch_rung
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.config import LossConfig, TrainingDeletion
from mrt5_jax.dropout import NO_DROPOUT, RowKeys, draw_dropout
from mrt5_jax.forward import (
    Params,
    Parts,
    compact_full,
    compact_to,
    compacts,
    merge_gradients,
    run_prefix,
    run_rest,
    split_parameters,
    survivors,
)
from mrt5_jax.network import MrT5, Prefix
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

SELECTOR = 3
"""The selector's place among the uses of a row's key; `draw_dropout` takes those below it."""


class Objective(NamedTuple):
    """What a training step minimises: weights of the terms, and the counts they are divided by."""

    config: LossConfig
    gate_weight: Float[Array, ""]
    """alpha."""
    denominators: Denominators


class Measured(NamedTuple):
    """What a forward pass showed, besides the loss."""

    rows: RowLosses
    gate_mean: Float[Array, ""]
    score_penalty: Float[Array, ""]
    mask: Bool[Array, "batch length"]
    keep: Bool[Array, "batch length"]
    """Positions that the gate keeps (hard decisions), also under soft deletion."""
    rescued: Bool[Array, " batch"]
    rung: Int[Array, ""]
    """The static length that the rest of the model ran at."""


class LossAndGradients(NamedTuple):
    loss: Float[Array, ""]
    gradients: Params
    measured: Measured


class _RestLoss(NamedTuple):
    rows: RowLosses
    gate_mean: Float[Array, ""]
    score_penalty: Float[Array, ""]


def loss_and_gradients(
    model: MrT5,
    params: Params,
    batch: dict[str, Array],
    objective: Objective,
    deletion: TrainingDeletion,
    ladder: Ladder,
    row_keys: RowKeys | None = None,
) -> LossAndGradients:
    """Loss (MrT5 section 3.2) and its gradient with respect to all parameters.

    Args:
      batch: `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights`.
      ladder: lengths that deletion with compaction runs at.
      row_keys: randomness of dropout and gate noise; None: neither.

    Under hard deletion the gate learns from its regulariser alone, since whether a position is kept has no gradient.
    """
    parts = split_parameters(params)
    tokens, decoder_input_tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    dropout, selector_keys = NO_DROPOUT, None
    if row_keys is not None:
        dropout = draw_dropout(model.config, row_keys, tokens.shape[1], decoder_input_tokens.shape[1])
        selector_keys = jax.vmap(lambda key: jax.random.fold_in(key, SELECTOR))(row_keys)

    def at_gate(prefix_params: Params) -> tuple[tuple[Array, Array | None], Prefix]:
        prefix = run_prefix(model, prefix_params, tokens, dropout, selector_keys)
        return (prefix.hidden, None if prefix.selection is None else prefix.selection.bias), prefix

    (hidden, gate_values), pull_back, prefix = jax.vjp(at_gate, parts.prefix, has_aux=True)
    keep = prefix.mask if prefix.selection is None or deletion == "none" else prefix.selection.keep
    compact_lengths = prefix.selection is not None and compacts(deletion)

    def at(kept_length: int):
        def loss(rest_params: Params, hidden: Array, gate_values: Array | None) -> tuple[Array, _RestLoss]:
            selection = prefix.selection and prefix.selection._replace(bias=gate_values)
            who = survivors(prefix.mask, selection, deletion)
            if compact_lengths:
                compact = compact_to(hidden, who, kept_length)
            else:
                compact = compact_full(hidden, prefix.mask, who)
            weights = batch["decoder_loss_weights"]
            rest = run_rest(model, rest_params, compact, decoder_input_tokens, dropout, weights > 0)
            tokens = cross_entropy(rest.logits, batch["decoder_target_tokens"], weights, objective.config.z_loss)
            rows = sum_rows(tokens, weights)
            score = score_term(rest.score_excess, rows, objective.denominators)
            gate = jnp.zeros_like(score)
            if gate_values is not None:
                gate = gate_term(gate_values, prefix.mask, objective.denominators)
            total = total_loss(
                target_term(rows, objective.denominators),
                gate,
                score,
                objective.gate_weight,
                objective.config.score_penalty,
            )
            return total, _RestLoss(rows, gate, score)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)

    operands = (parts.rest, hidden, gate_values)
    if compact_lengths:
        ran = switch_rung(ladder, count_kept(keep), at, *operands)
    else:
        length = hidden.shape[1]
        ran = Switched(at(length)(*operands), jnp.asarray(length, jnp.int32))
    (loss, rest), (rest_gradient, *cotangents) = ran.result
    (prefix_gradient,) = pull_back(tuple(cotangents))
    rescued = jnp.zeros(hidden.shape[0], bool) if prefix.selection is None else prefix.selection.rescued
    measured = Measured(rest.rows, rest.gate_mean, rest.score_penalty, prefix.mask, keep, rescued, ran.rung)
    return LossAndGradients(loss, merge_gradients(Parts(prefix_gradient, rest_gradient)), measured)
