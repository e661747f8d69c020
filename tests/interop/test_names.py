import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.model.encoder_decoder import MrT5

GATES = [None, GateConfig(layer=1), GateConfig(layer=2, layer_norm=False), GateConfig(layer=2, kind="random")]


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    encoder_layers = draw(st.integers(2, 5))
    gate = draw(st.none() | st.builds(GateConfig, layer=st.integers(1, encoder_layers - 1), layer_norm=st.booleans()))
    return ModelConfig(4, 2, 3, 5, encoder_layers, draw(st.integers(1, 4)), vocab_size=6, gate=gate)


def leaves(params) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_the_table_has_exactly_the_networks_parameters(byt5, random_params, gate) -> None:
    config = dataclasses.replace(byt5, gate=gate)
    tokens = jnp.ones((1, 4), jnp.int32)
    network = jax.eval_shape(MrT5(config).init, jax.random.key(0), tokens, tokens)["params"]
    assert leaves(random_params(config)) == leaves(meta.unbox(network))


@given(config=configs())
def test_stacked_layers_come_apart_as_they_were(config: ModelConfig) -> None:
    flat = {tensor.name: np.full(names.shape(tensor, config), i) for i, tensor in enumerate(names.tensors(config))}
    again = names.unstack_layers(names.stack_layers(flat, config), config)
    assert again.keys() == flat.keys()
    assert all(np.array_equal(again[name], flat[name]) for name in flat)


def test_encoder_layers_are_divided_at_the_gate(mrt5, flat_params) -> None:
    flat = flat_params(mrt5)
    params = names.stack_layers(flat, mrt5)["encoder"]
    query = "attention/query/kernel"
    assert np.array_equal(params["prefix"]["attention"]["query"]["kernel"][0], flat[f"encoder/layers_0/{query}"])
    assert np.array_equal(params["suffix"]["attention"]["query"]["kernel"][1], flat[f"encoder/layers_2/{query}"])


def test_parameters_of_another_config_are_named(byt5, mrt5, random_params) -> None:
    with pytest.raises(UserError, match=r"left over:.*encoder/gate/kernel.*wrong shape: encoder/prefix"):
        names.unstack_layers(random_params(mrt5), byt5)


def test_a_message_names_a_few_and_counts_the_rest(byt5) -> None:
    expected = {tensor.name: () for tensor in names.tensors(byt5)}
    with pytest.raises(UserError, match=rf"missing: token_embedder/embedding, .* and {len(expected) - 8} more$"):
        names.check_complete({}, expected, "file")
