"""A model ready to score and generate, under either dispatch.

The layers after the gate, cross-attention and its cache run at the rung's length. By default the host chooses it: no
program contains other rungs, and only rungs that occur are compiled. Programs are kept for as long as the process
lives: once every shape and rung has been seen, nothing compiles. `score_window` and `generate_window` regroup the rows
of several batches, so that each runs at little more than its own rung.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.compaction.ladder import make_ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Staged
from mrt5_jax.compaction.windows import OfBatch, Windows, by_shape
from mrt5_jax.config import Deletion, Dispatch, ExecutionConfig, ModelConfig
from mrt5_jax.inference.decoding import Generated, Greedy, Search
from mrt5_jax.inference.encoding import EncodedRows, encoded_rows
from mrt5_jax.inference.incremental import memorize
from mrt5_jax.inference.scoring import Scores, target_scores
from mrt5_jax.inference.spreading import gather_rows, spread_rows
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import AtGate, DeviceBatch, ForwardSetting, GateRows, targets_of, teacher_forced, up_to_gate
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.memory import batches_in_window
from mrt5_jax.parallel.mesh import make_mesh, row_shards
from mrt5_jax.parallel.shardings import spread_params

Tokens = Int[Array, "batch length"] | Int[np.ndarray, "batch length"]


class Predictions(NamedTuple):
    """The generated sequence of each row, and what became of its input; zeros for rows without input."""

    tokens: Int[Array, "batch target"]
    """Up to and with the end of sequence, if it came within the length; then pads."""
    num_tokens: Int[Array, " batch"]
    score: Float[Array, " batch"]
    """Sum of the tokens' log-probabilities, nats; see `decoding.Generated`."""
    num_input_tokens: Int[Array, " batch"]
    num_kept_tokens: Int[Array, " batch"]
    """As in `scoring.Scores`."""
    num_dropped_tokens: Int[Array, " batch"]
    num_steps: Int[Array, " batch"] | None = None
    """As in `decoding.Generated`."""


