"""Into how many chunks rows may be cut, and at which rungs their chunks would run.

Nothing is clocked, and sums, products and quotients of floats are all that is computed: whatever process asks gets the
same answer to the last bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mrt5_jax.config import ExecutionConfig, RowsInParts

TRIED = (4, 16)
"""Numbers of chunks that `auto` may choose besides one; where rows do not divide by them, the next lower that do."""


def fixed_chunks(execution: ExecutionConfig) -> int:
    """Returns the chunks of whatever is not decided while it runs; of "auto" one."""
    return 1 if execution.chunks == "auto" else execution.chunks


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
    rungs: Sequence[int], below: Sequence[float], rows: int, num_chunks: int, num_shards: int = 1
) -> list[list[float]]:
    """Returns the chance that each chunk runs at each rung: [num_chunks][rungs].

    A chunk's fullest row is that of a certain place among the sorted rows of a device, and of all devices the fullest.
    So many of a device's rows fit a rung as coins of that chance show heads, independently of each other.

    Args:
        rungs: increasing; the last one holds every row.
        below: the share of rows that fit each rung.
        rows: of a device.
        num_shards: devices.
    """
    at_most = [_at_least(rows, chance) for chance in below[:-1]]
    chances = []
    for chunk in range(1, num_chunks + 1):
        fits = [_power(heads[chunk * rows // num_chunks], num_shards) for heads in at_most] + [1.0]
        chances.append([max(0.0, high - low) for low, high in zip([0.0, *fits], fits, strict=False)])
    return chances


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
