"""Bootstrap errors: those of a mean and of a ratio that are known without drawing, and the same for the same seed."""

import numpy as np
import pytest

from mrt5_jax.evaluation.bootstrap import bootstrap_errors, sum_ratios

DRAWS = 4000
"""An error is then known to 1.1 %, so that 5 % are more than four standard errors of the error."""


def test_error_of_a_mean_is_the_deviation_over_the_root_of_the_count() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=(400, 1))
    (error,) = bootstrap_errors(values, np.ones_like(values), DRAWS)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(400), rel=0.05)


def test_error_of_a_ratio_is_that_of_its_linearisation() -> None:
    """Of sum(t) / sum(w) = r: sqrt(sum (t - r w)^2) / sum(w), with weights that vary and go with the totals."""
    generator = np.random.default_rng(2)
    weights = generator.integers(1, 20, size=(1500, 1)).astype(np.float64)
    totals = weights * generator.gamma(3.0, size=weights.shape)
    ratio = totals.sum() / weights.sum()
    expected = np.sqrt(((totals - ratio * weights) ** 2).sum()) / weights.sum()
    (error,) = bootstrap_errors(totals, weights, DRAWS)
    assert error == pytest.approx(expected, rel=0.05)


def test_figures_do_not_disturb_each_other_and_seeds_repeat() -> None:
    totals = np.random.default_rng(3).random((50, 3))
    weights = np.ones_like(totals)
    together = bootstrap_errors(totals, weights, 200, seed=5)
    alone = [bootstrap_errors(totals[:, [figure]], weights[:, [figure]], 200, seed=5)[0] for figure in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert (bootstrap_errors(totals, weights, 200, seed=6) != together).all()


def test_what_never_varies_has_no_error_and_what_is_not_known_is_nan() -> None:
    """A constant; a figure that one example alone counts for; one that none does; no examples at all."""
    totals, weights = np.ones((9, 3)), np.ones((9, 3))
    weights[1:, 1], weights[:, 2] = 0.0, 0.0
    assert bootstrap_errors(totals, weights, 50).tolist()[0] == 0
    assert np.isnan(bootstrap_errors(totals, weights, 50)[1:]).all()
    assert np.isnan(bootstrap_errors(np.zeros((0, 2)), np.zeros((0, 2)), 50)).all()


def test_nothing_counted_is_nan() -> None:
    np.testing.assert_array_equal(sum_ratios(np.array([1.0, 0.0]), np.array([4.0, 0.0])), [0.25, np.nan])
