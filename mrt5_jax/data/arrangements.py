"""How examples become the rows of a batch: one a row, several packed into a row, or rows of similar length together.

Each arrangement reads from a position, an integer that says all about where a reader stands, and tells with every
batch the position after it. Shapes follow from the configuration alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mrt5_jax.config import DataConfig
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError

INDEX = "index"
"""Key in a batch of the examples' indices, int32 [batch]: what random deletion draws from."""

LANGUAGE_IDS = "language_ids"
"""Key in a batch of the rows' languages, int32 [batch], where the task has languages: places among the training task's
languages, sorted; -1 for a language that is none of them. Packed rows, which may mix languages, have none."""


class ExampleInfo(NamedTuple):
    """Where a row comes from."""

    task: str
    language: str
    """Empty where the task has no languages."""
    index: int
    """Within the task's split."""
    answers: tuple[str, ...] = ()
    """All that are accepted, where the task has more than its target."""
    input_cut: bool = False
    """Whether the input was longer than the run's, and cut."""
    target_cut: bool = False


Batch = dict[str, np.ndarray]
"""int32: `encoder_input_tokens` [batch length]; `decoder_input_tokens`, `decoder_target_tokens` and
`decoder_loss_weights` [batch target]. Of packed rows, `encoder_segment_ids`, `encoder_positions` [batch length] and
`decoder_segment_ids`, `decoder_positions` [batch target] as well: segments count from 1 in each row, 0 is padding."""

WINDOW = 16
"""Batches whose examples are sorted by length together."""


class Located(NamedTuple):
    batch: Batch
    position: int
    """Where to read on after it."""


@runtime_checkable
class ExampleStream(Protocol):
    """One shard's examples."""

    def batches(self, *, start: int, rows: int) -> Iterator[Any]:
        """Yields `inputs` and `targets`, int32 [rows length], padded, without end, from example `start` on.

        Where there are languages, LANGUAGE_IDS as well.
        """
        ...


@runtime_checkable
class Arrangement(Protocol):
    """One shard's batches."""

    def read(self, position: int) -> Iterator[Located]:
        """Yields batches without end, from a position on; 0 is the beginning."""
        ...


class OneExampleARow:
    """The plain case; positions count batches."""

    def __init__(self, stream: ExampleStream, rows: int):
        self._stream = stream
        self._rows = rows

    def read(self, position: int) -> Iterator[Located]:
        for examples in self._stream.batches(start=position * self._rows, rows=self._rows):
            position += 1
            yield Located(model_batch(examples["inputs"], examples["targets"]) | _languages(examples), position)


class Packed:
    """As many examples a row as fit, in their order, the next row begun by the first that does not; positions count
    examples.

    What is packed together is told apart by segment ids (T5X's, and seqio's feature converter with `pack=True`). Every
    host packs all rows of a batch and takes its own, so that all hosts stand at the same position.

    Args:
        stream: of all examples.
        rows: of all hosts.
        most_examples: of a row; None: as many as fit.
    """

    def __init__(
        self,
        stream: ExampleStream,
        rows: int,
        lengths: tuple[int, int],
        own: slice,
        most_examples: int | None = None,
    ):
        self._stream = stream
        self._rows = rows
        self._lengths = lengths
        self._own = own
        self._most_examples = most_examples

    def read(self, position: int) -> Iterator[Located]:
        batch = _PackedRows(self._rows, *self._lengths, self._most_examples)
        for examples in self._stream.batches(start=position, rows=self._rows):
            for inputs, targets in zip(examples["inputs"], examples["targets"], strict=True):
                inputs, targets = inputs[: np.count_nonzero(inputs)], targets[: np.count_nonzero(targets)]
                if not batch.add(inputs, targets):
                    yield Located(_take(batch.model_batch(), self._own), position)
                    batch = _PackedRows(self._rows, *self._lengths, self._most_examples)
                    batch.add(inputs, targets)
                position += 1


