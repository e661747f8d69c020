"""Into how many chunks rows may be cut, and at which rungs their chunks would run.

Nothing is clocked, and sums, products, quotients and square roots of floats are all that is computed: whatever process
asks gets the same answer to the last bit.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from mrt5_jax.config import ExecutionConfig, RowsInParts

TRIED = (4, 16)
"""Numbers of chunks that `auto` may choose besides one; where rows do not divide by them, the next lower that do."""


def fixed_chunks(execution: ExecutionConfig) -> int:
    """Returns the chunks of whatever is not decided while it runs; of "auto" one."""
    return 1 if execution.chunks == "auto" else execution.chunks


_GROUPS = 8
"""Groups of devices that are told apart by which of a slot's rows they get, at most."""


class Cut(NamedTuple):
    """How the rows of a step are cut."""

    chunks: int
    """Of each microbatch."""
    rows: RowsInParts
    """Of microbatches."""


def cut(execution: ExecutionConfig, num_chunks: int) -> Cut:
    """Returns how rows are cut into so many chunks; with microbatches, "auto" means so many of the whole batch."""
    parts = execution.microbatches
    if execution.chunks != "auto" or parts == 1 or num_chunks == 1:
        return Cut(num_chunks, execution.microbatch_rows)
    return Cut(num_chunks // parts, "sorted")


def allowed_chunks(execution: ExecutionConfig, rows: int) -> tuple[int, ...]:
    """Returns the numbers of chunks to choose from, at most three.

    Args:
        rows: that a device has at once, a microbatch's if there are several.
    """
    if execution.chunks != "auto":
        return (execution.chunks,)
    parts = execution.microbatches
    tried = TRIED if parts == 1 else (1, TRIED[0])
    highest_divisors = (max(count for count in range(1, most + 1) if rows % count == 0) for most in tried)
    return tuple(sorted({1, *(parts * count for count in highest_divisors)}))


def rung_chances(
    rungs: Sequence[int],
    below: Sequence[float],
    rows: int,
    num_chunks: int,
    num_shards: int = 1,
    explained: float = 0.0,
) -> list[list[float]]:
    """Returns the chance that each chunk runs at each rung: [num_chunks][rungs].

    A chunk's fullest row is that of a certain place among the sorted rows of a device, and of all devices the fullest.
    So many of a device's rows fit a rung as coins of that chance show heads, independently of each other.

    Args:
        rungs: increasing; the last one holds every row.
        below: the share of rows that fit each rung.
        rows: of a device.
        num_shards: devices.
        explained: of rows that are dealt to the devices by what is expected of them, the share of the variance of what
            they keep that is explained so; 0 where they lie as they come.
    """
    at_most = [_all_fit(chance, rows, num_shards, explained) for chance in below[:-1]]
    chances = []
    for chunk in range(1, num_chunks + 1):
        fits = [heads[chunk * rows // num_chunks] for heads in at_most] + [1.0]
        chances.append([max(0.0, high - low) for low, high in zip([0.0, *fits], fits, strict=False)])
    return chances


@functools.lru_cache(maxsize=256)  # asked for by every number of chunks that may be chosen
def _all_fit(chance: float, rows: int, num_shards: int, explained: float) -> list[float]:
    """The chances that on all devices at least 0, 1, ... of the rows fit, of rows that fit with this chance."""
    if explained <= 0:
        return [_power(heads, num_shards) for heads in _at_least(rows, chance)]
    groups = max(number for number in range(1, _GROUPS + 1) if num_shards % number == 0)
    found = [1.0] * (rows + 1)
    for group in range(groups):  # the last devices get the longest of the rows in a slot
        fit = _at_least_of(slot_chances(chance, rows, explained, (group + 0.5) / groups))
        found = [one * _power(other, num_shards // groups) for one, other in zip(found, fit, strict=True)]
    return found


def slot_chances(below: float, rows: int, explained: float, place: float = 0.5) -> list[float]:
    """Returns the chance that the row in each slot of a device fits, of rows dealt by what is expected of them.

    What is expected and what is kept are taken as two normal variables, up to a monotone map of each (a Gaussian
    copula). The rows in a slot are those of an equal share of what is expected.

    Args:
        below: the chance of a row that lies anywhere.
        rows: slots of a device.
        explained: the square of the two variables' correlation.
        place: of the device among all, from 0 to 1: so far through the share lies the row that it gets.
    """
    if below <= 0 or below >= 1:
        return [float(below >= 1)] * rows
    known, left = math.sqrt(min(explained, 0.9999)), math.sqrt(1 - min(explained, 0.9999))
    at = _quantile(below)
    return [_normal_below((at - known * _quantile((slot + place) / rows)) / left) for slot in range(rows)]


def _normal_below(deviation: float) -> float:
    """The chance that a standard normal variable lies below (Abramowitz and Stegun, 26.2.17: to 7.5e-8)."""
    size = min(abs(deviation), 9.0)
    nearness = 1 / (1 + 0.2316419 * size)
    tail = 0.0
    for factor in (1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.319381530):
        tail = (tail + factor) * nearness
    tail *= 0.3989422804 / _power(1 + size * size / 2 / 2**20, 2**20)
    return 1 - tail if deviation > 0 else tail


@functools.lru_cache(maxsize=4096)
def _quantile(chance: float) -> float:
    """Where a standard normal variable lies below with this chance."""
    low, high = -9.0, 9.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _normal_below(middle) < chance else (low, middle)
    return (low + high) / 2


def _at_least_of(chances: Sequence[float]) -> list[float]:
    """The chances that at least 0, 1, ... of some coins, each with its chance, show heads."""
    exactly = [1.0]
    for chance in chances:
        heads, tails = [0.0, *exactly], [*exactly, 0.0]
        exactly = [one * chance + other * (1 - chance) for one, other in zip(heads, tails, strict=True)]
    sums = [0.0]
    for weight in reversed(exactly):
        sums.append(sums[-1] + weight)
    return [min(1.0, own) for own in reversed(sums[1:])]


def _power(base: float, exponent: int) -> float:
    """By products alone, which are the same on every machine; the library's power is not."""
    product = 1.0
    while exponent:
        if exponent % 2:
            product *= base
        base, exponent = base * base, exponent // 2
    return product


def _at_least(tosses: int, chance: float) -> list[float]:
    """The chances that so many tosses of a coin show at least 0, 1, ... `tosses` heads.

    By the ratio of neighbours, from the likeliest number: powers of the chance would be 0 for many tosses.
    """
    if chance <= 0 or chance >= 1:
        return [1.0] + [float(chance >= 1)] * tosses
    likeliest = min(tosses, int((tosses + 1) * chance))
    weights = [0.0] * (tosses + 1)
    weights[likeliest] = 1.0
    for heads in range(likeliest, tosses):
        weights[heads + 1] = weights[heads] * (tosses - heads) / (heads + 1) * chance / (1 - chance)
    for heads in range(likeliest, 0, -1):
        weights[heads - 1] = weights[heads] * heads / (tosses - heads + 1) * (1 - chance) / chance
    total, sums = sum(weights), [0.0]
    for weight in reversed(weights):
        sums.append(sums[-1] + weight)
    return [sums[-1 - heads] / total for heads in range(tosses + 1)]
