"""Every selector of the table by plain NumPy, of one example alone: without padding, other rows, packing, or JAX.

One module a selector, of its name, with `GATE`, a gate to test, `REFUSED`, settings that are refused with words of the
message, and `example(given) -> Plain`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.config import GateConfig

EPSILON = 1e-6
"""Of norms."""


class Decisions:
    """What is decided, and straight-through values: those of the first run stay in all later ones.

    So a finite difference of later runs is the derivative that straight-through values are defined by.
    """

    def __init__(self) -> None:
        self._first: list[np.ndarray] = []
        self._next = 0

    def rerun(self) -> "Decisions":
        self._next = 0
        return self

    def fixed(self, value: Any) -> np.ndarray:
        """The value of the first run."""
        if self._next == len(self._first):
            self._first.append(np.array(value))
        self._next += 1
        return self._first[self._next - 1]

    def straight_through(self, soft: np.ndarray) -> np.ndarray:
        """0 or 1 by the first run, moving as `soft` does."""
        return self.fixed(soft > 0.5) + (soft - self.fixed(soft))


class Given(NamedTuple):
    """One example, and what a selector knows."""

    params: dict[str, Any]
    hidden: np.ndarray
    """[length embed]"""
    ids: np.ndarray
    gate: GateConfig
    noise: np.ndarray | None
    """Logistic noise of training, [length]."""
    decisions: Decisions

    def setting(self, name: str) -> Any:
        return dict(self.gate.settings)[name]


class Plain(NamedTuple):
    """What a selector says of an example; None: nothing of this kind."""

    keep: np.ndarray
    merged_into: np.ndarray | None = None
    key_bias: np.ndarray | None = None
    weights: np.ndarray | None = None
    confidence: np.ndarray | None = None
    penalties: dict[str, tuple[float, float]] = {}  # noqa: RUF012
    """(total, count) of the example."""


Example = Callable[[Given], Plain]


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def normed(hidden: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + EPSILON) * scale


def gelu(values: np.ndarray) -> np.ndarray:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def saved_from_nothing(keep: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The first of the highest values stays where nothing does."""
    return keep if keep.any() else np.arange(len(keep)) == np.argmax(values)


def by_rule(keep: np.ndarray, given: Given) -> Plain:
    """Gate values 0 and k; their mean is a penalty."""
    keep = saved_from_nothing(keep, keep.astype(float))
    values = np.where(keep, 0.0, given.gate.scale)
    return Plain(keep, key_bias=values, penalties={"gate": (values.sum(), len(keep))})


def pooled(ends: np.ndarray, penalties: dict[str, tuple[float, float]]) -> Plain:
    """Segments that end at boundaries of value 1; the authors' matrix of memberships, [length segments].

    A membership is 1 minus the distance of a segment's number from the number of boundaries before the position.
    """
    length = len(ends)
    before = np.array([ends[:position].sum() for position in range(length)])
    number = np.round(before).astype(int)
    member = np.array([[1 + (before[t] - s) if number[t] == s else 0.0 for s in range(length)] for t in range(length)])
    share = member / np.where(member.sum(0) == 0, 1, member.sum(0))
    first = np.array([np.flatnonzero(number == number[t])[0] for t in range(length)])
    weights = share[np.arange(length), number]
    return Plain(first == np.arange(length), first, weights=weights, penalties=penalties)
