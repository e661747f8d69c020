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


def deal(expectations: Float[np.ndarray, " rows"], num_places: int) -> Int[np.ndarray, "places slots"]:
    """Returns which row lies in each slot of each place: sorted by what is expected, dealt slot by slot.

    Rows of which the same is expected stay in their order.

    Example:
        >>> deal(np.array([7.0, 1.0, 8.0, 2.0]), 2)
        array([[1, 0],
               [3, 2]])
    """
    return np.argsort(expectations, kind="stable").reshape(-1, num_places).T


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

    def rows(self, features: UInt8[np.ndarray, "rows features"], batch: int) -> Int[np.ndarray, " own"]:
        """Returns this process's rows of a batch, place by place."""
        expectations = expected(features, self.expectation.weights(batch))
        return deal(expectations, self.num_places)[list(self.own)].reshape(-1)

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
        numbers = itertools.count(self._dealing.expectation.num_seen)
        num_languages = len(self._stream.languages)

        def choose(class_counts: np.ndarray, languages: np.ndarray) -> Batch:
            tokens = one_language_each(languages, class_counts.sum(axis=1), num_languages)
            features = row_features(class_counts, tokens, self._dealing.length)
            own = self._dealing.rows(features, next(numbers))
            return {ROW: own.astype(np.int32), FEATURES: features[own]}

        for examples in self._stream.chosen(start=position * self._rows, rows=self._rows, choose=choose):
            position += 1
            batch = model_batch(examples.pop("inputs"), examples.pop("targets"))
            yield Located(batch | examples, position)


def features_of(batch: Batch, num_languages: int, length: int) -> UInt8[np.ndarray, "rows features"]:
    """Returns the features of a batch's rows by what they hold; see `row_features`."""
    counts = count_classes(batch["encoder_input_tokens"])
    tokens = batch.get(LANGUAGE_TOKENS)
    if tokens is None:
        of_rows = batch.get(LANGUAGE_IDS, np.full(len(counts), -1, np.int32))
        tokens = one_language_each(of_rows, counts.sum(axis=1), num_languages)
    return row_features(counts, tokens, length)


def one_language_each(
    languages: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"], num_languages: int
) -> Int[np.ndarray, "rows languages"]:
    """Returns how many bytes of each language rows hold that are of one each; -1 is none."""
    return np.where(languages[:, None] == np.arange(num_languages), lengths[:, None], 0).astype(np.int64)
