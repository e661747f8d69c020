"""The model of the benchmarks, with gates that keep what a benchmark wants."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import DataConfig, ExecutionConfig, GateConfig, ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix
from mrt5_jax.model.multiply_adds import forward_multiply_adds
from mrt5_jax.model.parameters import Params

CONFIG = ModelConfig(
    emb_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=9,
    num_decoder_layers=3,
    gate=GateConfig(layer=3),
    dropout_rate=0.0,
)
EXECUTION = ExecutionConfig(scan_unroll=9)
"""Without loops over layers: on a CPU they copy what the backward pass needs into stacks, a sixth of a step."""
BYT5 = dataclasses.replace(CONFIG, gate=None)
BATCH, LENGTH, TARGET = 8, 1024, 189
DATA = DataConfig("", (), LENGTH, TARGET, BATCH, BATCH)
RUNGS = (320, 512, 704)
"""With the full length: 31, 50, 69 and 100 %."""

STEEPNESS = 300.0
"""Of the gate: values are at 0 or at k, hardly ever between, as in a trained model."""

SPARE = 8
"""Positions that the fullest row keeps less than it might: bfloat16 rounds otherwise in another program, and with one
position too many it would run at the next rung."""


def make_batch(seed: int = 0, rows: int = BATCH) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, 259, (rows, TARGET), dtype=np.int32)
    arrays = {
        "encoder_input_tokens": rng.integers(3, 259, (rows, LENGTH), dtype=np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }
    return jax.tree.map(jnp.asarray, arrays)


def make_params(config: ModelConfig = CONFIG, seed: int = 0) -> Params:
    ids = jnp.ones((1, 4), jnp.int32)
    boxed = jax.jit(MrT5(config).init)(jax.random.key(seed), ids, ids)["params"]
    return jax.tree.map(
        lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
        boxed,
        is_leaf=lambda leaf: hasattr(leaf, "unbox"),
    )


def keeping(params: Params, batch: dict[str, jax.Array], most: int, config: ModelConfig = CONFIG) -> Params:
    """The parameters with a steep gate of which the batch's rows keep at most `most` positions, the fullest nearly."""
    gate = params["encoder"]["gate"]
    if most >= LENGTH:
        return _with_gate(params, {**gate, "kernel": 0 * gate["kernel"], "bias": jnp.full_like(gate["bias"], 50.0)})
    steep = {**gate, "kernel": gate["kernel"] * STEEPNESS, "bias": jnp.zeros_like(gate["bias"])}
    model, tokens = MrT5(config, EXECUTION), batch["encoder_input_tokens"]
    hidden = jax.jit(run_prefix, static_argnums=0)(model, params, tokens).hidden
    logits = np.sort(np.asarray(_gate_logits(hidden.astype(jnp.float32), steep, config)), axis=1)[:, ::-1]
    # The first logit that goes becomes -0.75 in the row where it is highest: a gate value of -20.4, which saturated
    # deletion removes too.
    return _with_gate(params, {**steep, "bias": jnp.full_like(gate["bias"], -logits[:, most - SPARE].max() - 0.75)})


def _with_gate(params: Params, gate: Any) -> Params:
    return {**params, "encoder": {**params["encoder"], "gate": gate}}


def _gate_logits(hidden: jax.Array, gate: Any, config: ModelConfig) -> jax.Array:
    normed = hidden * jax.lax.rsqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + config.layer_norm_epsilon)
    return (normed * gate["norm"]["scale"][None, None, :] @ gate["kernel"])[..., 0]


def multiply_adds(kept_length: int, config: ModelConfig = CONFIG, rows: int = BATCH) -> float:
    """Of a forward pass over a batch."""
    return float(rows * forward_multiply_adds(config, DATA, kept_length).total)
