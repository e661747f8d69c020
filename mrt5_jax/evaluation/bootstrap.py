"""Standard errors by bootstrap over examples (Efron 1979), for figures that are a sum over a sum."""

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
"""Draws of as many examples as there are, with replacement: an error is then known to about 2 %."""


def sum_ratios(
    totals: Float[np.ndarray, "*draws figures"], weights: Float[np.ndarray, "*draws figures"]
) -> Float[np.ndarray, "*draws figures"]:
    """Divides sums by sums; NaN where nothing was counted."""
    counted = weights != 0
    return np.where(counted, totals / np.where(counted, weights, 1.0), np.nan)


def bootstrap_errors(
    totals: Float[np.ndarray, "examples figures"],
    weights: Float[np.ndarray, "examples figures"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float[np.ndarray, " figures"]:
    """Estimates the standard errors of sum(totals) / sum(weights), each figure by itself.

    The examples are drawn anew, with replacement, and the figures computed of each draw; their standard deviation over
    the draws is the error. All figures see the same draws. Of a mean it comes near the sample's standard deviation
    over the square root of the number of examples.

    Args:
        totals: what each example adds to the numerator, float64.
        weights: what it adds to the denominator.
        resamples: draws, at least 2.
        seed: of NumPy's default generator: the same examples in the same order have the same errors.

    Returns:
        an error for each figure; NaN where fewer than two examples count, or fewer than two draws have any of them.
    """
    num_examples, num_figures = totals.shape
    errors = np.full(num_figures, np.nan)
    if not num_examples:
        return errors
    generator = np.random.default_rng(seed)
    drawn_totals, drawn_weights = np.empty((resamples, num_figures)), np.empty((resamples, num_figures))
    for draw in range(resamples):
        counts = np.bincount(generator.integers(num_examples, size=num_examples), minlength=num_examples)
        drawn_totals[draw], drawn_weights[draw] = counts @ totals, counts @ weights
    drawn = sum_ratios(drawn_totals, drawn_weights)
    for figure in np.flatnonzero(np.count_nonzero(weights, axis=0) > 1):
        known = drawn[:, figure][~np.isnan(drawn[:, figure])]
        if len(known) > 1:
            errors[figure] = known.std(ddof=1)
    return errors
