"""The compiled programs of an evaluation, under either dispatch."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.config import Deletion, Dispatch
from mrt5_jax.data.arrangements import INDEX
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import (
    AtGate,
    DeviceBatch,
    ForwardSetting,
    targets_of,
    teacher_forced,
    up_to_gate,
)
from mrt5_jax.model.parameters import Params
from mrt5_jax.objectives.losses import RowLosses, cross_entropy, sum_rows


class Predicted(NamedTuple):
    """What the logits of some rows say."""

    losses: RowLosses
    predictions: Int[Array, "batch target"]
    """The id with the highest logit; PAD_ID where there is no target."""


class RowResults(NamedTuple):
    """What a program returns for a batch; of rows of padding, nothing counts."""

    losses: RowLosses
    predictions: Int[Array, "batch target"]
    """As in `Predicted`."""
    num_input_tokens: Int[Array, " batch"]
    num_kept_tokens: Int[Array, " batch"]
    """Without those that a capacity dropped."""
    num_dropped_tokens: Int[Array, " batch"]
    rescued: Bool[Array, " batch"]
    rung: Int[Array, " batch"]


Evaluator = Callable[[Params, DeviceBatch, Deletion], RowResults]
"""(parameters, batch with INDEX, deletion) -> results."""


def make_evaluator(
    model: MrT5,
    ladder: Ladder,
    seed: int = 0,
    *,
    dispatch: Dispatch = "in_graph",
    num_chunks: int = 1,
    num_shards: int = 1,
) -> Evaluator:
    """Makes programs that are compiled once for each deletion and batch shape.

    Args:
      ladder: the lengths that deletions that remove positions run at, see `make_ladder`.
      seed: of random deletion; a row's draw follows from it and the example's index, not from its batch.
      dispatch: who chooses the length.
      num_chunks: parts of a batch, sorted by kept count, with a length each.
      num_shards: devices that the rows are spread over; each sorts its own, so that none leaves its device.
    """

    def staged_under(deletion: Deletion) -> Staged:
        return evaluation_stages(ForwardSetting(model, deletion, ladder, num_chunks, num_shards), seed)

    if dispatch == "host":
        return _HostEvaluator(staged_under)

    def evaluate_rows(params: Params, batch: DeviceBatch, deletion: Deletion) -> RowResults:
        return in_graph(staged_under(deletion))(params, (), dict(batch)).rows

    return jax.jit(evaluate_rows, static_argnums=2)


def evaluation_stages(setting: ForwardSetting, seed: int) -> Staged:
    """Returns the stages of an evaluation: from a batch with INDEX to RowResults."""

    def begin(params: Params, shared: tuple[()], batch: DeviceBatch) -> Begun:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), batch[INDEX])
        tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
        return up_to_gate(setting, params, tokens, targets_of(batch), segments, keys)

    return setting.staged(begin, teacher_forced(setting, predict), row_results)


def predict(logits: Float[Array, "rows target vocab"], targets: DeviceBatch) -> Predicted:
    """Computes losses and most probable ids.

    Args:
      targets: `decoder_target_tokens` and `decoder_loss_weights`.
    """
    ids, weights = targets["decoder_target_tokens"], targets["decoder_loss_weights"]
    losses = sum_rows(cross_entropy(logits, ids, weights), weights)
    return Predicted(losses, jnp.where(weights > 0, jnp.argmax(logits, axis=-1), PAD_ID))


def row_results(at_gate: AtGate, predicted: Predicted, rungs: Int[Array, " batch"]) -> Part:
    """Puts what was predicted beside what was deleted."""
    results = RowResults(
        *predicted,
        num_input_tokens=count_kept(at_gate.mask),
        num_kept_tokens=count_kept(at_gate.keep & at_gate.mask) - at_gate.dropped,
        num_dropped_tokens=at_gate.dropped,
        rescued=at_gate.rescued,
        rung=rungs,
    )
    return Part((), results)


class _HostEvaluator:
    """The stages as programs of their own for each deletion and batch shape; the host chooses lengths between them."""

    def __init__(self, staged_under: Callable[[Deletion], Staged]) -> None:
        self._staged_under = staged_under
        self._compiled: dict[Hashable, OnHost] = {}

    def __call__(self, params: Params, batch: DeviceBatch, deletion: Deletion) -> RowResults:
        batch = dict(batch)
        shapes = deletion, *sorted((name, array.shape) for name, array in batch.items())
        if shapes not in self._compiled:
            self._compiled[shapes] = OnHost(self._staged_under(deletion))
            self._compiled[shapes].compile(params, (), batch)
        return self._compiled[shapes].start(params, (), batch)().rows
