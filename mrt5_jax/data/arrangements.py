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

LANGUAGE_TOKENS = "language_tokens"
"""Key in a batch of packed rows, int32 [batch languages], where the task has languages: the inputs of each in a row."""

ROW = "row"
"""Key in a batch that was dealt (`data.dealing`), int32 [batch]: which row of the batch each was before; what is random
follows it."""

FEATURES = "features"
"""Key in a batch that was dealt, uint8 [batch features]: what its rows were dealt by, see `data.expectation`."""


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
        num_languages: of the examples, to be counted in each row; 0 counts none.
    """

    def __init__(
        self,
        stream: ExampleStream,
        rows: int,
        lengths: tuple[int, int],
        own: slice,
        most_examples: int | None = None,
        num_languages: int = 0,
    ):
        self._stream = stream
        self._rows = rows
        self._lengths = lengths
        self._own = own
        self._most_examples = most_examples
        self._num_languages = num_languages

    def read(self, position: int) -> Iterator[Located]:
        batch = self._empty()
        for examples in self._stream.batches(start=position, rows=self._rows):
            languages = examples[LANGUAGE_IDS].tolist() if self._num_languages else [-1] * self._rows
            for inputs, targets, language in zip(examples["inputs"], examples["targets"], languages, strict=True):
                inputs, targets = inputs[: np.count_nonzero(inputs)], targets[: np.count_nonzero(targets)]
                if not batch.add(inputs, targets, language):
                    yield Located(some_rows(batch.model_batch(), self._own), position)
                    batch = self._empty()
                    batch.add(inputs, targets, language)
                position += 1

    def _empty(self) -> "_PackedRows":
        return _PackedRows(self._rows, *self._lengths, self._most_examples, self._num_languages)


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
                batch = model_batch(inputs, targets) | some_rows(_languages(examples), rows)
                yield Located(some_rows(batch, self._own), position)
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


def some_rows(batch: Batch, rows: slice | np.ndarray) -> Batch:
    """Returns some rows of a batch."""
    return {key: value[rows] for key, value in batch.items()}


class _PackedRows:
    """A batch that is being filled, row by row."""

    def __init__(self, rows: int, input_length: int, target_length: int, most_examples: int | None, num_languages: int):
        self._most_examples = most_examples
        self._language_tokens = np.zeros((rows, num_languages), np.int32)
        self._inputs, self._input_segments, self._input_positions = np.zeros((3, rows, input_length), np.int32)
        self._targets, self._target_segments, self._target_positions = np.zeros((3, rows, target_length), np.int32)
        self._row = 0
        self._segment = 0
        self._used = (0, 0)

    def add(self, inputs: Int[np.ndarray, " length"], targets: Int[np.ndarray, " target"], language: int) -> bool:
        """Adds an example and returns True, or returns False where the batch has no room for it.

        `language` counts through the task's; -1 is none of them.
        """
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
        if language >= 0:
            self._language_tokens[self._row, language] += len(inputs)
        return True

    def model_batch(self) -> Batch:
        batch = model_batch(self._inputs, self._targets)
        # A segment's decoder starts from a pad as well, not from the end of the segment before.
        batch["decoder_input_tokens"] = np.where(self._target_positions > 0, batch["decoder_input_tokens"], PAD_ID)
        languages = {LANGUAGE_TOKENS: self._language_tokens} if self._language_tokens.shape[1] else {}
        return (
            batch
            | languages
            | {
                "encoder_segment_ids": self._input_segments,
                "encoder_positions": self._input_positions,
                "decoder_segment_ids": self._target_segments,
                "decoder_positions": self._target_positions,
            }
        )
