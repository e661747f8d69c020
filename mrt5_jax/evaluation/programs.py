"""The compiled programs of an evaluation, under either dispatch."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.compaction.windows import Windows, by_shape, shape_of
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
    kept: Bool[Array, "batch length"]
    """The positions that `num_kept_tokens` counts."""


@runtime_checkable
class Evaluator(Protocol):
    """What computes the results of some batches with INDEX, all their rows on the devices together."""

    window: int
    """The most batches that it takes."""

    def __call__(self, params: Params, batches: Sequence[DeviceBatch], deletion: Deletion) -> list[RowResults]: ...


EvaluationProgram = Callable[[Params, DeviceBatch, Deletion], RowResults]
"""(parameters, batch with INDEX, deletion) -> results."""


def evaluation_program(model: MrT5, ladder: Ladder, seed: int = 0) -> EvaluationProgram:
    """Makes a jitted function, compiled for each deletion and batch shape: in one program, whatever is kept.

    Args:
      ladder: the lengths that deletions that remove positions run at, see `make_ladder`.
      seed: of random deletion; a row's draw follows from it and the example's index, not from its batch.
    """

    def evaluate_rows(params: Params, batch: DeviceBatch, deletion: Deletion) -> RowResults:
        setting = ForwardSetting(model, deletion, ladder)
        return in_graph(evaluation_stages(setting, seed))(params, (), dict(batch)).rows

    return jax.jit(evaluate_rows, static_argnums=2)


class BatchByBatch:
    """An evaluator that takes one batch at a time."""

    window = 1

    def __init__(self, program: EvaluationProgram) -> None:
        self._program = program

    def __call__(self, params: Params, batches: Sequence[DeviceBatch], deletion: Deletion) -> list[RowResults]:
        return [self._program(params, batch, deletion) for batch in batches]


class WindowEvaluator:
    """An evaluator that regroups the rows of batches of the same shape, under either dispatch.

    All programs that a deletion and a batch's shape can need are compiled when they first come.

    Args:
      ladders: by input length, the lengths that deletions that remove positions run at.
      seed: as of `evaluation_program`.
      dispatch: who chooses the length.
      window: the most batches to regroup; 1 regroups none.
      num_chunks: parts of a batch with a length each.
      num_shards: devices that the rows are spread over; each sorts its own, so that none leaves its device.
    """

    def __init__(
        self,
        model: MrT5,
        ladders: Mapping[int, Ladder],
        seed: int = 0,
        *,
        dispatch: Dispatch = "host",
        window: int = 1,
        num_chunks: int = 1,
        num_shards: int = 1,
    ) -> None:
        self.window = window
        self._stages: Callable[[int, Deletion], Staged] = lambda length, deletion: evaluation_stages(
            ForwardSetting(model, deletion, ladders[length], num_chunks, num_shards), seed
        )
        self._dispatch: Dispatch = dispatch
        self._compiled: dict[Hashable, Windows] = {}

    def __call__(self, params: Params, batches: Sequence[DeviceBatch], deletion: Deletion) -> list[RowResults]:
        return by_shape(
            [dict(batch) for batch in batches],
            lambda alike: self._programs(params, alike[0], deletion).run(params, (), alike, self.window),
        )

    def _programs(self, params: Params, batch: DeviceBatch, deletion: Deletion) -> Windows:
        key = deletion, shape_of(batch)
        if key not in self._compiled:
            length = batch["encoder_input_tokens"].shape[1]
            self._compiled[key] = Windows(self._stages(length, deletion), self._dispatch)
            self._compiled[key].compile(params, (), batch, self.window)
        return self._compiled[key]


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
    kept = at_gate.keep if at_gate.with_slot is None else at_gate.with_slot
    results = RowResults(
        *predicted,
        num_input_tokens=count_kept(at_gate.mask),
        num_kept_tokens=count_kept(at_gate.keep & at_gate.mask) - at_gate.dropped,
        num_dropped_tokens=at_gate.dropped,
        rescued=at_gate.rescued,
        rung=rungs,
        kept=kept & at_gate.mask,
    )
    return Part((), results)
