"""Which of a batch's rows go to which device: dealt, so that of the k-th rows of all devices alike much is expected.

One rung holds for all devices, so a chunk is as long as the fullest row that any of them has in it. Which rows a batch
has is not changed by dealing, only where they lie: nothing but the order of sums depends on it.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, UInt8

from mrt5_jax.data.arrangements import (
    FEATURES,
    LANGUAGE_IDS,
    LANGUAGE_TOKENS,
    ROW,
    Arrangement,
    Batch,
    Located,
    model_batch,
    some_rows,
)
from mrt5_jax.data.byte_classes import count_classes
from mrt5_jax.data.expectation import Expectation, expected, row_features
from mrt5_jax.data.streams import TrainStream


def deal(expectations: Float[np.ndarray, "*batches rows"], num_places: int) -> Int[np.ndarray, "*batches places slots"]:
    """Returns which row lies in each slot of each place: sorted by what is expected, dealt slot by slot.

    Rows of which the same is expected stay in their order.

    Examples:
        >>> deal(np.array([7.0, 1.0, 8.0, 2.0]), 2)
        array([[1, 0],
               [3, 2]])
    """
    in_order = np.argsort(expectations, axis=-1, kind="stable")
    return in_order.reshape(*expectations.shape[:-1], -1, num_places).swapaxes(-1, -2)


@dataclasses.dataclass(frozen=True)
class Dealing:
    """How a process deals batches; alike in all processes, but for `own`."""

    expectation: Expectation
    num_places: int
    """Devices that the rows of a batch are spread over."""
    own: tuple[int, ...]
    """Places of this process's devices, of which it reads the rows."""
    length: int
    """Of the run's inputs."""

    def rows(
        self, features: UInt8[np.ndarray, "*batches rows features"], batch: int
    ) -> Int[np.ndarray, "*batches own"]:
        """Returns this process's rows of a batch, place by place; or of several that are dealt by one's weights."""
        expectations = expected(features, self.expectation.weights(batch))
        own = deal(expectations, self.num_places)[..., list(self.own), :]
        return own.reshape(*features.shape[:-2], -1)

    def within_process(self) -> "Dealing":
        """Returns how a process deals its own rows over its own places, where it knows of no others."""
        num_places = len(self.own)
        return dataclasses.replace(self, num_places=num_places, own=tuple(range(num_places)))


class DealtRows:
    """The batches of an arrangement, dealt by what their rows hold.

    Args:
        rows: of the whole batch, that the arrangement's rows are.
        num_languages: of the task.
    """

    def __init__(self, arrangement: Arrangement, dealing: Dealing, rows: slice, num_languages: int) -> None:
        self._arrangement, self._dealing, self._rows = arrangement, dealing, rows
        self._num_languages = num_languages

    def read(self, position: int) -> Iterator[Located]:
        """See `Arrangement`."""
        first = self._dealing.expectation.num_seen
        for number, (batch, after) in zip(itertools.count(first), self._arrangement.read(position), strict=False):
            features = features_of(batch, self._num_languages, self._dealing.length)
            own = self._dealing.rows(features, number)
            numbers = np.arange(self._rows.start, self._rows.stop, self._rows.step, dtype=np.int32)
            yield Located(some_rows({**batch, ROW: numbers, FEATURES: features}, own), after)


class DealtExamples:
    """One example a row, dealt by what sources tell of examples: this process's rows alone are read.

    Args:
        stream: of all examples.
        rows: of the whole batch.
    """

    def __init__(self, stream: TrainStream, dealing: Dealing, rows: int) -> None:
        self._stream, self._dealing, self._rows = stream, dealing, rows

    def read(self, position: int) -> Iterator[Located]:
        """See `Arrangement`."""
        expectation, num_languages = self._dealing.expectation, len(self._stream.languages)
        next_batch = expectation.num_seen
        # Dealt at once are batches that are dealt by the same weights: one by one would take as long as to read some.
        firsts = _first_batches(expectation, next_batch)
        together = map(expectation.weights_stay, _first_batches(expectation, next_batch))

        def choose(class_counts: np.ndarray, languages: np.ndarray) -> Batch:
            tokens = one_language_each(languages, class_counts.sum(axis=-1), num_languages)
            features = row_features(class_counts, tokens, self._dealing.length)
            own = self._dealing.rows(features, next(firsts))
            return {ROW: own.astype(np.int32), FEATURES: np.take_along_axis(features, own[..., None], axis=1)}

        start = position * self._rows
        for examples in self._stream.chosen(start=start, rows=self._rows, together=together, choose=choose):
            position += 1
            batch = model_batch(examples.pop("inputs"), examples.pop("targets"))
            yield Located(batch | examples, position)


def _first_batches(expectation: Expectation, batch: int) -> Iterator[int]:
    """Yields a batch, and those after it that are dealt by other weights than the one before them."""
    while True:
        yield batch
        batch += expectation.weights_stay(batch)


def features_of(batch: Batch, num_languages: int, length: int) -> UInt8[np.ndarray, "rows features"]:
    """Returns the features of a batch's rows by what they hold; see `row_features`."""
    counts = count_classes(batch["encoder_input_tokens"])
    tokens = batch.get(LANGUAGE_TOKENS)
    if tokens is None:
        of_rows = batch.get(LANGUAGE_IDS, np.full(len(counts), -1, np.int32))
        tokens = one_language_each(of_rows, counts.sum(axis=1), num_languages)
    return row_features(counts, tokens, length)


def one_language_each(
    languages: Int[np.ndarray, "*rows"], lengths: Int[np.ndarray, "*rows"], num_languages: int
) -> Int[np.ndarray, "*rows languages"]:
    """Returns how many bytes of each language rows hold that are of one each; -1 is none."""
    return np.where(languages[..., None] == np.arange(num_languages), lengths[..., None], 0).astype(np.int64)
