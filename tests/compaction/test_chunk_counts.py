"""Numbers of chunks to choose from, and the chances of rungs beside every case counted out."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.chunk_counts import _normal_below, allowed_chunks, fixed_chunks, rung_chances, slot_chances
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


def counted_when_dealt(below: list[float], rows: int, num_chunks: int, devices: int, explained: float) -> np.ndarray:
    """[num_chunks rungs]: shares of rungs when many batches are drawn, sorted by what is expected, and dealt."""
    rng, quantile = np.random.default_rng(0), NormalDist().inv_cdf
    borders = [quantile(share) for share in below[:-1]]
    found, batches = np.zeros((num_chunks, len(below))), 4000
    for _ in range(batches):
        expected, other = rng.normal(size=(2, rows * devices))
        kept = np.sqrt(explained) * expected + np.sqrt(1 - explained) * other
        of_devices = kept[np.argsort(expected)].reshape(rows, devices).T
        fullest = np.sort(of_devices, axis=1).reshape(devices, num_chunks, -1).max(axis=(0, 2))
        found[np.arange(num_chunks), np.searchsorted(borders, fullest)] += 1 / batches
    return found


@pytest.mark.parametrize("explained", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("rows", "num_chunks", "devices"), [(4, 4, 64), (16, 4, 8)])
def test_chances_of_dealt_rows_are_those_of_drawn_ones(
    rows: int, num_chunks: int, devices: int, explained: float
) -> None:
    below = [0.2, 0.5, 0.9, 1.0]
    found = np.array(rung_chances((1, 2, 3, 4), below, rows, num_chunks, devices, explained))
    drawn = counted_when_dealt(below, rows, num_chunks, devices, explained)
    slots = np.arange(1, 5)
    np.testing.assert_allclose(found @ slots, drawn @ slots, atol=0.08)


@given(st.floats(0.001, 0.999), st.integers(1, 40))
def test_of_dealt_rows_as_many_fit_as_of_others(below: float, rows: int) -> None:
    chances = slot_chances(below, 2 * rows, 0.7)
    assert all(one >= other for one, other in itertools.pairwise(chances)), "the first slots have the shortest rows"
    assert math.isclose(sum(chances) / (2 * rows), below, abs_tol=0.2 / rows)
    assert math.isclose(slot_chances(below, 3, 1e-12)[1], below, abs_tol=1e-6)


@pytest.mark.parametrize("deviation", [-8.0, -3.0, -0.5, 0.0, 0.7, 2.5, 6.0])
def test_the_normal_distribution(deviation: float) -> None:
    assert math.isclose(_normal_below(deviation), NormalDist().cdf(deviation), abs_tol=2e-7)
