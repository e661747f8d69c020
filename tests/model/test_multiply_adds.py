"""Counted multiply-adds are those that XLA counts in the compiled model."""

import jax
import jax.numpy as jnp
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import DataConfig, ExecutionConfig, GateConfig, ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward
from mrt5_jax.model.multiply_adds import (
    body_multiply_adds,
    body_share,
    forward_multiply_adds,
    row_cost,
    training_multiply_adds,
)
from mrt5_jax.tools.compiled import cost_of

UNROLLED = ExecutionConfig(scan_unroll=3, attention_rows="batched")
"""XLA counts a loop's body once."""

DATA = DataConfig("task", ("task",), input_length=96, target_length=40, batch_size=8, eval_batch_size=8)


def model(gate: GateConfig | None) -> ModelConfig:
    """Wide, so that elementwise work hardly counts."""
    return ModelConfig(64, 4, 32, 160, 3, 2, gate=gate)


@pytest.mark.parametrize(("gate", "kept_length"), [(None, 96), (GateConfig(layer=1), 32), (GateConfig(layer=1), 96)])
def test_the_forward_pass_agrees_with_the_compiler(gate: GateConfig | None, kept_length: int) -> None:
    config = model(gate)
    module = MrT5(config, UNROLLED)
    batch = {
        "encoder_input_tokens": jnp.ones((DATA.batch_size, DATA.input_length), jnp.int32),
        "decoder_input_tokens": jnp.ones((DATA.batch_size, DATA.target_length), jnp.int32),
    }
    params = jax.eval_shape(module.init, jax.random.key(0), *batch.values())["params"]
    params = jax.tree.map(lambda leaf: leaf.value, params, is_leaf=lambda leaf: hasattr(leaf, "names"))
    ladder = Ladder((kept_length,))
    compiled = (
        jax.jit(lambda p, b: forward(ForwardSetting(module, "hard", ladder), p, b).logits)
        .lower(params, batch)
        .compile()
    )
    flops = cost_of(compiled).flops
    assert flops is not None
    counted = 2 * DATA.batch_size * forward_multiply_adds(config, DATA, kept_length).total
    assert counted == pytest.approx(flops, rel=0.12)
    assert counted < flops, "elementwise work comes on top"


def test_a_training_step_is_three_forward_passes_of_the_batch_and_shorter_rows_cost_less() -> None:
    config = model(GateConfig(layer=1))
    one = forward_multiply_adds(config, DATA, 96)
    assert training_multiply_adds(config, DATA, 96) == 3 * DATA.batch_size * one.total
    shorter = forward_multiply_adds(config, DATA, 48)
    assert shorter.prefix == one.prefix
    assert shorter.suffix < one.suffix / 2
    assert shorter.decoder < one.decoder


def test_the_share_of_the_body_is_that_of_its_multiply_adds() -> None:
    """Of whole numbers and of arrays alike; at full length it is all."""
    config = model(GateConfig(layer=1))
    body, share = body_multiply_adds(config, DATA.target_length), body_share(config, DATA.target_length, 96)
    slots = [0, 1, 17, 95, 96]
    expected = [body(number) / body(96) for number in slots]
    assert [share(number) for number in slots] == pytest.approx(expected, rel=1e-12)
    assert share(jnp.asarray(slots, jnp.float32)) == pytest.approx(expected, rel=1e-6)
    counted = [forward_multiply_adds(config, DATA, number) for number in slots]
    assert [body(number) for number in slots] == [one.suffix + one.decoder for one in counted]


@pytest.mark.parametrize("gate", [None, GateConfig(layer=1), GateConfig(layer=2)])
def test_the_polynomials_of_a_row_are_its_multiply_adds(gate: GateConfig | None) -> None:
    """To the last one, at every length: tables of records have nothing else to count by."""
    config = model(gate)
    before, after = row_cost(config, DATA.target_length)
    for slots in (0, 1, 17, 96):
        counted = forward_multiply_adds(config, DATA, slots)
        assert after(slots) == counted.suffix + counted.decoder
        layers = gate.layer if gate else config.num_encoder_layers
        width = config.num_heads * config.head_dim
        layer = 4 * 96 * config.emb_dim * width + 2 * 96**2 * width + 3 * 96 * config.emb_dim * config.mlp_dim
        assert before(96) == counted.prefix == layers * layer + (96 * config.emb_dim if gate else 0)
