"""Losses against NumPy in float64, their precision, and that parts add up to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.objectives.losses import (
    count_denominators,
    cross_entropy,
    score_term,
    sum_rows,
    target_term,
)
from mrt5_jax.objectives.penalties import PenaltyScale, weighted_penalties

_cross_entropy = jax.jit(cross_entropy, static_argnums=3)


def _oracle(logits, targets, weights, z_loss):
    """Weighted nll, z and correctness, in float64."""
    logits = np.asarray(logits, np.float64)
    normalizer = np.logaddexp.reduce(logits, axis=-1)
    nll = normalizer - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return weights * nll, weights * z_loss * normalizer**2, logits.argmax(axis=-1) == targets


def _problem(seed, scale=1.0, batch=3, target=4, vocab=7):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(batch, target, vocab))).astype(np.float32)
    weights = (rng.random((batch, target)) < 0.7).astype(np.int32)
    return logits, rng.integers(0, vocab, (batch, target)).astype(np.int32), weights


@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_cross_entropy_equals_the_oracle(seed, scale):
    logits, targets, weights = _problem(seed, scale)
    result = _cross_entropy(logits, targets, weights, 0.1)
    nll, z, correct = _oracle(logits, targets, weights, 0.1)
    np.testing.assert_allclose(result.nll, nll, rtol=1e-5, atol=1e-7 * scale)
    np.testing.assert_allclose(result.z, z, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(result.correct, correct)


def test_gradients_equal_the_oracles():
    """p - 1[target], by weight; with the z-loss, 2 z log Z p on top."""
    logits, targets, weights = _problem(0, 3.0)

    def loss(logits):
        losses = cross_entropy(logits, jnp.asarray(targets), jnp.asarray(weights), 0.1)
        return jnp.sum(losses.nll + losses.z)

    wide = logits.astype(np.float64)
    normalizer = np.logaddexp.reduce(wide, axis=-1, keepdims=True)
    p = np.exp(wide - normalizer)
    expected = weights[..., None] * (p - np.eye(7)[targets] + 0.2 * normalizer * p)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), expected, rtol=1e-5, atol=1e-7)


def test_nearly_certain_tokens_keep_their_precision():
    """log(1 + e^-20) is 2e-9, far below float32's spacing at 1; loss and gradient still have it."""
    logits = jnp.array([[[20.0, 0.0, -5.0]]])

    def nll(logits):
        return cross_entropy(logits, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))).nll[0, 0]

    rest = np.exp(-20.0) + np.exp(-25.0)
    value, gradient = jax.jit(jax.value_and_grad(nll))(logits)
    np.testing.assert_allclose(value, np.log1p(rest), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], np.array([-rest, np.exp(-20.0), np.exp(-25.0)]), rtol=1e-6)


def test_bfloat16_logits_are_converted_first():
    logits, targets, weights = _problem(1, 3.0)
    narrow = jnp.asarray(logits, jnp.bfloat16)
    result = _cross_entropy(narrow, targets, weights, 0.0)
    assert result.nll.dtype == jnp.float32
    np.testing.assert_allclose(result.nll, _oracle(narrow, targets, weights, 0)[0], rtol=1e-5, atol=1e-6)


def test_float64_stays_float64():
    logits, targets, weights = _problem(2)
    with jax.enable_x64(True):
        result = _cross_entropy(logits.astype(np.float64), targets, weights, 0.1)
        assert result.nll.dtype == jnp.float64
        np.testing.assert_allclose(result.nll, _oracle(logits, targets, weights, 0.1)[0], rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_masked_targets_cost_nothing(scale):
    """Neither value nor gradient depends on positions of weight 0."""
    logits, targets, weights = _problem(3, scale)
    other = np.where(weights[..., None] == 0, np.float32(5), logits)
    one, two = (_cross_entropy(x, targets, weights, 0.1) for x in (logits, other))
    np.testing.assert_array_equal(one.nll, two.nll)
    np.testing.assert_array_equal(one.z, two.z)


def test_rows_are_summed_with_their_weights():
    logits, targets, weights = _problem(4)
    weights[1] = 0
    targets[2] = logits[2].argmax(axis=-1)
    rows = sum_rows(_cross_entropy(logits, targets, weights, 0.1), jnp.asarray(weights))
    nll, z, correct = _oracle(logits, targets, weights, 0.1)
    np.testing.assert_allclose(rows.nll, nll.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(rows.z, z.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(rows.num_tokens, weights.sum(axis=1))
    np.testing.assert_array_equal(rows.num_correct, (weights * correct).sum(axis=1))
    np.testing.assert_array_equal(
        rows.all_correct, [(c | (w == 0)).all() for c, w in zip(correct, weights, strict=True)]
    )
    assert rows.all_correct[1], "filler misses nothing"
    assert rows.all_correct[2]


@jax.jit
def _loss(logits, targets, weights, gate_values, input_mask, penalty, counts):
    denominators, num_inputs = counts
    rows = sum_rows(cross_entropy(logits, targets, weights, 0.1), weights)
    totals = {"gate": jnp.sum(jnp.where(input_mask, gate_values, 0), axis=1)}
    gate, _ = weighted_penalties(totals, {"gate": PenaltyScale(jnp.float32(0.3), num_inputs)})
    return target_term(rows, denominators) + gate + 0.5 * score_term(penalty, rows, denominators)


def _counts(batch):
    return count_denominators(batch[2]), jnp.maximum(jnp.sum(batch[4], dtype=jnp.float32), 1)


def _batch():
    rng = np.random.default_rng(5)
    logits, targets, weights = _problem(5, batch=4)
    weights[3] = 0
    input_mask = np.arange(6)[None] < np.array([[6], [2], [4], [0]])
    gate_values = -30 * rng.random((4, 6)).astype(np.float32)
    penalty = np.array([0, 0.5, 2, 77], np.float32)
    return tuple(map(jnp.asarray, (logits, targets, weights, gate_values, input_mask, penalty)))


def test_the_loss_is_the_papers():
    """Cross-entropy per target token, alpha times the mean gate value of inputs, beta times the mean score excess."""
    batch = _batch()
    logits, targets, weights, gate_values, input_mask, penalty = map(np.asarray, batch)
    nll, z, _ = _oracle(logits, targets, weights, 0.1)
    expected = (nll + z).sum() / weights.sum() + 0.3 * gate_values[input_mask].mean() + 0.5 * penalty[:3].mean()
    np.testing.assert_allclose(_loss(*batch, _counts(batch)), expected, rtol=1e-6)


def test_parts_of_a_batch_add_up():
    """Losses and gradients of chunks, whatever their token counts, sum to the batch's."""
    batch = _batch()
    denominators = _counts(batch)
    gradient = jax.jit(jax.value_and_grad(_loss))
    whole = gradient(*batch, denominators)
    first, second = (gradient(*(x[part] for x in batch), denominators) for part in (slice(0, 1), slice(1, 4)))
    np.testing.assert_allclose(first[0] + second[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([first[1], second[1]]), whole[1], rtol=1e-6)


def test_an_empty_batch_costs_nothing():
    batch = tuple(jnp.zeros_like(x) for x in _batch())
    value, gradient = jax.jit(jax.value_and_grad(_loss))(*batch, _counts(batch))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
