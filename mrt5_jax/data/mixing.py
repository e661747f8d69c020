"""Which task of a mixture each position is drawn from: a function of (seed, position), the same on every host."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.sources import BLOCK, Positions

CHOICES = 1 << 16
"""Positions whose tasks are drawn together."""


class Shard(NamedTuple):
    """The positions that a host reads: index, index + count, index + 2 count, ..."""

    index: int
    count: int


class Mixing:
    """Draws between tasks, position by position.

    Args:
        rates: of the tasks, relative to each other.
        shard: whose positions are asked for.
        start: how many of the shard's positions are passed over.
    """

    def __init__(self, rates: Sequence[float], seed: int, shard: Shard, start: int):
        of_each = np.array(rates, np.float64)
        self._shares = of_each / of_each.sum()
        self._seed = seed
        self._shard = shard
        self._first = shard.index + start * shard.count
        self._block = functools.lru_cache(maxsize=4)(self._draw)

    def choices(self) -> Iterator[int]:
        """Yields the place of the task that each of the shard's positions is drawn from, without end."""
        for number in itertools.count(self._first // CHOICES):
            yield from self._block(number)[self._own(number)].tolist()

    def positions(self, task: int) -> Positions:
        """Yields where in a task's own order its turns among the shard's positions are, without other shards' turns."""
        first_block = self._first // CHOICES
        before = sum(int(np.count_nonzero(self._block(number) == task)) for number in range(first_block))
        for number in itertools.count(first_block):
            drawn = self._block(number) == task
            turns = before + np.cumsum(drawn) - 1
            own = np.zeros(CHOICES, bool)
            own[self._own(number)] = True
            found = turns[drawn & own]
            yield from (found[begin : begin + BLOCK] for begin in range(0, len(found), BLOCK))
            before += int(np.count_nonzero(drawn))

    def drawn(self) -> Iterator[Int[np.ndarray, "2 block"]]:
        """Yields of the shard's positions what `choices` and, of the task chosen, `positions` yield, in blocks."""
        first_block = self._first // CHOICES
        before = np.zeros(len(self._shares), np.int64)
        for number in range(first_block):
            before += np.bincount(self._block(number), minlength=len(before))
        for number in itertools.count(first_block):
            drawn = self._block(number)
            turns = np.empty(CHOICES, np.int64)
            for task in range(len(before)):
                own = np.flatnonzero(drawn == task)
                turns[own] = before[task] + np.arange(len(own))
                before[task] += len(own)
            yield np.stack([drawn, turns])[:, self._own(number)]

    def _own(self, number: int) -> slice:
        """The shard's positions of a block, from the first that is not passed over."""
        begin = max(self._first - number * CHOICES, 0) or (self._shard.index - number * CHOICES) % self._shard.count
        return slice(begin, None, self._shard.count)

    def _draw(self, number: int) -> Int[np.ndarray, " choices"]:
        key = np.array([self._seed, number], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        return generator.choice(len(self._shares), size=CHOICES, p=self._shares)
