"""Histograms of kept positions, beside NumPy's."""

import jax.numpy as jnp
import numpy as np

from mrt5_jax.objectives.kept_lengths import BINS, REMEMBERED, no_kept_lengths, remember

LENGTHS = (40, 128)


def test_a_step_adds_its_rows_to_the_bins_of_its_length_and_forgets_the_older_ones() -> None:
    """Bin b: more than b and at most b + 1 of 64 parts; rows without input do not count, other lengths stay."""
    rng = np.random.default_rng(0)
    state = {name: no_kept_lengths(len(LENGTHS)) for name in ("hard", "saturated")}
    expected = {name: np.zeros((len(LENGTHS), BINS)) for name in state}
    for length in (40, 128, 128, 40):
        has_input = rng.random(20) < 0.8
        kept = {name: np.where(has_input, rng.integers(1, length + 1, 20), 0) for name in state}
        state = remember(
            state, {name: jnp.asarray(rows) for name, rows in kept.items()}, jnp.asarray(has_input), LENGTHS, length
        )
        for name, rows in kept.items():
            edges = np.arange(BINS + 1) * length / BINS
            bins = np.searchsorted(edges, rows[has_input], side="left") - 1
            at = LENGTHS.index(length)
            expected[name][at] = REMEMBERED * expected[name][at] + np.bincount(bins, minlength=BINS)
    for name, found in state.items():
        np.testing.assert_allclose(found.counts, expected[name], rtol=1e-6)
        np.testing.assert_array_equal(found.num_chunks, [0, 0])
