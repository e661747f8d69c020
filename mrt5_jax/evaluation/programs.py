"""The compiled programs of an evaluation, under any dispatch."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mrt5_jax.compaction.dispatch import Program, Ran, abstract_outputs, compile_programs, run_on_host
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.config import Deletion, Dispatch
from mrt5_jax.data.arrangements import INDEX
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import (
    ForwardAtGate,
    ForwardSetting,
    Outputs,
    forward,
    forward_begin,
    forward_finish,
    forward_lengths,
    forward_rest,
)
from mrt5_jax.model.parameters import Params, split_parameters
from mrt5_jax.objectives.losses import RowLosses, cross_entropy, sum_rows

Batch = Mapping[str, Array]


class RowResults(NamedTuple):
    """What a program returns for a batch; of filler rows, nothing counts."""

    losses: RowLosses
    predictions: Int[Array, "batch target"]
    """The id with the highest logit; PAD_ID where there is no target."""
    num_input_tokens: Int[Array, " batch"]
    num_kept_tokens: Int[Array, " batch"]
    """Without those that a capacity dropped."""
    num_dropped_tokens: Int[Array, " batch"]
    rescued: Bool[Array, " batch"]
    rung: Int[Array, " batch"]


Evaluator = Callable[[Params, Batch, Deletion], RowResults]
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
    """Programs compiled once for each deletion and batch shape.

    Args:
      ladder: the lengths that deletions with compaction run at, see `make_ladder`.
      seed: of random deletion; a row's draw follows from it and the example's index, not from its batch.
      dispatch: who chooses the length.
      num_chunks: parts of a batch, sorted by kept count, with a length each.
      num_shards: devices that the rows are spread over; each sorts its own, so that none leaves its device.
    """

    def setting_of(deletion: Deletion) -> ForwardSetting:
        return ForwardSetting(model, deletion, ladder, num_chunks, num_shards)

    if dispatch == "host":
        return _HostEvaluator(setting_of, seed)

    def evaluate_rows(params: Params, batch: Batch, deletion: Deletion) -> RowResults:
        setting = setting_of(deletion)
        outputs = forward(setting, params, dict(batch), _selector_keys(seed, batch))
        return _row_results(outputs, batch, deletion)

    return jax.jit(evaluate_rows, static_argnums=2)


class _Programs(NamedTuple):
    begin: Any
    rest: dict[int, Program]
    finish: Any


class _HostEvaluator:
    """Prefix, rest and results as programs of their own; the host chooses the lengths between them."""

    def __init__(self, setting_of: Callable[[Deletion], ForwardSetting], seed: int) -> None:
        self._setting_of, self._seed = setting_of, seed
        self._programs: dict[Hashable, _Programs] = {}

    def __call__(self, params: Params, batch: Batch, deletion: Deletion) -> RowResults:
        setting, batch = self._setting_of(deletion), dict(batch)
        shapes = tuple(sorted((name, array.shape) for name, array in batch.items()))
        if (deletion, shapes) not in self._programs:
            self._programs[deletion, shapes] = self._compile(params, batch, deletion)
        programs = self._programs[deletion, shapes]
        at_gate = programs.begin(params, batch)
        chunked, rest = at_gate.chunked, split_parameters(params).rest
        ran = run_on_host(programs.rest, forward_lengths(setting), (), rest, chunked.rows, chunked.most)
        return programs.finish(at_gate, ran, batch)

    def _compile(self, params: Params, batch: dict[str, Array], deletion: Deletion) -> _Programs:
        """Everything that batches of this shape can need, whatever is kept."""
        setting = self._setting_of(deletion)

        def begin(params: Params, batch: dict[str, Array]) -> ForwardAtGate:
            return forward_begin(setting, params, batch, _selector_keys(self._seed, batch))

        def finish(at_gate: ForwardAtGate, ran: Ran, batch: dict[str, Array]) -> RowResults:
            return _row_results(forward_finish(at_gate, ran), batch, deletion)

        begun = jax.jit(begin).lower(params, batch).compile()
        at_gate = abstract_outputs(begun)
        rungs = forward_lengths(setting).rungs
        programs = compile_programs(
            forward_rest(setting), rungs, (), split_parameters(params).rest, at_gate.chunked.rows
        )
        total, rows = abstract_outputs(programs[rungs[0]])
        num_chunks = setting.num_chunks
        chosen: Any = jax.ShapeDtypeStruct((num_chunks,), jnp.int32)
        ran = Ran(total, [rows] * num_chunks, chosen)
        return _Programs(begun, programs, jax.jit(finish).lower(at_gate, ran, batch).compile())


def _selector_keys(seed: int, batch: Batch) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), batch[INDEX])


def _row_results(outputs: Outputs, batch: Batch, deletion: Deletion) -> RowResults:
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    rescued = jnp.zeros(outputs.mask.shape[0], bool)
    if outputs.selection is not None and deletion != "none":
        rescued = outputs.selection.rescued
    return RowResults(
        losses=sum_rows(cross_entropy(outputs.logits, targets, weights), weights),
        predictions=jnp.where(weights > 0, jnp.argmax(outputs.logits, axis=-1), PAD_ID),
        num_input_tokens=count_kept(outputs.mask),
        num_kept_tokens=count_kept(outputs.keep & outputs.mask) - outputs.dropped,
        num_dropped_tokens=outputs.dropped,
        rescued=rescued,
        rung=outputs.kept_length,
    )
