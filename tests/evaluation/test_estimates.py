"""Figures against NumPy and SciPy; totals weighted by examples; what is not known is NaN."""

import math

import numpy as np
import pytest

from mrt5_jax.evaluation.bootstrap import bootstrap_errors
from mrt5_jax.evaluation.estimates import RATIOS, combine_languages, describe_figure, estimate
from mrt5_jax.evaluation.records import Record, of_deletion

from .many_records import random_evaluation

FEW = 20
"""Draws, where errors are not looked at."""


def column(records: list[Record], name: str) -> np.ndarray:
    return np.array([getattr(record, name) for record in records], np.float64)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return of_deletion(random_evaluation(300), "hard")


def test_figures_are_numpys(records) -> None:
    """Per target token, per byte of text, per row, per input token: each by its own denominator."""
    found = {name: one.value for name, one in estimate(records, resamples=FEW).items()}
    nll, tokens = column(records, "nll"), column(records, "num_target_tokens")
    inputs, kept = column(records, "num_input_tokens"), column(records, "num_kept_tokens")
    dropped = column(records, "num_dropped_tokens")
    expected = {
        "loss": nll.sum() / tokens.sum(),
        "bits_per_target_token": np.log2(np.e) * nll.sum() / tokens.sum(),
        "bits_per_text_byte": np.log2(np.e) * nll.sum() / (tokens - 1).sum(),
        "token_accuracy": column(records, "num_correct_tokens").sum() / tokens.sum(),
        "sequence_accuracy": column(records, "sequence_correct").mean(),
        "deletion_rate": (inputs - kept - dropped).sum() / inputs.sum(),
        "dropped_share": dropped.sum() / inputs.sum(),
        "kept_length": kept.mean(),
        "kept_length_p95": np.percentile(kept, 95),
        "kept_length_max": kept.max(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["generated_accuracy"])
    assert math.isnan(found["loss_increase_correlation"])
    assert found.keys() == expected.keys() | {"generated_accuracy", "label_accuracy", "loss_increase_correlation"}


def test_every_figure_is_explained(records) -> None:
    own = [record._replace(metrics={"f1": 1.0}) for record in records[:3]]
    assert all(describe_figure(name) for name in estimate(own, resamples=FEW))


def test_errors_are_those_of_the_bootstrap(records) -> None:
    nll, tokens = column(records, "nll"), column(records, "num_target_tokens")
    (expected,) = bootstrap_errors(nll[:, None], tokens[:, None], 50, seed=3)
    assert estimate(records, resamples=50, seed=3)["loss"].error == pytest.approx(expected)


def test_bytes_that_nobody_counted_are_left_out() -> None:
    """With all they hold: neither bits without their bytes nor bytes without their bits."""
    records = of_deletion(random_evaluation(40), "hard")
    older = [record._replace(num_text_bytes=-1) for record in records[::2]]
    whole = estimate(records[1::2], resamples=FEW)["bits_per_text_byte"].value
    assert estimate([*older, *records[1::2]], resamples=FEW)["bits_per_text_byte"].value == pytest.approx(whole)
    assert math.isnan(estimate(older, resamples=FEW)["bits_per_text_byte"].value)


def test_own_metrics_are_means_over_the_examples_that_have_them(records) -> None:
    values = [100.0, 0.0, 50.0]
    scored = [record._replace(metrics={"f1": value}) for record, value in zip(records, values, strict=False)]
    found = estimate([*scored, *records[3:6]], resamples=FEW)
    assert found["metrics/f1"].value == 50.0


def test_correlation_is_scipys_on_2000_examples() -> None:
    stats = pytest.importorskip("scipy.stats")
    records = random_evaluation(2000)
    before, after = of_deletion(records, "none"), of_deletion(records, "hard")
    shares = [
        (one.num_input_tokens - one.num_kept_tokens - one.num_dropped_tokens) / one.num_input_tokens for one in after
    ]
    increases = [(late.nll - early.nll) / early.nll for early, late in zip(before, after, strict=True)]
    expected = stats.pearsonr(shares, increases).statistic
    found = estimate(after, before[::-1], resamples=2)["loss_increase_correlation"].value
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.2 < found < 0.9, "the records are made so that there is something to find"


def test_totals_are_weighted_by_examples() -> None:
    """A language of long targets weighs no more than its examples; errors add up as independent ones do."""
    first, second = (of_deletion(random_evaluation(size, seed=size), "hard") for size in (30, 90))
    groups = [(one, estimate(one, resamples=200)) for one in (first, second)]
    total = combine_languages(groups)
    for name in set(RATIOS) - {"generated_accuracy", "label_accuracy"}:
        one, other = (own[name] for _, own in groups)
        assert total[name].value == pytest.approx((one.value + 3 * other.value) / 4)
        assert total[name].error == pytest.approx(math.hypot(one.error, 3 * other.error) / 4)
    kept = column([*first, *second], "num_kept_tokens")
    assert total["kept_length_p95"].value == pytest.approx(np.percentile(kept, 95))
    assert total["kept_length_max"].value == kept.max()


def test_a_language_that_nothing_was_counted_of_is_left_out_of_the_total() -> None:
    records = of_deletion(random_evaluation(20), "hard")
    silent = [record._replace(num_target_tokens=0, nll=0.0, num_correct_tokens=0) for record in records[:5]]
    groups = [(one, estimate(one, resamples=FEW)) for one in (records, silent)]
    assert combine_languages(groups)["loss"] == pytest.approx(groups[0][1]["loss"])


def test_nothing_at_all_is_nan() -> None:
    assert all(math.isnan(one.value) for one in estimate([], resamples=FEW).values())
    assert all(math.isnan(one.value) for one in combine_languages([([], estimate([], resamples=FEW))]).values())
