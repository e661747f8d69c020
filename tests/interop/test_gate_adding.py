import dataclasses

import jax
import numpy as np
import pytest

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.gate_adding import add_gate


def test_the_rest_of_the_model_stays_as_it_was(byt5, random_params) -> None:
    params = random_params(byt5)
    gated = add_gate(params, byt5, GateConfig(layer=2), seed=0)
    assert gated.config == dataclasses.replace(byt5, gate=GateConfig(layer=2))
    before, after = names.unstack_layers(params, byt5), names.unstack_layers(gated.params, gated.config)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert all(np.shares_memory(after[name], before[name]) for name in before), "a model may take most of the memory"
    names.check_complete({n: a.shape for n, a in after.items()}, shapes_of(gated.config), "the model")


def shapes_of(config) -> dict[str, tuple[int, ...]]:
    return {tensor.name: names.shape(tensor, config) for tensor in names.tensors(config)}


def test_the_new_gate_has_the_authors_initial_values(byt5, random_params) -> None:
    gate = add_gate(random_params(byt5), byt5, GateConfig(layer=1, bias_init=7.0), seed=3).params["encoder"]["gate"]
    limit = (6 / (byt5.emb_dim + 1)) ** 0.5
    assert np.all(np.abs(gate["kernel"]) <= limit)
    assert np.std(gate["kernel"]) == pytest.approx(limit / 3**0.5, rel=0.5)  # of a uniform distribution; 8 draws
    assert gate["bias"] == 7.0
    assert np.all(gate["norm"]["scale"] == 1)


def test_a_gate_without_norm_has_no_scale(byt5, random_params) -> None:
    gate = add_gate(random_params(byt5), byt5, GateConfig(layer=1, layer_norm=False), seed=0).params["encoder"]["gate"]
    assert gate.keys() == {"kernel", "bias"}


def test_the_seed_decides_the_weights(byt5, random_params) -> None:
    first, again, other = (add_gate(random_params(byt5), byt5, GateConfig(layer=1), seed).params for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(first["encoder"]["gate"]["kernel"], other["encoder"]["gate"]["kernel"])


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_layer_that_leaves_no_prefix_or_suffix_is_refused(byt5, random_params, layer) -> None:
    with pytest.raises(UserError, match=f"--gate_layer={layer}: .* leave 1 to 2"):
        add_gate(random_params(byt5), byt5, GateConfig(layer=layer), seed=0)


def test_a_second_gate_is_refused(mrt5, random_params) -> None:
    with pytest.raises(UserError, match="has a gate already, at layer 1"):
        add_gate(random_params(mrt5), mrt5, GateConfig(layer=2), seed=0)
