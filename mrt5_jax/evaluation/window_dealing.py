"""Rows of a window's batches dealt to the devices: each device regroups its own, so these should be alike.

What is expected of rows is what training has learned, where it has, and what the windows before have kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from mrt5_jax.data.arrangements import Batch
from mrt5_jax.data.dealing import deal, features_of
from mrt5_jax.data.expectation import UNITS, Expectation, expected, feature_names


class DealtWindow(NamedTuple):
    """Batches whose rows were dealt."""

    batches: list[Batch]
    places: list[Int[np.ndarray, " batch"]]
    """Of each row of the batches before, the place in the dealt batches, counted through all of them."""


class WindowDealing:
    """Deals windows, and learns from what they keep.

    Args:
        num_places: devices that the rows of a batch are spread over.
        languages: that `language_ids` count through.
        length: of the longest inputs.
        learned: `Expectation.state` of the model's training; None, or one of other languages: nothing is known.
    """

    def __init__(
        self, num_places: int, languages: Sequence[str], length: int, learned: Mapping[str, Any] | None = None
    ) -> None:
        self._num_places, self._num_languages, self._length = num_places, len(languages), length
        self._expectation = Expectation(feature_names(languages))
        self._expectation.restore(learned)

    def deal(self, batches: Sequence[Batch]) -> DealtWindow:
        """Deals the rows of batches; those of different shapes are not mixed."""
        dealt: list[Batch] = [{}] * len(batches)
        places: list[np.ndarray] = [np.zeros(0, np.int64)] * len(batches)
        weights = self._expectation.fit()
        by_length: dict[int, list[int]] = {}
        for number, batch in enumerate(batches):
            by_length.setdefault(batch["encoder_input_tokens"].shape[1], []).append(number)
        rows = len(batches[0]["encoder_input_tokens"])
        for numbers in by_length.values():
            joined = {name: np.concatenate([batches[number][name] for number in numbers]) for name in batches[0]}
            expectations = expected(features_of(joined, self._num_languages, self._length), weights)
            by_device = deal(expectations, self._num_places).reshape(self._num_places, len(numbers), -1)
            order = by_device.transpose(1, 0, 2).reshape(len(numbers), rows)  # a device has the same rows of each batch
            lies_at = np.empty(order.size, np.int64)
            lies_at[order.reshape(-1)] = (np.array(numbers)[:, None] * rows + np.arange(rows)).reshape(-1)
            for at, (number, own) in enumerate(zip(numbers, order, strict=True)):
                dealt[number] = {name: array[own] for name, array in joined.items()}
                places[number] = lies_at[at * rows : (at + 1) * rows]
        return DealtWindow(dealt, places)

    def learn(self, batch: Batch, kept: Int[np.ndarray, " batch"]) -> None:
        """Takes what was kept of a batch's rows; those without input count nothing."""
        has_input = batch["encoder_input_tokens"].any(axis=1)
        features = features_of(batch, self._num_languages, self._length)[has_input]
        units = np.round(UNITS * kept[has_input] / self._length)
        values = np.column_stack([features.astype(np.float64), units, np.ones(len(units))])
        self._expectation.add(np.einsum("ri,rj->ij", values, values))


def undealt(results: Sequence[Any], places: Sequence[Int[np.ndarray, " batch"]]) -> list[Any]:
    """Returns the results of a window's rows, trees of arrays [batch ...] on the host, as the rows were before.

    What there is of each position is filled up with zeros to the length of the window's longest batch.
    """
    joined = jax.tree.map(_join, *results)
    return [jax.tree.map(lambda leaf, own=own: leaf[own], joined) for own in places]


def _join(*leaves: np.ndarray) -> np.ndarray:
    if leaves[0].ndim == 1:
        return np.concatenate(leaves)
    length = max(leaf.shape[1] for leaf in leaves)
    return np.concatenate([np.pad(leaf, ((0, 0), (0, length - leaf.shape[1]))) for leaf in leaves])