GeneratingProgram = Callable[[Params, Tokens], Predictions]
ScoringProgram = Callable[[Params, dict[str, np.ndarray]], Scores]
EncodingProgram = Callable[[Params, Tokens], EncodedRows]
"""Programs that are compiled for one shape of batches, as functions of parameters and a batch."""


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no equality that is one bool: an engine equals itself
class Engine:
    """A model under one deletion. Rows of padding change nothing.

    A model without a gate deletes nothing, whatever the deletion. Of `execution`, `inference_dispatch` says who
    chooses the lengths; in generation every chunk is a decoding loop of its own. `capacity` is the share of its length
    that a row may keep; None: all that the gate keeps.

    With a mesh, on which the parameters lie already, the rows of a batch are spread over its devices, and results come
    back to the host. Batches then have a multiple of `num_shards` rows.
    """

    config: ModelConfig
    params: Params
    deletion: Deletion = "hard"
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    capacity: float | None = None
    mesh: Mesh | None = None
    """None: the default device alone."""

    @property
    def num_shards(self) -> int:
        """Devices that the rows of a batch are spread over."""
        return 1 if self.mesh is None else row_shards(self.mesh).count

    def on_all_devices(self) -> "Engine":
        """Returns an engine on all devices of this process, by `ExecutionConfig.mesh`; itself where there is only one.

        Itself, too, where the parameters lie on devices of several processes, as after training there.

        Raises:
          UserError: the mesh does not fit the devices.
        """
        mesh = make_mesh(dataclasses.replace(self.execution.mesh, data=-1), jax.local_devices())
        ours = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(self.params))
        if mesh.size == 1 or not ours:
            return self
        params = spread_params(MrT5(self.config, self.execution), self.params, mesh)
        return dataclasses.replace(self, params=params, mesh=mesh)

    def generate(
        self, tokens: Tokens, max_length: int, search: Search | None = None, row_keys: RowKeys | None = None
    ) -> Predictions:
        """Generates a sequence for each row of `tokens`, see `start_generating`."""
        return self.start_generating(tokens, max_length, search, row_keys)()

    def score(self, batch: dict[str, Array] | dict[str, np.ndarray]) -> Scores:
        """Computes the log-probabilities of given targets; `batch` is as in training."""
        return self.start_scoring(batch)()

    def generate_window(
        self,
        batches: Sequence[Int[Array, "batch _"] | Int[np.ndarray, "batch _"]],
        max_length: int,
        search: Search | None = None,
        row_keys: Sequence[RowKeys] | None = None,
        size: int | None = None,
    ) -> list[Predictions]:
        """Generates a sequence for each row of several batches, see `score_window` and `start_generating`.

        Batches may have different input lengths; those of one length are regrouped together.
        """
        keys = [None] * len(batches) if row_keys is None else row_keys
        rows = [spread_rows((tokens, own), self.mesh) for tokens, own in zip(batches, keys, strict=True)]
        size = max(size or 0, len(batches))

        def run(alike: Sequence[tuple[Array, RowKeys | None]]) -> Iterator[Predictions]:
            return self._generator(alike[0][0], max_length, search).run(self.params, (), alike, size)

        return self._gathered(by_shape(rows, run))

    def score_window(
        self, batches: Sequence[dict[str, Array] | dict[str, np.ndarray]], size: int | None = None
    ) -> list[Scores]:
        """Computes the scores of several batches, in their order, faster than one after another.

        After the gate the rows of batches of the same shape are regrouped into batches that keep alike. Until then
        they lie on the device together: `window` says how many batches it should be given.

        Args:
          batches: each as in training.
          size: what is compiled for so many batches serves fewer, too; give the most that will come. None: these.
        """
        rows = [spread_rows(batch, self.mesh) for batch in batches]
        size = max(size or 0, len(batches))
        found = by_shape(rows, lambda alike: self._scorer(alike[0]).run(self.params, (), alike, size))
        return self._gathered(found)

    def encode_window(
        self, batches: Sequence[Int[Array, "batch _"] | Int[np.ndarray, "batch _"]], size: int | None = None
    ) -> list[EncodedRows]:
        """Computes the encoder's output for each row of several batches, see `score_window`."""
        size = max(size or 0, len(batches))

        def run(alike: Sequence[Array]) -> Iterator[EncodedRows]:
            length = alike[0].shape[1]
            return _encoding(self._setting(length, 1), length, self._dispatch).run(self.params, (), alike, size)

        return self._gathered(by_shape([spread_rows(tokens, self.mesh) for tokens in batches], run))

    def window(self, batch_size: int, length: int) -> int:
        """Returns how many batches of so many rows of at most this length to give at once.

        Raises:
          UserError: `execution.window` is larger than the memory.
        """
        return batches_in_window(self.config, self.execution, batch_size, length, self.num_shards)

    def start_generating(
        self, tokens: Tokens, max_length: int, search: Search | None = None, row_keys: RowKeys | None = None
    ) -> Callable[[], Predictions]:
        """Sends a batch through the model up to the gate, and does not wait for it.

        Call what is returned for the sequences. Start the next batch before that, and the device computes while the
        host waits and reads.

        Args:
          tokens: inputs with end of sequence; pads (0) at the end.
          max_length: the most tokens to generate, end of sequence included.
          search: `Greedy()` (the default), `Speculative(...)`, `Sampling(...)` or `Beam(...)`.
          row_keys: what sampling draws from.
        """
        run = self._generator(tokens, max_length, search)
        waiting = run.start(self.params, (), spread_rows((tokens, row_keys), self.mesh))
        return lambda: gather_rows(waiting().rows, self.mesh)

    def start_scoring(self, batch: dict[str, Array] | dict[str, np.ndarray]) -> Callable[[], Scores]:
        """Does what `start_generating` does, for the scores of given targets."""
        rows = spread_rows(batch, self.mesh)
        waiting = self._scorer(rows).start(self.params, (), rows)
        return lambda: gather_rows(waiting().rows, self.mesh)

    def _gathered(self, of_batches: list[OfBatch]) -> list[OfBatch]:
        return [gather_rows(results, self.mesh) for results in of_batches]

    def compiled_generator(self, tokens: Tokens, max_length: int, search: Search | None = None) -> GeneratingProgram:
        """Compiles all that generating for batches of this shape can need, whatever they keep.

        Nothing then compiles while the function that is returned runs; under dispatch in_graph its one program compiles
        when it first runs. It draws nothing at random: sampling needs `generate`.

        Args:
          tokens: a batch of that shape.
          max_length: as of `start_generating`, like `search`.

        Returns:
          a function of parameters and tokens.
        """
        windows = Windows(
            generation(self._setting(tokens.shape[1], max_length), search or Greedy(), max_length), self._dispatch
        )
        windows.compile(self.params, (), (jnp.asarray(tokens), None), 1)
        return lambda params, tokens: windows.start(params, (), (jnp.asarray(tokens), None))().rows

    def compiled_scorer(self, batch: dict[str, Array] | dict[str, np.ndarray]) -> ScoringProgram:
        """Does what `compiled_generator` does, for the scores of given targets."""
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        windows = Windows(scoring(self._scoring_setting(arrays)), self._dispatch)
        windows.compile(self.params, (), arrays, 1)

        def run(params: Params, batch: dict[str, np.ndarray]) -> Scores:
            return windows.start(params, (), {name: jnp.asarray(array) for name, array in batch.items()})().rows

        return run

    def compiled_encoder(self, tokens: Tokens) -> EncodingProgram:
        """Does what `compiled_generator` does, for the encoder's output."""
        length = tokens.shape[1]
        windows = Windows(encoding(self._setting(length, 1), length), self._dispatch)
        windows.compile(self.params, (), jnp.asarray(tokens), 1)
        return lambda params, tokens: windows.start(params, (), jnp.asarray(tokens))().rows

    def _generator(self, tokens: Tokens, max_length: int, search: Search | None) -> Windows:
        return _generation(self._setting(tokens.shape[1], max_length), search or Greedy(), max_length, self._dispatch)

    def _scorer(self, batch: DeviceBatch) -> Windows:
        return _scoring(self._scoring_setting(batch), self._dispatch)

    def _scoring_setting(self, batch: DeviceBatch) -> ForwardSetting:
        inputs, targets = (batch[name].shape[1] for name in ("encoder_input_tokens", "decoder_input_tokens"))
        return self._setting(inputs, targets)

    @property
    def _dispatch(self) -> Dispatch:
        return self.execution.inference_dispatch

    def _setting(self, length: int, target_length: int) -> ForwardSetting:
        backend, lengths = jax.default_backend(), (length, target_length)
        return inference_setting(
            self.config, self.execution, self.deletion, lengths, backend, self._dispatch, self.capacity, self.num_shards
        )


