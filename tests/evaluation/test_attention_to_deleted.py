"""Attention to deleted positions: the weights are the seam's, the layers are the model's, each deleted one is there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.data.vocabulary import EOS_ID
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.attention_to_deleted import (
    LayerAttention,
    attention_in_windows,
    attention_weights,
    make_attention_inspector,
)
from mrt5_jax.evaluation.inspection import inspect_windows, make_inspector, pieces
from mrt5_jax.kernels.attention import attention
from mrt5_jax.kernels.position_bias import relative_bias
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix

from ..model.small import make_batch, make_config, make_params

BATCH, LENGTH, HEADS, WIDTH = 2, 5, 2, 3


@pytest.mark.parametrize("sink", [False, True])
def test_weights_times_values_are_what_the_seam_gives(sink: bool) -> None:
    """More keys than a head has dimensions, keys that are masked, biases by position; mean over the heads."""
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(BATCH, LENGTH, HEADS, WIDTH)), jnp.float32) for _ in range(2))
    of_any_head = rng.normal(size=(BATCH, LENGTH, 1, WIDTH))
    value = jnp.asarray(np.repeat(of_any_head, HEADS, axis=2), jnp.float32)
    positions = jnp.arange(LENGTH)[None]
    seam: dict[str, Any] = {
        "query_positions": positions,
        "key_positions": positions,
        "bias_table": jnp.asarray(rng.normal(size=(HEADS, 8)), jnp.float32),
        "max_distance": 16,
        "key_mask": jnp.asarray(np.arange(LENGTH)[None] < np.array([[5], [3]])),
        "sink": sink,
    }
    weights = np.asarray(attention_weights(query, key, **seam))
    assert weights.shape == (BATCH, LENGTH, LENGTH)
    received = np.asarray(attention(query, key, value, **seam).values)
    expected = np.einsum("bqk,bkd->bqd", weights, of_any_head[:, :, 0])
    np.testing.assert_allclose(received.mean(axis=2), expected, rtol=1e-5, atol=1e-6)
    assert not weights[1, :, 3:].any()
    if sink:
        assert (weights.sum(axis=-1) < 1).all()
    else:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_layers_are_those_of_the_model() -> None:
    """Against the formula in NumPy, on the states that models with their gate before each layer have there."""
    gates = [GateConfig(layer=layer, bias_init=0.0) for layer in (1, 2)]
    config = make_config(gate=gates[1])
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), make_params(config))
    tokens = make_batch()["encoder_input_tokens"][:2].astype(np.int32)
    mask = tokens > 0
    keep = mask & (np.arange(tokens.shape[1]) % 3 > 0)
    found = jax.device_get(make_attention_inspector(MrT5(config))(params, tokens, keep))
    first = jax.tree.map(lambda leaf: leaf[:1], params["encoder"]["prefix"])
    shorter = jax.tree.map(jnp.asarray, {**params, "encoder": {**params["encoder"], "prefix": first}})
    states = [
        params["token_embedder"]["embedding"][tokens],
        np.asarray(run_prefix(MrT5(make_config(gate=gates[0])), shorter, jnp.asarray(tokens)).hidden),
    ]
    for number, hidden in enumerate(states):
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], params["encoder"]["prefix"])
        weights = weights_by_formula(config, layer, params["encoder"]["relpos_bias"]["rel_embedding"], hidden, mask)
        of_kept = np.where(keep[:, :, None], weights, -1.0)
        np.testing.assert_allclose(found.weight[number], of_kept.max(axis=1), rtol=1e-3, atol=1e-6)
        chosen = np.take_along_axis(of_kept, found.attender[number][:, None], axis=1)[:, 0]
        np.testing.assert_allclose(chosen, of_kept.max(axis=1), rtol=1e-3, atol=1e-6)
        to_deleted = weights * keep[:, :, None] * (mask & ~keep)[:, None]
        np.testing.assert_allclose(found.share[number], to_deleted.sum(axis=(1, 2)) / keep.sum(axis=1), rtol=1e-3)
    assert np.abs(found.share[0] - found.share[1]).max() > 1e-3, "the layers differ"


def weights_by_formula(
    config: ModelConfig, layer: Any, table: np.ndarray, hidden: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """[batch query key], mean over the heads, in float64."""
    hidden = hidden.astype(np.float64)
    root = np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + config.layer_norm_epsilon)
    normed = hidden / root * layer["pre_attention_layer_norm"]["scale"]
    query, key = (
        (normed @ layer["attention"][name]["kernel"]).reshape(*mask.shape, config.num_heads, config.head_dim)
        for name in ("query", "key")
    )
    positions = jnp.arange(mask.shape[1])[None]
    biases = relative_bias(
        jnp.asarray(table), positions, positions, bidirectional=True, max_distance=config.relpos_max_distance
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) + np.asarray(biases)
    powers = np.where(mask[:, None, None], np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    return (powers / powers.sum(axis=-1, keepdims=True)).mean(axis=1)


def test_every_deleted_position_has_a_kept_one_that_attends_to_it(tiny: Any) -> None:
    windows = list(inspect_windows(make_inspector(tiny.model), tiny.params, [b"abcdefg", b"UVWxy"], input_length=8))
    found = attention_in_windows(make_attention_inspector(tiny.model), tiny.params, windows, 8)
    assert any(window.attenders for window in found), "something is deleted"
    for shown, window in zip(windows, found, strict=True):
        keep = [kept for piece in shown for kept in piece.keep]
        assert window.num_kept == sum(keep)
        assert list(window.attenders) == [position for position, kept in enumerate(keep) if not kept]
        assert len(window.shares) == 1
        assert 0 <= window.shares[0] <= 1
        for by, weight, layer in window.attenders.values():
            assert keep[by]
            assert 0 < weight <= 1 + 1e-6
            assert layer == 0


WINDOW = pieces(np.array([100, EOS_ID], np.int32), np.array([True, False]), np.zeros(2, np.float32))
"""Two positions, of which the second is deleted."""
FIRST = np.zeros((2, 1, 2), np.int32)
"""The first position attends most, in both layers."""


def test_of_several_layers_the_one_with_the_highest_weight_is_named() -> None:
    weight = np.array([[[0.0, 0.25]], [[0.0, 0.75]]], np.float32)
    layers = LayerAttention(FIRST, weight, weight[..., 1])
    (window,) = attention_in_windows(lambda params, tokens, keep: layers, {}, [WINDOW], 2)
    assert window == ((0.25, 0.75), 1, {1: (0, 0.75, 1)})


def test_weights_that_are_not_finite_are_refused() -> None:
    nothing = np.full((2, 1, 2), np.nan, np.float32)
    layers = LayerAttention(FIRST, nothing, nothing[..., 0])
    with pytest.raises(UserError, match="attention weights are not finite"):
        attention_in_windows(lambda params, tokens, keep: layers, {}, [WINDOW], 2)