class Buckets:
    """Rows of similar length together, cut to the smallest of a few static input lengths; positions count batches.

    WINDOW batches' worth of examples are sorted by length, cut into batches, and these are shuffled. Every host reads
    all of them and takes its rows of each batch, so that all hosts' batches have the same shape at the same time.

    Args:
        stream: of all examples.
        rows: of all hosts.
    """

    def __init__(self, stream: ExampleStream, rows: int, lengths: Sequence[int], own: slice, seed: int):
        self._stream = stream
        self._rows = rows
        self._lengths = sorted(lengths)
        self._own = own
        self._seed = seed

    def read(self, position: int) -> Iterator[Located]:
        examples_a_window = WINDOW * self._rows
        window, skipped = divmod(position, WINDOW)
        for examples in self._stream.batches(start=window * examples_a_window, rows=examples_a_window):
            order = np.argsort(np.count_nonzero(examples["inputs"], axis=1), kind="stable").reshape(WINDOW, self._rows)
            order = np.random.default_rng((self._seed, window)).permutation(order)
            for rows in order[skipped:]:
                inputs, targets = examples["inputs"][rows], examples["targets"][rows]
                inputs = inputs[:, : smallest_length(inputs, self._lengths)]
                position += 1
                batch = model_batch(inputs, targets) | _take(_languages(examples), rows)
                yield Located(_take(batch, self._own), position)
            window, skipped = window + 1, 0


def input_lengths(data: DataConfig) -> tuple[int, ...]:
    """Returns the input lengths that batches have, from short to long.

    Raises:
        UserError: a bucket is not positive, the longest is not the run's input length, or packed rows have buckets.
    """
    if not data.length_buckets:
        return (data.input_length,)
    if data.rows == "packed":
        raise UserError("packed rows have one length: set length_buckets to (), or rows to 'one_a_row'")
    lengths = sorted(set(data.length_buckets))
    if lengths[-1] != data.input_length or lengths[0] < 1:
        raise UserError(
            f"length_buckets {tuple(data.length_buckets)}: should be positive and end with input_length "
            f"{data.input_length}"
        )
    return tuple(lengths)


def smallest_length(rows: Int[np.ndarray, "batch length"], lengths: Sequence[int]) -> int:
    """Finds the first of the sorted lengths that the longest row fits into."""
    longest = int(np.count_nonzero(rows, axis=1).max(initial=0))
    return next(length for length in lengths if length >= longest)


def model_batch(inputs: Int[np.ndarray, "batch length"], targets: Int[np.ndarray, "batch target"]) -> Batch:
    """Makes the model's batch of padded rows; the decoder starts from a pad and sees its targets one place later."""
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)), constant_values=PAD_ID)[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != PAD_ID).astype(np.int32),
    }


def _languages(examples: Mapping[str, np.ndarray]) -> Batch:
    return {LANGUAGE_IDS: examples[LANGUAGE_IDS]} if LANGUAGE_IDS in examples else {}


def _take(batch: Batch, rows: slice | np.ndarray) -> Batch:
    return {key: value[rows] for key, value in batch.items()}


class _PackedRows:
    """A batch that is being filled, row by row."""

    def __init__(self, rows: int, input_length: int, target_length: int, most_examples: int | None):
        self._most_examples = most_examples
        self._inputs, self._input_segments, self._input_positions = np.zeros((3, rows, input_length), np.int32)
        self._targets, self._target_segments, self._target_positions = np.zeros((3, rows, target_length), np.int32)
        self._row = 0
        self._segment = 0
        self._used = (0, 0)

    def add(self, inputs: Int[np.ndarray, " length"], targets: Int[np.ndarray, " target"]) -> bool:
        """Adds an example and returns True, or returns False where the batch has no room for it."""
        ends = (self._used[0] + len(inputs), self._used[1] + len(targets))
        full = ends[0] > self._inputs.shape[1] or ends[1] > self._targets.shape[1]
        if full or self._segment == self._most_examples:
            if self._row + 1 == len(self._inputs):
                return False
            self._row, self._segment, self._used = self._row + 1, 0, (0, 0)
            ends = (len(inputs), len(targets))
        self._segment += 1
        places = [(self._row, slice(begin, end)) for begin, end in zip(self._used, ends, strict=True)]
        self._inputs[places[0]], self._targets[places[1]] = inputs, targets
        self._input_segments[places[0]] = self._target_segments[places[1]] = self._segment
        self._input_positions[places[0]] = np.arange(len(inputs))
        self._target_positions[places[1]] = np.arange(len(targets))
        self._used = ends
        return True

    def model_batch(self) -> Batch:
        batch = model_batch(self._inputs, self._targets)
        # A segment's decoder starts from a pad as well, not from the end of the segment before.
        batch["decoder_input_tokens"] = np.where(self._target_positions > 0, batch["decoder_input_tokens"], PAD_ID)
        return batch | {
            "encoder_segment_ids": self._input_segments,
            "encoder_positions": self._input_positions,
            "decoder_segment_ids": self._target_segments,
            "decoder_positions": self._target_positions,
        }
