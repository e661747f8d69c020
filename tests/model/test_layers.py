"""How the layers' parameters begin, and that recomputing them in the backward pass changes nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import ExecutionConfig, Remat
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.axis_rules import LOGICAL_AXIS_RULES

from .small import make_batch, make_config, make_params

EMB, HEADS, HEAD_DIM, MLP, ENCODER, DECODER = 48, 3, 12, 80, 4, 2
WIDTH = HEADS * HEAD_DIM


def initialized(initialization: Any) -> dict[str, Any]:
    """Boxed parameters by path."""
    config = dataclasses.replace(
        make_config(initialization=initialization),
        emb_dim=EMB, num_heads=HEADS, head_dim=HEAD_DIM, mlp_dim=MLP,
        num_encoder_layers=ENCODER, num_decoder_layers=DECODER, vocab_size=100, relpos_num_buckets=32,
        relpos_max_distance=128,
    )  # fmt: skip
    ids = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(MrT5(config).init)(jax.random.key(0), ids, ids)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.fixture(scope="module", params=["t5", "reference"])
def parameters(request) -> tuple[str, dict[str, Any]]:
    return request.param, initialized(request.param)


def expected_std(path: str, initialization: str) -> float:
    """T5's scheme; the reference's has smaller embeddings, larger queries, and blocks scaled by layers^-1/2."""
    reference = initialization == "reference"
    if path == "token_embedder/embedding":
        return EMB**-0.5 if reference else 1.0
    if path == "decoder/logits_dense/kernel" or path.endswith("rel_embedding"):
        return EMB**-0.5
    if path == "encoder/gate/kernel":
        return (2 / (EMB + 1)) ** 0.5  # Xavier, uniform
    block = (ENCODER if path.startswith("encoder") else DECODER) ** -0.5 if reference else 1.0
    by_kernel = {
        "query": EMB**-0.5 if reference else (EMB * HEAD_DIM) ** -0.5,
        "key": EMB**-0.5,
        "value": EMB**-0.5,
        "out": WIDTH**-0.5,
        "wi_0": EMB**-0.5,
        "wi_1": EMB**-0.5,
        "wo": MLP**-0.5,
    }
    return block * by_kernel[path.split("/")[-2]]


def test_every_kind_of_parameter_begins_as_the_scheme_says(parameters) -> None:
    """Norms at 1, the gate's bias at c, everything else around 0 with its standard deviation."""
    initialization, leaves = parameters
    for path, boxed in leaves.items():
        values = np.asarray(boxed.value)
        assert values.dtype == np.float32
        if path.endswith("scale"):
            np.testing.assert_array_equal(values, 1)
        elif path == "encoder/gate/bias":
            np.testing.assert_array_equal(values, 0)  # the test model's c
        else:
            size, std = values.size, expected_std(path, initialization)
            assert abs(values.mean()) < 5 * std / size**0.5, path
            assert abs(values.std() / std - 1) < 5 / (2 * size) ** 0.5, path


def test_layers_of_a_stack_begin_differently(parameters) -> None:
    _, leaves = parameters
    for path, boxed in leaves.items():
        if boxed.names[0] == "layers" and not path.endswith("scale") and boxed.value.shape[0] > 1:
            assert abs(np.corrcoef(*np.asarray(boxed.value)[:2].reshape(2, -1))[0, 1]) < 0.2, path


def test_every_axis_of_every_parameter_has_a_name_with_a_rule(parameters) -> None:
    _, leaves = parameters
    for path, boxed in leaves.items():
        assert len(boxed.names) == boxed.value.ndim, path
        assert set(boxed.names) <= {name for name, _ in LOGICAL_AXIS_RULES}, path
        in_stack = {"prefix", "suffix", "layers"} & set(path.split("/"))
        assert (boxed.names[0] == "layers") == bool(in_stack), path


def prefix_gradient(remat: Remat) -> tuple[Callable[[Any], Any], Any]:
    """The gradient of a sum over the encoder's first stack and the gate, and what it is taken at."""
    config = make_config()
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_params(config))
    parts = {"token_embedder": params["token_embedder"], "encoder": params["encoder"]}
    tokens = jnp.asarray(make_batch()["encoder_input_tokens"])

    def total(parts: Any) -> jax.Array:
        prefix = MrT5(config, ExecutionConfig(remat=remat)).apply({"params": parts}, tokens, method="prefix")
        return jnp.sum(jnp.sin(prefix.hidden)) + jnp.sum(prefix.selection.signals.key_bias)

    return jax.grad(total), parts


def test_the_backward_pass_recomputes_what_remat_says() -> None:
    """Of a layer's matrix products, "full" computes all again, "dots" only attention's two, "none" none."""

    def products(remat: Remat) -> int:
        gradient, parts = prefix_gradient(remat)
        return str(jax.make_jaxpr(gradient)(parts)).count("dot_general[")

    none = products("none")
    assert products("dots") - none == 2
    assert products("full") - none == 2 + 6, "query, key, value, out, wi_0, wi_1; nothing needs what wo gives"


@pytest.mark.slow
def test_what_the_backward_pass_recomputes_does_not_change_gradients() -> None:
    """remat full and dots against none, through the encoder's first stack and the gate."""
    none, full, dots = (jax.jit(gradient)(parts) for gradient, parts in map(prefix_gradient, ("none", "full", "dots")))
    for other in (full, dots):
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4), none, other)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(none["encoder"]["prefix"]))
