"""Each metric's definition, and that metrics of parts merge into the whole's."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.objectives.losses import RowLosses
from mrt5_jax.objectives.metrics import Mean, deletion_metrics, saving_metrics, target_metrics


def _rows():
    """Three rows: all right, two of three right, filler."""
    return RowLosses(
        nll=jnp.array([1.0, 5.0, 0.0]),
        z=jnp.array([9.0, 9.0, 0.0]),
        num_tokens=jnp.array([1.0, 3.0, 0.0]),
        num_correct=jnp.array([1.0, 2.0, 0.0]),
        all_correct=jnp.array([True, False, True]),
    )


def _values(metrics):
    return {name: float(mean.value) for name, mean in metrics.items()}


def test_target_metrics():
    values = _values(target_metrics(_rows()))
    expected = {"loss": 1.5, "bits_per_byte": 1.5 / np.log(2), "token_accuracy": 0.75, "sequence_accuracy": 0.5}
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6, err_msg=name)


def test_deletion_metrics():
    """Pads count nowhere, not even where a selector kept them; filler rows count nowhere. Dropped is not deleted."""
    input_mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    keep = jnp.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    metrics = deletion_metrics(
        input_mask,
        keep,
        rung=jnp.array([4, 2, 4]),
        rescued=jnp.array([False, True, False]),
        dropped=jnp.array([1, 0, 0]),
    )
    expected = {"deletion_rate": 2 / 5, "kept_length": 1.0, "rung": 3.0, "rescued": 0.5, "dropped": 0.5}
    values = _values(metrics)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6, err_msg=name)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), min_size=1, max_size=9), st.integers(0, 9))
def test_means_merge_in_any_grouping(pairs, cut):
    """Merging parts is weighting by what they count, not averaging averages."""
    means = [Mean(float(total), float(weight)) for total, weight in pairs]
    merged = Mean(0.0, 0.0)
    for mean in means[cut:] + means[:cut]:
        merged = merged.merge(mean)
    total, weight = np.sum(pairs, axis=0)
    assert merged == Mean(total, weight)
    np.testing.assert_allclose(merged.value, total / weight if weight else np.nan, rtol=1e-6)


def test_metrics_of_parts_merge_into_the_wholes():
    whole = target_metrics(_rows())
    parts = [target_metrics(jax.tree.map(lambda x, i=i: x[i : i + 1], _rows())) for i in range(3)]
    for name, mean in whole.items():
        merged = parts[0][name].merge(parts[1][name]).merge(parts[2][name])
        np.testing.assert_allclose(merged, mean, rtol=1e-6, err_msg=name)


def test_the_mean_of_nothing_is_not_a_number():
    assert np.isnan(Mean(0.0, 0.0).value)


def test_saving_metrics():
    """Half of 8 slots and all of them, of a body whose work is the square of its slots; filler rows do not count."""
    input_mask = jnp.array([[1] * 8, [1] * 8, [0] * 8], bool)
    kept, rung = jnp.array([2, 8, 0]), jnp.array([4, 8, 4])
    values = _values(saving_metrics(input_mask, kept, rung, lambda slots: (slots / 8) ** 2))
    assert values == {"saved": (0.75 + 0.0) / 2, "saved_if_exact": (15 / 16 + 0.0) / 2}
