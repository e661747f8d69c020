"""A model ready to score and generate, under any dispatch.

    up to the gate    tokens -> hidden states, survivors, chunks      one program for each input length
    after the gate    suffix, decoder or decoding loop                a `Body` (see `compaction.dispatch`)

The suffix, cross-attention and its cache run at the rung's length. By default the host chooses it: no program contains
other rungs, and only rungs that occur are compiled. JAX keeps the programs: once every shape and rung has been seen,
nothing compiles.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mrt5_jax.compaction.dispatch import Body, ChunkResult, program, run_in_graph, run_on_host
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.rows import Chunked, restore_rows
from mrt5_jax.config import Deletion, ExecutionConfig, ModelConfig
from mrt5_jax.inference.decoding import Generated, Greedy, Search
from mrt5_jax.inference.incremental import memorize
from mrt5_jax.inference.scoring import Scores, target_scores
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardAtGate, ForwardRows, ForwardSetting, forward_lengths, run_rest, run_to_gate
from mrt5_jax.model.parameters import Params

Tokens = Int[Array, "batch length"] | Int[np.ndarray, "batch length"]


class Shared(NamedTuple):
    """What every chunk sees."""

    params: Params
    by_row: Any
    """Pytree of arrays [batch ...], in the batch's order."""


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no equality that is one bool: an engine equals itself
class Engine:
    """A model under one deletion. Rows of only pads are filler: they change nothing.

    A model without a gate deletes nothing, whatever the deletion. Of `execution`, `inference_dispatch` says who
    chooses the lengths; in generation every chunk is a decoding loop of its own. `capacity` is the share of its length
    that a row may keep; None: all that the gate keeps.
    """

    config: ModelConfig
    params: Params
    deletion: Deletion = "hard"
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    capacity: float | None = None

    def start(self, tokens: Tokens) -> ForwardAtGate:
        """Sends a batch through the model up to the gate, and does not wait for it.

        `generate` and `score` take what it returns in place of tokens: start the next batch before you ask for the
        results of this one, and the device computes while the host waits and reads.
        """
        return _to_gate(self._setting(tokens.shape[1]), self.params, jnp.asarray(tokens))

    def generate(
        self,
        tokens: Tokens | ForwardAtGate,
        max_length: int,
        search: Search | None = None,
        row_keys: RowKeys | None = None,
    ) -> Generated:
        """A sequence for each row of `tokens`.

        Args:
          tokens: inputs with end of sequence; pads (0) at the end. Or what `start` returned.
          max_length: the most tokens to generate, end of sequence included.
          search: `Greedy()` (the default), `Sampling(...)` or `Beam(...)`.
          row_keys: what sampling draws from.
        """
        at_gate = tokens if isinstance(tokens, ForwardAtGate) else self.start(tokens)
        return self._run(_Generate(self._model, search or Greedy(), max_length), at_gate, row_keys)

    def score(self, batch: dict[str, Array] | dict[str, np.ndarray], at_gate: ForwardAtGate | None = None) -> Scores:
        """Log-probabilities of given targets; `batch` is as in training, `at_gate` what `start` made of its inputs."""
        if at_gate is None:
            at_gate = self.start(batch["encoder_input_tokens"])
        targets = {name: jnp.asarray(batch[name]) for name in batch if name.startswith("decoder_")}
        return _with_counts(self._run(_Score(self._model), at_gate, targets), targets, at_gate)

    @property
    def _model(self) -> MrT5:
        return MrT5(self.config, self.execution)

    def _setting(self, length: int) -> ForwardSetting:
        ladder = make_ladder(length, self.execution, jax.default_backend(), self.capacity)
        return ForwardSetting(self._model, self.deletion, ladder, self.execution.chunks)

    def _run(self, body: Body, at_gate: ForwardAtGate, by_row: Any) -> Any:
        """What the body returns of each row, in the batch's order."""
        shared, chunked = Shared(self.params, by_row), at_gate.chunked
        ladder = forward_lengths(self._setting(at_gate.mask.shape[1]))
        if self.execution.inference_dispatch != "host":
            return _run_in_graph(body, ladder, shared, chunked)
        programs = {rung: partial(_run_chunk, body, rung) for rung in ladder.rungs}
        ran = run_on_host(programs, ladder, (), shared, chunked.rows, chunked.most)
        return _in_order(ran.rows, chunked.order)


def greedy(
    config: ModelConfig, params: Params, tokens: Tokens, max_length: int, deletion: Deletion = "hard"
) -> Generated:
    """Greedy decoding of a batch: `Engine.generate` for those who need nothing else."""
    return Engine(config, params, deletion).generate(tokens, max_length)


@dataclasses.dataclass(frozen=True)
class _Generate:
    """The body of generation; `by_row` is what sampling draws from."""

    model: MrT5
    search: Search
    max_length: int

    def __call__(self, kept_length: int) -> Callable[[Shared, ForwardRows], ChunkResult]:
        def run(shared: Shared, rows: ForwardRows) -> ChunkResult:
            decoder = memorize(self.model, shared.params, rows.compact(kept_length))
            return ChunkResult((), self.search.search(decoder, _of(rows, shared.by_row), self.max_length))

        return run


@dataclasses.dataclass(frozen=True)
class _Score:
    """The body of scoring; `by_row` is the targets."""

    model: MrT5

    def __call__(self, kept_length: int) -> Callable[[Shared, ForwardRows], ChunkResult]:
        def run(shared: Shared, rows: ForwardRows) -> ChunkResult:
            targets = _of(rows, shared.by_row)
            ids = targets["decoder_input_tokens"]
            logits = run_rest(self.model, shared.params, rows.compact(kept_length), ids).logits
            scores = target_scores(logits, targets["decoder_target_tokens"], targets["decoder_loss_weights"])
            return ChunkResult((), scores)

        return run


def _of(rows: ForwardRows, by_row: Any) -> Any:
    """What belongs to these rows, whose numbers in the batch are their `own`."""
    return jax.tree.map(lambda array: array[rows.own], by_row)


@partial(jax.jit, static_argnames="setting")
def _to_gate(setting: ForwardSetting, params: Params, tokens: Int[Array, "batch length"]) -> ForwardAtGate:
    return run_to_gate(setting, params, tokens, own=jnp.arange(tokens.shape[0]))


@partial(jax.jit, static_argnames=("body", "ladder"))
def _run_in_graph(body: Body, ladder: Ladder, shared: Shared, chunked: Chunked) -> Any:
    return restore_rows(run_in_graph(ladder, body, shared, chunked.rows, chunked.most).rows, chunked.order)


@partial(jax.jit, static_argnames=("body", "rung"))
def _run_chunk(body: Body, rung: int, total: Any, shared: Shared, chunks: Any, number: Int[Array, ""]) -> Any:
    return program(body, rung)(total, shared, chunks, number)


@jax.jit
def _in_order(rows: list[Any], order: Int[Array, "shards local"]) -> Any:
    return restore_rows(jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), order)


@jax.jit
def _with_counts(score: Array, targets: dict[str, Array], at_gate: ForwardAtGate) -> Scores:
    return Scores(
        score=score,
        num_target_tokens=jnp.sum(targets["decoder_loss_weights"] > 0, axis=1, dtype=jnp.int32),
        num_input_tokens=count_kept(at_gate.mask),
        num_kept_tokens=count_kept(at_gate.keep & at_gate.mask) - at_gate.dropped,
        num_dropped_tokens=at_gate.dropped,
    )
