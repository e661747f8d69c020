"""What to expect of a row before it is placed: how much of it is kept, by its language and the classes of its bytes.

A linear model on the host, in float64. Steps feed it sums over their rows, those of all devices and processes together
(`objectives.row_moments`), and older steps count less and less: recursive least squares with a prior. Every feature
begins with a row that is all of it and keeps what rows keep on average, so what was never seen is nothing special.

It computes with sums, products and quotients of single numbers alone, in one order: every process gets the same weights
to the last bit, from whatever libraries.
"""

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mrt5_jax.data.byte_classes import BYTE_CLASSES

EXPECTATION = "expectation"
"""Key of its state beside that of the data."""

UNITS = 64
"""A row's whole length. Numbers up to 256 are exact in bfloat16, and sums of their products up to 2^24 in float32:
those of 4,096 rows."""

INTERVAL = 16
"""Batches that are dealt by the same weights. Those of a block know the steps up to the block before the last: batches
are read ahead, and the sums of a step are asked for when it was computed long ago."""

FADING = 0.99
"""What a step leaves of the sums before it: they are those of about the last hundred steps."""

_PRIOR = float(UNITS**2)
"""The weight of a row that is all of one feature."""

Weights = Float[np.ndarray, " features"]


def feature_names(languages: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of a row's features: classes of bytes, and languages."""
    return (*BYTE_CLASSES, *(f"language {language}" for language in languages))


def row_features(
    class_counts: Int[np.ndarray, "*rows classes"], language_tokens: Int[np.ndarray, "*rows languages"], length: int
) -> UInt8[np.ndarray, "*rows features"]:
    """Returns the features of rows: bytes of each class and of each language, in UNITS of a length."""
    counts = np.concatenate([class_counts, language_tokens], axis=-1)
    # In whole numbers, so that nothing depends on how floats are rounded. Longer rows than the run's are cut.
    return np.minimum((2 * UNITS * counts.astype(np.int64) + length) // (2 * length), 255).astype(np.uint8)


class Expectation:
    """The expectation of a run; fed by the loop, asked by whoever reads batches, maybe in another thread.

    Args:
        features: names of the rows' features; the first ones are classes of bytes.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.features = tuple(features)
        self._lock = threading.Lock()
        self._nothing_known = np.array([float(name in BYTE_CLASSES) for name in self.features])
        self._begin()

    @property
    def num_seen(self) -> int:
        """How many steps it was fed with."""
        with self._lock:
            return self._num_added + len(self._waiting)

    def add(self, moments: Array | Float[np.ndarray, "moments moments"]) -> None:
        """Takes a step's `row_moments`, which may not have been computed yet."""
        with self._lock:
            self._waiting.append(moments)

    def weights(self, batch: int) -> Weights:
        """Returns what a batch is dealt by: positions kept of each unit of a feature. Batches are counted from 0.

        They follow from the batch's number and the steps that it may know of alone, whenever they are asked for.
        """
        known = batch // INTERVAL - 1
        if known <= 0:
            return self._nothing_known
        with self._lock:
            while known not in self._weights:
                assert self._waiting, f"batch {batch} is read before the steps that it is dealt by"
                self._take_next()
            return self._weights[known]

    def weights_stay(self, batch: int) -> int:
        """Returns how many batches from this one on are dealt by the same weights."""
        return INTERVAL - batch % INTERVAL

    def fit(self) -> Weights:
        """Returns the weights by all steps that it was fed with; waits for them."""
        with self._lock:
            self._take_all()
            return fitted(self._moments, self._nothing_known)

    def explained(self) -> float:
        """Returns the share of the variance of what rows keep that it explains in the rows seen lately; at least 0."""
        with self._lock:
            self._take_all()
            moments, weights = self._moments, fitted(self._moments, self._nothing_known)
        kept, count = len(weights), len(weights) + 1
        if moments[count, count] == 0:
            return 0.0
        own = np.append(-weights, 1.0)  # the residual: kept less expected
        residual = math.fsum(float(one) for one in (moments[:count, :count] * own * own[:, None]).ravel())
        total = float(moments[kept, kept] - moments[kept, count] ** 2 / moments[count, count])
        return max(0.0, 1 - residual / total) if total > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """Returns all that it knows, for JSON. Waits for the steps that it was fed with."""
        with self._lock:
            self._take_all()
            newest = self._num_added // INTERVAL
            return {
                "features": list(self.features),
                "steps": self._num_added,
                "moments": self._moments.tolist(),
                "weights": {str(key): of.tolist() for key, of in self._weights.items() if key >= newest - 1},
            }

    def restore(self, state: Mapping[str, Any] | None) -> str:
        """Goes on from a `state()`; from none it begins anew. Returns what is to be said about it, or nothing."""
        self._begin()
        if state is None:
            return ""
        if tuple(state["features"]) != self.features:
            other = sorted(set(state["features"]) ^ set(self.features))
            return f"what is expected of rows is learned anew: it was saved for other features ({', '.join(other)})"
        self._num_added = int(state["steps"])
        self._moments = np.array(state["moments"], np.float64)
        self._weights = {int(key): np.array(own, np.float64) for key, own in state["weights"].items()}
        return ""

    def _begin(self) -> None:
        self._moments = np.zeros((len(self.features) + 2, len(self.features) + 2))
        self._waiting: deque[Array | np.ndarray] = deque()
        self._num_added = 0
        self._weights: dict[int, Weights] = {}

    def _take_all(self) -> None:
        while self._waiting:
            self._take_next()

    def _take_next(self) -> None:
        moments = np.asarray(jax.device_get(self._waiting.popleft()), np.float64)
        self._moments = FADING * self._moments + moments
        self._num_added += 1
        if self._num_added % INTERVAL == 0:
            known = self._num_added // INTERVAL
            self._weights[known] = fitted(self._moments, self._nothing_known)
            self._weights.pop(known - 3, None)  # of batches that were read long ago


def fitted(moments: Float[np.ndarray, "moments moments"], is_class: Weights) -> Weights:
    """Returns the weights by sums of products, see `row_moments`; where nothing was seen, those of the prior.

    They minimise the squared residuals of the rows seen and of the prior's: (X'X + pI) (w - m) = X'y - X'X m, where m
    has the mean share that is kept for the classes of bytes, of which every row is made, and 0 for languages.

    Args:
        is_class: 1 for the classes of bytes, else 0.
    """
    num, ones = len(is_class), len(is_class) + 1
    products, kept = moments[:num, :num], moments[:num, num]
    lengths = sum(float(own) for own in moments[:num, ones] * is_class)
    if lengths == 0:
        return is_class
    prior = is_class * (float(moments[num, ones]) / lengths)
    right = kept.copy()
    for column in range(num):
        right = right - products[:, column] * prior[column]
    return prior + _solved(products + _PRIOR * np.eye(num), right)


def _solved(matrix: Float[np.ndarray, "n n"], right: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Solves matrix x = right by elimination, for a matrix that is symmetric and positive."""
    rows = np.concatenate([matrix, right[:, None]], axis=1)
    for column in range(len(rows)):
        rows[column] = rows[column] / rows[column, column]
        others = rows[:, column].copy()
        others[column] = 0.0
        rows = rows - others[:, None] * rows[column]
    return rows[:, -1]


def expected(features: UInt8[np.ndarray, "*rows features"], weights: Weights) -> Float[np.ndarray, "*rows"]:
    """Returns what is expected to be kept of rows, in UNITS."""
    return np.add.accumulate(features * weights, axis=-1)[..., -1]  # one after the other: a sum may take any order
