"""A selector that gathers learns from the task: kept states are multiplied by its confidence, straight-through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import GateConfig
from mrt5_jax.model.encoder_decoder import Compact, MrT5
from mrt5_jax.model.forward import ForwardSetting, forward, run_prefix, run_second_stage
from mrt5_jax.model.layers import Keys, Queries
from mrt5_jax.objectives.losses import cross_entropy

from .small import LENGTH, by_path, in_double, make_batch, make_config, make_params
from .test_pooling import total_of

CONFIG = in_double(make_config(gate=GateConfig(1, "hnet", settings=(("downsampling", 2.0),))))
STEP = 1e-6


def test_the_gradient_is_that_of_states_that_move_with_the_confidence() -> None:
    """By finite differences at full length, who is kept and the confidence's value held; ours in chunks at rungs."""
    batch = jax.tree.map(jnp.asarray, make_batch())
    weights = batch["decoder_loss_weights"]
    model = MrT5(CONFIG)

    @jax.jit
    def held(params: Any) -> tuple[jax.Array, jax.Array]:
        selection: Any = run_prefix(model, params, batch["encoder_input_tokens"]).selection
        return selection.keep, selection.signals.confidence

    @jax.jit
    def loss(params: Any, keep: jax.Array, confidence: jax.Array) -> jax.Array:
        prefix: Any = run_prefix(model, params, batch["encoder_input_tokens"])
        moved = prefix.hidden * (1 + prefix.selection.signals.confidence - confidence)[..., None]
        compact = Compact(moved, jnp.arange(LENGTH)[None], Keys(keep))
        targets = Queries(weights > 0)
        after = run_second_stage(model, params, compact, batch["decoder_input_tokens"], targets=targets)
        losses = cross_entropy(after.logits, batch["decoder_target_tokens"], weights, 0.01)
        return jnp.sum(losses.nll + losses.z) / jnp.sum(weights)

    with jax.enable_x64(True):
        params, rng = make_params(CONFIG), np.random.default_rng(0)
        keep, confidence = held(params)
        assert 0.2 < np.asarray(keep)[np.asarray(batch["encoder_input_tokens"]) > 0].mean() < 0.8
        ours = total_of(CONFIG, (6, LENGTH), 2)(params)
        along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        ahead, behind = (
            loss(jax.tree.map(lambda leaf, by, sign=sign: leaf + sign * STEP * by, params, along), keep, confidence)
            for sign in (1, -1)
        )
    assert ours.loss == pytest.approx(float(ahead + behind) / 2, rel=1e-9)
    slope = sum(np.vdot(by_path(ours.gradients)[path], by) for path, by in by_path(along).items())
    assert slope == pytest.approx(float(ahead - behind) / (2 * STEP), rel=1e-6)
    for name in ("query", "key"):
        assert np.abs(by_path(ours.gradients)[f"encoder/gate/router/{name}"]).max() > 1e-4


def test_the_factor_is_one() -> None:
    """Logits are those of gathered states alone."""
    batch, model = jax.tree.map(jnp.asarray, make_batch()), MrT5(CONFIG)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, make_params(CONFIG))
        prefix: Any = jax.jit(run_prefix, static_argnums=0)(model, params, batch["encoder_input_tokens"])
        plain = Compact(prefix.hidden, jnp.arange(LENGTH)[None], Keys(prefix.selection.keep))
        second_stage = jax.jit(run_second_stage, static_argnums=0)
        expected = second_stage(model, params, plain, batch["decoder_input_tokens"]).logits
        setting = ForwardSetting(model, "hard", Ladder((LENGTH,)))
        ours = jax.jit(forward, static_argnums=0)(setting, params, batch).logits
        real = np.asarray(batch["encoder_input_tokens"] > 0).any(1)
        np.testing.assert_allclose(ours[real], expected[real], rtol=1e-12, atol=1e-12)
