"""The predictor against NumPy's least squares, and what makes it the same in every process and after every resume."""

import json

import numpy as np
import pytest

from mrt5_jax.data.byte_classes import BYTE_CLASSES
from mrt5_jax.data.expectation import FADING, INTERVAL, UNITS, Expectation, expected, feature_names, row_features

NAMES = feature_names(["en", "th"])
NUM_CLASSES = len(BYTE_CLASSES)


def rows_of(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features of rows of two languages, and what is kept of them: a share of each class, and of a language."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(60, rng.dirichlet(np.full(6, 0.5)), count)
    counts = np.pad(counts, ((0, 0), (0, NUM_CLASSES - 6)))  # some classes never occur
    tokens = 60 * np.eye(2, dtype=int)[rng.integers(0, 2, count)]
    features = row_features(counts, tokens, 60)
    kept = np.round(counts @ np.linspace(0.1, 0.6, NUM_CLASSES) + 0.3 * tokens[:, 0] + rng.normal(0, 1, count))
    return features, kept


def moments_of(features: np.ndarray, kept: np.ndarray) -> np.ndarray:
    values = np.column_stack([features.astype(float), kept, np.ones(len(kept))])
    return values.T @ values


def fed(steps: int) -> Expectation:
    found = Expectation(NAMES)
    for step in range(steps):
        found.add(moments_of(*rows_of(step)))
    return found


def test_features_are_shares_of_a_length_in_units() -> None:
    counts = np.zeros((2, NUM_CLASSES), int)
    counts[0, 3], counts[1, 0] = 5, 1000
    features = row_features(counts, np.array([[0], [1000]]), 10)
    assert features[0, 3] == UNITS // 2
    assert features[1, 0] == features[1, -1] == 255, "cut, not wrapped around"


def test_weights_are_those_of_least_squares_with_older_steps_fading_and_a_prior() -> None:
    """The prior as rows of their own: one that is all of a feature and keeps what is kept on average."""
    steps = 20
    rows = [rows_of(step) for step in range(steps)]
    ages = np.concatenate([np.full(len(kept), FADING ** (steps - 1 - step)) for step, (_, kept) in enumerate(rows)])
    features = np.concatenate([own for own, _ in rows]).astype(float)
    kept = np.concatenate([own for _, own in rows])
    is_class = np.arange(len(NAMES)) < NUM_CLASSES
    mean = (ages @ kept) / (ages @ features[:, is_class].sum(axis=1))
    prior = UNITS * np.eye(len(NAMES))
    left = np.concatenate([np.sqrt(ages)[:, None] * features, prior])
    right = np.concatenate([np.sqrt(ages) * kept, UNITS * mean * is_class])
    wanted = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(fed(steps).fit(), wanted, rtol=1e-9, atol=1e-12)


def test_it_learns_what_is_kept_of_rows_that_it_has_not_seen() -> None:
    features, kept = rows_of(1000, 500)
    known = fed(50)
    residual = kept - expected(features, known.fit())
    assert np.std(residual) < 2.0 < np.std(kept) / 2
    assert known.explained() == pytest.approx(1 - np.var(residual) / np.var(kept), abs=0.03)


def test_knowing_nothing_it_expects_all_that_there_is() -> None:
    features, _ = rows_of(0)
    np.testing.assert_array_equal(
        expected(features, Expectation(NAMES).weights(0)), features[:, :NUM_CLASSES].sum(axis=1)
    )
    assert Expectation(NAMES).explained() == 0


def test_rows_that_keep_alike_explain_nothing() -> None:
    found = Expectation(NAMES)
    features, _ = rows_of(0)
    found.add(moments_of(features, np.full(len(features), 30.0)))
    assert found.explained() == 0
    assert np.isfinite(found.fit()).all()


def test_a_batch_is_dealt_by_the_steps_up_to_the_block_before_the_last_whenever_it_is_asked_for() -> None:
    batch = 2 * INTERVAL + 3
    early = fed(INTERVAL)
    at_once = early.weights(batch)
    np.testing.assert_array_equal(early.weights(INTERVAL), Expectation(NAMES).weights(0))
    late = fed(2 * INTERVAL - 1)
    late.state()
    np.testing.assert_array_equal(late.weights(batch), at_once)
    np.testing.assert_array_equal(at_once, fed(INTERVAL).fit())
    with pytest.raises(AssertionError, match="before the steps"):
        fed(INTERVAL - 1).weights(batch)


@pytest.mark.parametrize("stopped", [1, INTERVAL, INTERVAL + 5, 3 * INTERVAL])
def test_a_restored_one_goes_on_to_the_last_bit(stopped: int) -> None:
    whole, resumed = fed(stopped), Expectation(NAMES)
    assert resumed.restore(json.loads(json.dumps(whole.state()))) == ""
    for found in (whole, resumed):
        for step in range(stopped, stopped + 2 * INTERVAL):
            assert found.num_seen == step
            found.add(moments_of(*rows_of(step)))
    for batch in range(stopped, stopped + 2 * INTERVAL):
        np.testing.assert_array_equal(whole.weights(batch), resumed.weights(batch))
    assert whole.state() == resumed.state()


def test_one_saved_for_other_languages_begins_anew_and_says_so() -> None:
    other = Expectation(feature_names(["en", "sw"]))
    other.restore(fed(5).state() | {"features": list(other.features)})
    found = fed(5)
    line = found.restore(other.state())
    assert line.startswith("what is expected of rows is learned anew")
    assert "language sw, language th" in line
    assert found.num_seen == 0
    assert fed(5).restore(None) == ""
