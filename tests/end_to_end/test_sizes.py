"""Every size that is shipped, from its gin file to the shapes of its parameters; nothing is allocated."""

import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.config import ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5

MODELS = ["mrt5_small", *sorted(path.stem for path in Path(__file__).parents[2].glob("gin_configs/models/byt5_*.gin"))]


def num_parameters(config: ModelConfig) -> int:
    ids = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(MrT5(config).init, jax.random.key(0), ids, ids)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(shapes)))


def expected(config: ModelConfig) -> int:
    """Counted by hand: T5 v1.1's matrices and norms, two tables of relative biases, and the gate."""
    embed, attention = config.emb_dim, 4 * config.emb_dim * config.num_heads * config.head_dim
    mlp = 3 * embed * config.mlp_dim
    encoder = config.num_encoder_layers * (attention + mlp + 2 * embed)
    decoder = config.num_decoder_layers * (2 * attention + mlp + 3 * embed)
    gate = 0 if config.gate is None else 2 * embed + 1
    return 2 * config.vocab_size * embed + encoder + decoder + 2 * embed + 2 * 32 * config.num_heads + gate


@pytest.mark.parametrize("name", MODELS)
def test_size(name: str) -> None:
    config = gin_setup.resolve(["runs/quickstart.gin", f"models/{name}.gin"]).run.model
    assert num_parameters(config) == expected(config)
    if name == "byt5_small":
        assert num_parameters(config) == 299_637_760