def inference_setting(
    config: ModelConfig,
    execution: ExecutionConfig,
    deletion: Deletion,
    lengths: tuple[int, int],
    backend: str,
    dispatch: Dispatch,
    capacity: float | None = None,
    num_shards: int = 1,
) -> ForwardSetting:
    """Returns what scoring and generation of these lengths, of inputs and targets, are compiled for on a backend."""
    length, target_length = lengths
    ladder = make_ladder(length, execution, backend, capacity, body_multiply_adds(config, target_length), dispatch)
    return ForwardSetting(MrT5(config, execution), deletion, ladder, fixed_chunks(execution), num_shards)


def greedy(
    config: ModelConfig, params: Params, tokens: Tokens, max_length: int, deletion: Deletion = "hard"
) -> Predictions:
    """Decodes a batch greedily: `Engine.generate` for those who need nothing else."""
    return Engine(config, params, deletion).generate(tokens, max_length)


@functools.cache
def _generation(setting: ForwardSetting, search: Search, max_length: int, dispatch: Dispatch) -> Windows:
    """From tokens and random keys of the rows to sequences; every engine of these settings shares the programs."""
    return Windows(generation(setting, search, max_length), dispatch)


def generation(setting: ForwardSetting, search: Search, max_length: int) -> Staged:
    """Returns the stages from tokens and random keys of the rows to `Predictions`."""

    def begin(params: Params, shared: tuple[()], rows: tuple[Int[Array, "batch length"], RowKeys | None]) -> Begun:
        tokens, row_keys = rows
        return up_to_gate(setting, params, tokens, (row_keys, tokens if search.reads_inputs else None))

    def at(slots: int) -> Callable[[Params, tuple[()], GateRows], Part]:
        def run(params: Params, shared: tuple[()], rows: GateRows) -> Part:
            row_keys, inputs = rows.own
            decoder = memorize(setting.model, params, rows.compact(slots), inputs)
            return Part((), search.search(decoder, row_keys, max_length))

        return run

    def finish(at_gate: AtGate, generated: Generated, rungs: Int[Array, " batch"]) -> Part:
        return Part((), Predictions(**generated._asdict(), **_input_counts(at_gate)))

    return setting.staged(begin, at, finish)


@functools.cache
def _encoding(setting: ForwardSetting, length: int, dispatch: Dispatch) -> Windows:
    """From tokens to the encoder's output; every engine of these settings shares the programs."""
    return Windows(encoding(setting, length), dispatch)


def encoding(setting: ForwardSetting, length: int) -> Staged:
    """Returns the stages from tokens to `EncodedRows`."""

    def begin(params: Params, shared: tuple[()], tokens: Int[Array, "batch length"]) -> Begun:
        return up_to_gate(setting, params, tokens, ())

    def finish(at_gate: AtGate, encoded: EncodedRows, rungs: Int[Array, " batch"]) -> Part:
        return Part((), encoded)

    return setting.staged(begin, encoded_rows(setting, length), finish)


@functools.cache
def _scoring(setting: ForwardSetting, dispatch: Dispatch) -> Windows:
    """From a batch to scores; every engine of these settings shares the programs."""
    return Windows(scoring(setting), dispatch)


def scoring(setting: ForwardSetting) -> Staged:
    """Returns the stages from a batch to `Scores`."""

    def begin(params: Params, shared: tuple[()], batch: DeviceBatch) -> Begun:
        return up_to_gate(setting, params, batch["encoder_input_tokens"], targets_of(batch))

    def measure(logits: Array, targets: DeviceBatch) -> tuple[Array, Array]:
        ids, weights = targets["decoder_target_tokens"], targets["decoder_loss_weights"]
        return target_scores(logits, ids, weights), jnp.sum(weights > 0, axis=1, dtype=jnp.int32)

    def finish(at_gate: AtGate, measured: tuple[Array, Array], rungs: Int[Array, " batch"]) -> Part:
        score, num_targets = measured
        return Part((), Scores(score=score, num_target_tokens=num_targets, **_input_counts(at_gate)))

    return setting.staged(begin, teacher_forced(setting, measure), finish)


def _input_counts(at_gate: AtGate) -> dict[str, Int[Array, " batch"]]:
    return {
        "num_input_tokens": count_kept(at_gate.mask),
        "num_kept_tokens": count_kept(at_gate.keep & at_gate.mask) - at_gate.dropped,
        "num_dropped_tokens": at_gate.dropped,
    }
