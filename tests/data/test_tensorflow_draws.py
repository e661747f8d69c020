"""What TensorFlow drew for runs of earlier versions is drawn by NumPy now: the same numbers, where TensorFlow is."""

import numpy as np
import pytest

from mrt5_jax.data import philox
from mrt5_jax.data.index_shuffle import shuffled_indices

SIZES = (2, 3, 257, 65_536, 65_537, 100_003, (1 << 20) + 1, 10_000_000, (1 << 40) + 3, (1 << 62) + 5)
"""On both sides of every rule for the width of a block."""
SEEDS = (0, 7, 2**32 - 1)


@pytest.mark.parametrize("count", [200, pytest.param(40_000, marks=pytest.mark.slow)])
def test_an_order_is_that_of_tensorflows_index_shuffle(count: int) -> None:
    """In the slow case over 1,200,000 positions."""
    tf = pytest.importorskip("tensorflow")
    generator = np.random.default_rng(0)
    for size in SIZES:
        for seed in SEEDS:
            indices, epochs = generator.integers(0, size, count), generator.integers(0, 5, count)
            keys = np.stack([np.full(count, 498247692), np.full(count, seed), epochs], axis=1)
            expected = tf.raw_ops.RandomIndexShuffle(index=indices, seed=keys, max_index=np.int64(size - 1), rounds=4)
            np.testing.assert_array_equal(shuffled_indices(indices, epochs, seed=seed, size=size), expected.numpy())


@pytest.mark.parametrize("size", [1, 2, 10, 1000, 70_000])
def test_an_epoch_is_a_permutation_of_its_own(size: int) -> None:
    orders = [shuffled_indices(np.arange(size), np.full(size, epoch), seed=3, size=size) for epoch in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 2:
        assert not np.array_equal(*orders)


@pytest.mark.parametrize("count", [20, pytest.param(5000, marks=pytest.mark.slow)])
def test_stateless_draws_are_those_of_tensorflow(count: int) -> None:
    tf = pytest.importorskip("tensorflow")
    seeds = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (count, 2))
    seeds[0] = 0
    split, integers = philox.split_seeds(seeds, 3), philox.uniform_integers(seeds, 62, 5, 52)
    floats, normal = philox.uniform_floats(seeds, 33), philox.normal_floats(seeds)
    for number, seed in enumerate(seeds):
        np.testing.assert_array_equal(split[:, number], tf.random.split(seed, 3))
        np.testing.assert_array_equal(integers[number], tf.random.stateless_uniform([62], seed, 5, 52, tf.int32))
        np.testing.assert_array_equal(floats[number], tf.random.stateless_uniform([33], seed))
        np.testing.assert_allclose(normal[number], tf.random.stateless_normal([], seed), rtol=3e-7)
