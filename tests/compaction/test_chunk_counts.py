"""Numbers of chunks to choose from, and the chances of rungs beside every case counted out."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.chunk_counts import allowed_chunks, fixed_chunks, rung_chances
from mrt5_jax.config import ExecutionConfig

AUTO = ExecutionConfig(chunks="auto")


@given(st.integers(1, 3000))
def test_at_most_three_numbers_that_divide_the_rows(rows: int) -> None:
    allowed = allowed_chunks(AUTO, rows)
    assert allowed[0] == 1
    assert len(allowed) <= 3
    assert list(allowed) == sorted(set(allowed))
    assert all(rows % number == 0 and number <= rows for number in allowed)
    assert allowed_chunks(ExecutionConfig(chunks=5), rows) == (5,)


def test_numbers_for_common_rows() -> None:
    assert [allowed_chunks(AUTO, rows) for rows in (64, 8, 6, 7, 1)] == [(1, 4, 16), (1, 4, 8), (1, 3, 6), (1, 7), (1,)]
    assert (fixed_chunks(AUTO), fixed_chunks(ExecutionConfig(chunks=3))) == (1, 3)


def counted_out(chances: list[float], rows: int, num_chunks: int, num_shards: int) -> np.ndarray:
    """[num_chunks rungs]: every assignment of rows to rungs, sorted and cut as `compaction.rows` does."""
    found = np.zeros((num_chunks, len(chances)))
    for rungs in itertools.product(range(len(chances)), repeat=rows * num_shards):
        by_shard = np.sort(np.reshape(rungs, (num_shards, num_chunks, -1)).reshape(num_shards, -1), axis=1)
        fullest = by_shard.reshape(num_shards, num_chunks, -1).max(axis=(0, 2))
        found[np.arange(num_chunks), fullest] += math.prod(chances[rung] for rung in rungs)
    return found


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=3).filter(lambda weights: sum(weights) > 0),
    st.sampled_from([(2, 1, 1), (4, 2, 1), (3, 3, 1), (2, 2, 2), (3, 1, 2), (2, 1, 3)]),
)
def test_chances_are_those_of_all_cases(weights: list[float], cut: tuple[int, int, int]) -> None:
    rows, num_chunks, num_shards = cut
    chances = [weight / sum(weights) for weight in weights]
    below = [min(1.0, sum(chances[: number + 1])) for number in range(len(chances))]
    found = rung_chances(range(1, len(chances) + 1), below, rows, num_chunks, num_shards)
    np.testing.assert_allclose(found, counted_out(chances, rows, num_chunks, num_shards), atol=1e-12)


@given(st.integers(1, 4096), st.floats(0.0, 1.0), st.sampled_from([1, 8, 4096]))
def test_chances_of_many_rows_add_up(rows: int, chance: float, num_shards: int) -> None:
    """Where powers of the chance would be 0 too."""
    for chunk in rung_chances((8, 16), (chance, 1.0), rows, 1, num_shards):
        assert math.isclose(sum(chunk), 1.0, rel_tol=1e-12)
        assert all(0 <= number <= 1 for number in chunk)
